//! What goes wrong on purpose.
//!
//! A plan is a JSON list of rules; the first that matches a call counts:
//!
//! ```json
//! [{"match": {"command": "launch", "name": "dev1", "nth": 1}, "delay_ms": 100, "daemon": "dies"}]
//! ```
//!
//! `command` may be `*`. Besides: `fail` (a class: its usual complaint), `stderr` and `exit` (any other), `daemon`
//! (`down`, `dies`, `hangs`, `unauthenticated`), `garble_json`, `truncate_stdout` (bytes), `kill_self_after_ms`,
//! `ignore_sigterm`, and for launches `boot_ms` (until SSH answers), `boot` (`ssh-timeout`, `cloud-init-timeout`,
//! `cloud-init-error`, `fails`) and `late_ms` (when the instance shows up after the daemon died).

use serde::Deserialize;

use super::state::Store;

/// One rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Which calls it hits.
    #[serde(rename = "match")]
    pub matches: Match,
    /// Time before anything happens; not scaled.
    pub delay_ms: u64,
    /// Class of failure.
    pub fail: Option<String>,
    /// Text of a failure.
    pub stderr: Option<String>,
    /// Exit status.
    pub exit: Option<u8>,
    /// The client is killed after this long.
    pub kill_self_after_ms: Option<u64>,
    /// Prints something that is no JSON.
    pub garble_json: bool,
    /// Prints only this much.
    pub truncate_stdout: Option<usize>,
    /// Ignores SIGTERM.
    pub ignore_sigterm: bool,
    /// What the daemon does.
    pub daemon: Option<String>,
    /// Time until SSH answers; not scaled.
    pub boot_ms: Option<u64>,
    /// How booting ends.
    pub boot: Option<String>,
    /// When an instance shows up whose launch the daemon did not survive; not scaled.
    pub late_ms: u64,
}

/// Which calls a rule hits.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Match {
    /// The command, or `*`.
    pub command: String,
    /// One of the arguments.
    pub name: Option<String>,
    /// Only this one of the calls that match otherwise, counted from 1.
    pub nth: Option<u64>,
}

/// The rule for this call, if there is one.
pub(super) fn rule(store: &Store, argv: &[String]) -> Option<Rule> {
    let text = match std::env::var("FAKE_MULTIPASS_PLAN") {
        Ok(text) if text.trim_start().starts_with('[') => text,
        Ok(path) if !path.is_empty() => std::fs::read_to_string(path).ok()?,
        _ => std::fs::read_to_string(store.path("plan.json")).ok()?,
    };
    let rules: Vec<Rule> = match serde_json::from_str(&text) {
        Ok(rules) => rules,
        Err(e) => {
            eprintln!("stand-in: the plan is not understood: {e}");
            std::process::exit(70);
        }
    };
    let command = argv.first().map_or("", String::as_str);
    rules.into_iter().enumerate().find_map(|(at, rule)| {
        let name = |n: &String| {
            argv.iter()
                .skip(1)
                .any(|a| a == n || a.strip_prefix(n.as_str()).is_some_and(|r| r.starts_with([':', '.'])))
        };
        let hit = (rule.matches.command == "*" || rule.matches.command == command)
            && rule.matches.name.as_ref().is_none_or(name);
        if !hit {
            return None;
        }
        match rule.matches.nth {
            Some(nth) => (store.count(&format!("rule-{at}")) == nth).then_some(rule),
            None => Some(rule),
        }
    })
}

/// The complaint of a class of failure.
pub(super) fn complaint(class: &str, command: &str, name: &str) -> (u8, String) {
    let text = match class {
        "not_found" => format!("{command} failed: instance \"{name}\" does not exist\n"),
        "deleted" => format!("{command} failed: instance \"{name}\" is deleted\n"),
        "already_exists" => format!("{command} failed: instance \"{name}\" already exists\n"),
        "being_prepared" => format!("{command} failed: instance \"{name}\" is being prepared\n"),
        "permission_denied" => format!("{command} failed: multipass socket access denied\n"),
        "ssh" => format!("{command} failed: ssh connection failed: 'Connection refused'\n"),
        "hypervisor" => format!("{command} failed: KVM support is not enabled on this machine.\n"),
        "not_installed" => {
            return (
                1,
                "failed to open file '/var/snap/multipass/common/data/multipassd/multipass_root_cert.pem': \
                 No such file or directory\n"
                    .to_owned(),
            );
        }
        other => format!("{command} failed: {other}\n"),
    };
    (2, text)
}
