//! The original's arguments and environment, as Python's argparse reads them.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use fleetcore::Result;
use futures::future::BoxFuture;
use secrecy::SecretString;

use super::server;
use crate::{
    ServerConfig,
    compat::{Call, Dialect, Exits, Host, Plan, Refusal, Service},
};

/// Exit code for arguments that make no sense.
const USAGE: u8 = 2;
/// Exit code for a plugin nobody knows, and for a port somebody has.
const REFUSED: u8 = 1;
/// Exit code when the start fails.
const FAILED: u8 = 3;
/// Variable of the key; no child sees it.
const KEY: &str = "SESSION_API_KEY";

const OPTIONS: [&str; 8] = [
    "--help",
    "--working-dir",
    "--plugins",
    "--username",
    "--user-id",
    "--enable-browser",
    "--no-enable-browser",
    "--browsergym-eval-env",
];

const USAGE_TEXT: &str = "[-h] [--working-dir WORKING_DIR] [--plugins PLUGINS [PLUGINS ...]] [--username USERNAME] \
                          [--user-id USER_ID] [--enable-browser | --no-enable-browser] \
                          [--browsergym-eval-env BROWSERGYM_EVAL_ENV] port";

const HELP: &str = "
OpenHands' runtime: runs the actions of an AI coding agent in this sandbox, one after another.

positional arguments:
  port                  Port to listen on, at all IPv4 addresses as the original

options:
  -h, --help            show this help message and exit
  --working-dir WORKING_DIR
                        Working directory; made when it is missing (required)
  --plugins PLUGINS [PLUGINS ...]
                        Plugins to start: jupyter, agent_skills, vscode
  --username USERNAME   User of the shell; made when it is missing (default: openhands)
  --user-id USER_ID     Id of that user (default: 1000)
  --enable-browser, --no-enable-browser
                        Browser actions, with a Chromium that is installed; without one they are answered with
                        an error (default: enabled)
  --browsergym-eval-env BROWSERGYM_EVAL_ENV
                        Refused: this runtime has no BrowserGym tasks
  environment: SESSION_API_KEY, NO_CHANGE_TIMEOUT_SECONDS, SU_TO_USER, RUNTIME_USERNAME, SANDBOX_GROUP_ID,
               INIT_PLUGIN_TIMEOUT, RUNTIME_MAX_MEMORY_GB, LOCAL_RUNTIME_MODE, OPENHANDS_REPO_PATH, VSCODE_PORT,
               OPENVSCODE_SERVER_ROOT, OPENVSCODE_SERVER_BASE_PATH, RUNTIME_ID, RUNTIME_URL, WORKSPACE_BASE,
               WORKSPACE_MOUNT_PATH_IN_SANDBOX, FLEETCORE_CHROMIUM, FLEETCORE_CHROMIUM_NO_SANDBOX
";

/// The runtime.
pub(crate) static RUNTIME: Openhands = Openhands;

/// See [`RUNTIME`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Openhands;

/// Which plugins were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plugins {
    pub(super) jupyter: bool,
    pub(super) agent_skills: bool,
    pub(super) vscode: bool,
}

/// How the runtime runs.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) listen: SocketAddr,
    pub(super) working_dir: String,
    pub(super) plugins: Plugins,
    pub(super) username: String,
    pub(super) user_id: u32,
    pub(super) browser: bool,
    pub(super) key: Option<SecretString>,
    /// After this many seconds without output a command is answered.
    pub(super) soft: u64,
    pub(super) su: bool,
    pub(super) plugin_timeout: Duration,
    /// What everything it starts may hold in memory together.
    pub(super) memory_max_bytes: Option<u64>,
    /// What children see.
    pub(super) env: BTreeMap<String, String>,
}

impl Options {
    /// A variable that is set and not empty.
    pub(super) fn var(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// Whether the shell and the helpers of plugins run as the user, and not as whoever started the runtime.
    pub(super) fn switches_user(&self) -> bool {
        self.su
            && (matches!(self.username.as_str(), "root" | "openhands")
                || self.var("RUNTIME_USERNAME") == Some(self.username.as_str()))
    }
}

impl Openhands {
    /// The options of a call.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) fn options(self, call: &Call) -> Result<Options, Refusal> {
        options(call)
    }
}

#[derive(Default)]
struct Given {
    port: Option<String>,
    values: BTreeMap<&'static str, String>,
    plugins: Option<Vec<String>>,
    browser: Option<bool>,
}

impl Dialect for Openhands {
    fn name(&self) -> &'static str {
        "openhands-runtime"
    }
    fn aliases(&self) -> &'static [&'static str] {
        &["action_execution_server.py", "action_execution_server"]
    }
    fn about(&self) -> &'static str {
        "OpenHands' runtime: shell, files and tools of an AI coding agent"
    }
    fn parse(&self, call: &Call) -> Result<Box<dyn Plan>, Refusal> {
        Ok(Box::new(self.options(call)?))
    }
}

impl Plan for Options {
    fn config(&self) -> ServerConfig {
        let mut config = ServerConfig::on(self.listen);
        // A shell that was told to end has done so long before.
        config.shutdown_grace = Duration::from_secs(5);
        config
    }
    fn data_dir(&self) -> Option<PathBuf> {
        None
    }
    fn keeps_records(&self) -> bool {
        false
    }
    fn secrets(&self) -> &'static [&'static str] {
        &[KEY]
    }
    fn exits(&self) -> Exits {
        Exits::with_codes(REFUSED, FAILED).of_signal()
    }
    fn start(self: Box<Self>, host: Host) -> BoxFuture<'static, Result<Service>> {
        Box::pin(async move { server::start(*self, host) })
    }
}

fn options(call: &Call) -> Result<Options, Refusal> {
    let name = &call.name;
    let usage =
        |why: String| Refusal::new(USAGE, format!("usage: {name} {USAGE_TEXT}\n{name}: error: {why}\n"));
    let given = read(call).map_err(|why| match why {
        Some(why) => usage(why),
        None => Refusal::new(0, format!("usage: {name} {USAGE_TEXT}\n{HELP}")),
    })?;
    let int = |what: &str, text: &str| {
        integer(text)
            .ok_or_else(|| usage(format!("argument {what}: invalid int value: '{}'", text.escape_debug())))
    };
    let port = match &given.port {
        Some(text) => int("port", text)?,
        None => return Err(usage("the following arguments are required: port".to_owned())),
    };
    let user_id = given.values.get("--user-id").map_or(Ok(1000), |text| int("--user-id", text))?;

    let failed = |why: String| Refusal::new(FAILED, format!("{why}\n"));
    let mut plugins = Plugins::default();
    for plugin in given.plugins.iter().flatten() {
        match plugin.as_str() {
            "jupyter" => plugins.jupyter = true,
            "agent_skills" => plugins.agent_skills = true,
            "vscode" => plugins.vscode = true,
            other => {
                let why = format!("Plugin {} not found\n", other.escape_debug());
                return Err(Refusal::new(REFUSED, why));
            }
        }
    }
    let Ok(port) = u16::try_from(port) else {
        return Err(Refusal::new(REFUSED, format!("port {port}: must be 0-65535\n")));
    };
    let user_id = u32::try_from(user_id).map_err(|_| failed(format!("--user-id {user_id}: no such id")))?;
    let mut env = call.env.clone();
    let key = env.remove(KEY).filter(|k| !k.is_empty()).map(SecretString::from);
    let set = |name: &str| env.get(name).map(String::as_str);
    let whole = |name: &str| match set(name) {
        None => Ok(None),
        Some(text) => integer(text).map(Some).ok_or_else(|| {
            failed(format!("{name}: invalid literal for int() with base 10: '{}'", text.escape_debug()))
        }),
    };
    let soft = match whole("NO_CHANGE_TIMEOUT_SECONDS")? {
        None => 10,
        Some(n) => u64::try_from(n)
            .map_err(|_| failed("NO_CHANGE_TIMEOUT_SECONDS: must not be negative".to_owned()))?,
    };
    let plugin_timeout = match whole("INIT_PLUGIN_TIMEOUT")? {
        None => 120,
        Some(n) => {
            u64::try_from(n).map_err(|_| failed("INIT_PLUGIN_TIMEOUT: must not be negative".to_owned()))?
        }
    };
    // The original takes any number, and does nothing with it.
    let memory_max_bytes = whole("RUNTIME_MAX_MEMORY_GB")?
        .and_then(|gb| u64::try_from(gb).ok()?.checked_mul(1 << 30))
        .filter(|bytes| *bytes > 0);
    let browser = given.browser.unwrap_or(true);
    match given.values.get("--browsergym-eval-env") {
        Some(_) if !browser => {
            return Err(failed(
                "Browser environment is not enabled in config, but browsergym_eval_env is set".to_owned(),
            ));
        }
        Some(_) => {
            return Err(failed("--browsergym-eval-env: this runtime has no BrowserGym tasks".to_owned()));
        }
        None => {}
    }
    let working_dir = given.values.get("--working-dir").cloned().unwrap_or_default();
    if !working_dir.starts_with('/') {
        return Err(failed("--working-dir is required and must be an absolute path".to_owned()));
    }
    let truths = ["1", "true", "t", "yes", "y", "on"];
    let su = set("SU_TO_USER").is_none_or(|v| truths.contains(&v.to_ascii_lowercase().as_str()));
    Ok(Options {
        listen: call.listen.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        working_dir: without_trailing_slash(working_dir),
        plugins,
        username: given.values.get("--username").cloned().unwrap_or_else(|| "openhands".to_owned()),
        user_id,
        browser,
        key,
        soft,
        su,
        plugin_timeout: Duration::from_secs(plugin_timeout),
        memory_max_bytes,
        env,
    })
}

fn without_trailing_slash(mut path: String) -> String {
    while path.len() > 1 && path.ends_with('/') {
        path.pop();
    }
    path
}

/// As Python's `int()`.
fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let good = !digits.is_empty()
        && !digits.starts_with('_')
        && !digits.ends_with('_')
        && !digits.contains("__")
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    if good { text.replace('_', "").parse().ok() } else { None }
}

/// Whether argparse takes it for an option: numbers are none, and neither is what has a blank in it.
fn is_option(arg: &str) -> bool {
    arg.len() > 1 && arg.starts_with('-') && arg.parse::<f64>().is_err() && !arg.contains(' ')
}

/// Reads the arguments. The error is what is wrong with them, or nothing when help is asked for.
fn read(call: &Call) -> Result<Given, Option<String>> {
    let mut given = Given::default();
    let mut extra = Vec::new();
    let mut args = call.args.iter().peekable();
    let mut only_words = false;
    while let Some(arg) = args.next() {
        if only_words || !is_option(arg) {
            match given.port {
                None => given.port = Some(arg.clone()),
                Some(_) => extra.push(arg.escape_debug().to_string()),
            }
            continue;
        }
        if arg == "--" {
            only_words = true;
            continue;
        }
        if arg == "-h" {
            return Err(None);
        }
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let option = match OPTIONS.iter().find(|o| **o == name) {
            Some(option) => *option,
            None => {
                let like: Vec<&str> =
                    OPTIONS.iter().filter(|o| name.len() > 2 && o.starts_with(name)).copied().collect();
                match like.as_slice() {
                    [one] => *one,
                    [] => {
                        extra.push(arg.escape_debug().to_string());
                        continue;
                    }
                    several => {
                        return Err(Some(format!(
                            "ambiguous option: {} could match {}",
                            arg.escape_debug(),
                            several.join(", ")
                        )));
                    }
                }
            }
        };
        match option {
            "--help" => return Err(None),
            "--enable-browser" | "--no-enable-browser" => {
                if let Some(value) = inline {
                    return Err(Some(format!(
                        "argument --enable-browser/--no-enable-browser: ignored explicit argument '{}'",
                        value.escape_debug()
                    )));
                }
                given.browser = Some(option == "--enable-browser");
            }
            "--plugins" => {
                let mut all: Vec<String> = inline.clone().into_iter().collect();
                while inline.is_none()
                    && let Some(word) = args.next_if(|a| !is_option(a))
                {
                    all.push(word.clone());
                }
                if all.is_empty() {
                    return Err(Some("argument --plugins: expected at least one argument".to_owned()));
                }
                given.plugins = Some(all);
            }
            _ => {
                let value = inline.or_else(|| args.next_if(|a| !is_option(a)).cloned());
                let Some(value) = value else {
                    return Err(Some(format!("argument {option}: expected one argument")));
                };
                given.values.insert(option, value);
            }
        }
    }
    if given.port.is_some() && !extra.is_empty() {
        return Err(Some(format!("unrecognized arguments: {}", extra.join(" "))));
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Options, Refusal> {
        options(&Call::new("prog").with_args(args.to_vec()).with_env(env.to_vec()))
    }

    #[test]
    fn the_call_of_the_client() {
        let args = [
            "30001",
            "--working-dir",
            "/workspace/",
            "--plugins",
            "agent_skills",
            "jupyter",
            "vscode",
            "--username",
            "root",
            "--user-id",
            "0",
            "--no-enable-browser",
        ];
        let env = [(KEY, "s3cret"), ("NO_CHANGE_TIMEOUT_SECONDS", "3"), ("PATH", "/bin")];
        let options = parse(&args, &env).unwrap();
        assert_eq!(options.listen.to_string(), "0.0.0.0:30001");
        assert_eq!((options.working_dir.as_str(), options.username.as_str()), ("/workspace", "root"));
        assert!(options.plugins == Plugins { jupyter: true, agent_skills: true, vscode: true });
        assert!(!options.browser && options.soft == 3 && options.user_id == 0);
        assert_eq!(options.key.as_ref().unwrap().expose_secret(), "s3cret");
        // DEFECT 17: children do not see it, and neither does a log.
        assert_eq!(options.env.keys().collect::<Vec<_>>(), ["NO_CHANGE_TIMEOUT_SECONDS", "PATH"]);
        assert!(!format!("{options:?}").contains("s3cret"));
        assert!(options.switches_user());
    }

    #[test]
    fn spellings_and_defaults() {
        let options = parse(&["--work=/w", "--plugins=jupyter", "--user-id", "7", "1_000"], &[]).unwrap();
        assert_eq!(options.listen.port(), 1000);
        assert!(options.plugins.jupyter && options.browser && options.soft == 10 && options.key.is_none());
        assert_eq!((options.username.as_str(), options.user_id, options.su), ("openhands", 7, true));
        let env = [("SU_TO_USER", "False"), (KEY, "")];
        let options = parse(&["1", "--working-dir", "/w", "--username", "me"], &env).unwrap();
        assert!(!options.su && options.key.is_none() && !options.switches_user());
    }

    #[test]
    fn exit_codes_of_the_original() {
        let good = ["1", "--working-dir", "/w"];
        for (args, env, code, says) in [
            (&[][..], &[][..], 2, "the following arguments are required: port"),
            (&["abc"], &[], 2, "argument port: invalid int value: 'abc'"),
            (&["1", "--bogus"], &[], 2, "unrecognized arguments: --bogus"),
            (&["1", "2"], &[], 2, "unrecognized arguments: 2"),
            (&["--plugins", "jupyter", "1"], &[], 2, "required: port"),
            (&["1", "--plugins"], &[], 2, "expected at least one argument"),
            (&["1", "--user-id", "x"], &[], 2, "argument --user-id: invalid int value"),
            (&["1", "--user"], &[], 2, "ambiguous option: --user could match --username, --user-id"),
            (&["1", "--working-dir"], &[], 2, "expected one argument"),
            (&["1", "--working-dir", "/w", "--plugins", "x"], &[], 1, "Plugin x not found"),
            (&["70000", "--working-dir", "/w"], &[], 1, "70000"),
            (&["1"], &[], 3, "--working-dir"),
            (&["1", "--working-dir", "rel"], &[], 3, "--working-dir"),
            (&good, &[("NO_CHANGE_TIMEOUT_SECONDS", "1.5")], 3, "NO_CHANGE_TIMEOUT_SECONDS"),
            (&good, &[("RUNTIME_MAX_MEMORY_GB", "x")], 3, "RUNTIME_MAX_MEMORY_GB"),
            (
                &["1", "--working-dir", "/w", "--no-enable-browser", "--browsergym-eval-env", "e"],
                &[],
                3,
                "Browser environment is not enabled in config, but browsergym_eval_env is set",
            ),
        ] {
            let refusal = parse(args, env).unwrap_err();
            assert!(refusal.code == code && refusal.text.contains(says), "{args:?} {env:?}: {refusal:?}");
        }
        let help = parse(&["-h"], &[]).unwrap_err();
        assert!(help.code == 0 && help.text.contains("--working-dir"));
    }
}
