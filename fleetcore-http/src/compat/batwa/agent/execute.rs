//! `/api/execute`: Multipass with any arguments, as far as that is safe.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    response::Response,
};

use super::routes::{Agent, taken};
use crate::{
    compat::batwa::{
        checks, map, reply,
        vms::{Printed, VmError},
        wire::Executed,
    },
    extract::peer_ip,
};

/// Longest a command may take, and how long it may when nobody says.
const LIMIT: Duration = Duration::from_secs(300);
/// What touches instances only. The rest reads or shares files of this host, changes settings of the daemon, or waits
/// for a terminal.
const ALLOWED: &[&str] = &[
    "clone", "delete", "exec", "find", "get", "help", "info", "launch", "list", "networks", "purge",
    "recover", "restart", "restore", "snapshot", "start", "stop", "suspend", "version",
];
/// What a launch may be told; other options read files of this host or share its directories.
const LAUNCH: &[&str] = &["--name", "-n", "--cpus", "-c", "--memory", "-m", "--disk", "-d", "--timeout"];

/// Why these arguments are refused, if they are.
pub(super) fn forbidden(args: &[String]) -> Option<String> {
    let Some(command) = args.first() else { return Some("no multipass command is named".to_owned()) };
    if !ALLOWED.contains(&command.as_str()) {
        let shown: String = command.chars().take(64).collect();
        return Some(format!("multipass {} is not allowed here", shown.escape_debug()));
    }
    if command != "launch" {
        return None;
    }
    let mut rest = args.iter().skip(1);
    while let Some(arg) = rest.next() {
        let (name, inline) = arg.split_once('=').map_or((arg.as_str(), false), |(name, _)| (name, true));
        if arg.starts_with('-') {
            if !LAUNCH.contains(&name) {
                return Some(format!("multipass launch {} is not allowed here", name.escape_debug()));
            }
            if !inline && rest.next().is_none() {
                return Some(format!("multipass launch {name} needs a value"));
            }
        } else if arg.to_ascii_lowercase().starts_with("file:") {
            return Some("multipass launch from a file is not allowed here".to_owned());
        }
    }
    None
}

fn not_run(error: String) -> Executed {
    Executed { return_code: -1, error: Some(error), ..Executed::default() }
}

/// `POST /api/execute`
pub(super) async fn execute(State(agent): State<Arc<Agent>>, request: Request) -> Response {
    let (parts, body) = match taken(&agent, request).await {
        Ok(taken) => taken,
        Err(response) => return response,
    };
    let peer = peer_ip(&parts.extensions);
    if agent.key.is_none() && !peer.is_loopback() && !agent.open_execute {
        return reply::bad_key();
    }
    let wanted = match checks::execute(&parts.headers, &body) {
        Ok(wanted) => wanted,
        Err(refused) => return reply::refused(refused),
    };
    // Only the command: what follows may be anything, secrets included.
    let shown: String = wanted.args.first().map(|a| a.chars().take(64).collect()).unwrap_or_default();
    let command = shown.escape_debug().to_string();
    if let Some(why) = forbidden(&wanted.args).filter(|_| !agent.execute_any) {
        tracing::warn!(command, %peer, "execute refused");
        return reply::json(&not_run(why));
    }
    tracing::info!(command, %peer, "execute");
    let asked = wanted.timeout_s.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
    let limit = asked.unwrap_or(LIMIT).min(LIMIT);
    let (vms, keeper) = (agent.vms.clone(), agent.clone());
    let work = async move {
        let ran = vms.run(wanted.args, limit).await;
        keeper.outdate();
        keeper.vms.changed().await;
        ran
    };
    let ran = agent.app.tasks().spawn(work).await;
    reply::json(&match ran {
        Ok(Ok(printed)) => executed(&printed),
        // In the original these two count as commands that failed.
        Ok(Err(VmError::NotInstalled)) => failed(map::NOT_INSTALLED.to_owned()),
        Ok(Err(VmError::TimedOut)) if limit == LIMIT => failed(map::TIMED_OUT.to_owned()),
        Ok(Err(VmError::TimedOut)) => failed(format!("Command timed out after {} seconds", limit.as_secs())),
        Ok(Err(error)) => not_run(error.text("multipass cannot be run")),
        Err(_) => not_run("the agent is stopping".to_owned()),
    })
}

fn failed(stderr: String) -> Executed {
    let (stdout, stderr) = (Some(String::new()), Some(stderr));
    Executed { success: false, stdout, stderr, return_code: 1, error: None, exit_code: None }
}

fn executed(printed: &Printed) -> Executed {
    let text = |data: &[u8]| Some(String::from_utf8_lossy(data).into_owned());
    let success = printed.code == Some(0);
    Executed {
        success,
        stdout: text(&printed.stdout),
        stderr: text(&printed.stderr),
        return_code: i32::from(!success),
        error: None,
        exit_code: printed.code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_this_host_stay_its_own() {
        let words =
            |text: &str| text.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        for bad in [
            "",
            "mount / web",
            "umount web",
            "transfer /etc/shadow web:x",
            "copy-files /etc/shadow web:x",
            "set local.driver=lxd",
            "shell web",
            "authenticate",
            "--version",
            "launch 22.04 --mount /:/host",
            "launch 22.04 --mount=/:/host",
            "launch --cloud-init /etc/shadow",
            "launch file:///etc/shadow",
            "launch FILE:///etc/shadow --name x",
            "launch --name",
        ] {
            assert!(forbidden(&words(bad)).is_some(), "{bad}");
        }
        for good in [
            "version",
            "list --format json",
            "exec web -- sh -c id",
            "launch 22.04 --name a --cpus 2 -m 1G --disk=5G",
            "stop --all",
        ] {
            assert_eq!(forbidden(&words(good)), None, "{good}");
        }
    }
}
