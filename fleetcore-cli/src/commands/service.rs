//! The text of service definitions: a systemd unit, a launchd property list. Nothing secret is in them.

use std::{fmt::Write as _, path::PathBuf};

use fleetcore::{Error, Result};

/// Name of the unit, and of the state directory of a system service.
pub(super) const UNIT: &str = "fleetcore-agent";
/// Label for launchd.
pub(super) const LABEL: &str = "dev.fleetcore.agent";

/// Exit codes after which a new start would not help: bad settings (64), put out by the server because another agent
/// has the name (75), removed from the server or a token that is not known there or cannot be read (77).
const FINAL: &str = "64 75 77";

/// What to run, and how.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// For the whole host rather than for one user.
    pub(super) system: bool,
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// As whom, for a system service; otherwise root.
    pub(super) run_as: Option<String>,
    /// Directory it writes to.
    pub(super) dir: PathBuf,
    /// The usual directory of a system service, which systemd makes.
    pub(super) usual_dir: bool,
    /// Commands may change nothing but the agent's directory and /tmp.
    pub(super) confine: bool,
    /// Where launchd writes the log.
    pub(super) log: PathBuf,
}

/// Refuses what no line of a unit can hold.
fn check(service: &Service) -> Result<()> {
    let dir = service.dir.display().to_string();
    let texts = service.command.iter().chain(service.run_as.as_ref()).chain([&dir]);
    if texts.into_iter().any(|t| t.chars().any(char::is_control)) {
        return Err(Error::invalid("arguments", "without control characters"));
    }
    let name = |n: &str| {
        !n.is_empty()
            && !n.starts_with('-')
            && n.chars().all(|c| c.is_ascii_alphanumeric() || "_-.$".contains(c))
    };
    if service.run_as.as_deref().is_some_and(|n| !name(n)) {
        return Err(Error::invalid("run_as", "the name of a user"));
    }
    Ok(())
}

/// One argument of `ExecStart=`: quoted, and without a meaning for systemd (systemd.service(5), "Command lines").
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.:=@+,[]".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' | '$' => out.extend([c, c]),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A path as the value of a setting: no quotes there, only specifiers and spaces count.
fn path_value(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "%%").replace(' ', "\\x20")
}

/// The unit for systemd.
///
/// # Errors
/// `InvalidInput` for arguments with control characters or a user name that is none.
pub(super) fn systemd(service: &Service) -> Result<String> {
    check(service)?;
    let mut unit =
        String::from("# Written by `fleetcore agent install`.\n[Unit]\nDescription=fleetcore agent\n");
    if service.system {
        unit.push_str("Wants=network-online.target\nAfter=network-online.target\n");
    }
    // It comes back by itself for as long as it takes.
    unit.push_str("StartLimitIntervalSec=0\n\n[Service]\nType=exec\n");
    let command: Vec<String> = service.command.iter().map(|a| quoted(a)).collect();
    let _ = writeln!(unit, "ExecStart={}", command.join(" "));
    let _ = writeln!(unit, "Restart=always\nRestartSec=5\nRestartPreventExitStatus={FINAL}");
    // The agent ends its commands itself; what is left after that is killed. A command that runs out of memory is not
    // the agent's end. Its own control group is needed for limits of commands.
    unit.push_str("KillMode=mixed\nTimeoutStopSec=30\nOOMPolicy=continue\nDelegate=yes\nTasksMax=infinity\n");
    unit.push_str(
        "LimitNOFILE=524288\n\n# Secrets: no core dumps, files for the owner alone.\nLimitCORE=0\n",
    );
    unit.push_str("UMask=0077\n");
    if service.system {
        if let Some(user) = &service.run_as {
            let _ = writeln!(unit, "User={user}");
        }
        if service.usual_dir {
            let _ = writeln!(unit, "StateDirectory={UNIT}\nStateDirectoryMode=0700");
        }
        unit.push_str(
            "\n# Nothing a command has to do with: the kernel's settings, modules, log and clock.\n\
             KeyringMode=private\nProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectKernelLogs=yes\n\
             ProtectClock=yes\nLockPersonality=yes\nRestrictRealtime=yes\nSystemCallArchitectures=native\n",
        );
    }
    if service.confine {
        unit.push_str(
            "\n# Confined: commands read the host and change nothing of it; no sudo.\n\
             NoNewPrivileges=yes\nProtectSystem=strict\nProtectHome=read-only\nPrivateTmp=yes\nRestrictSUIDSGID=yes\n\
             ProtectHostname=yes\n",
        );
        if service.system {
            unit.push_str("PrivateDevices=yes\nCapabilityBoundingSet=\n");
        }
        let _ = writeln!(unit, "ReadWritePaths={}", path_value(&service.dir.display().to_string()));
    }
    let wanted_by = if service.system { "multi-user.target" } else { "default.target" };
    let _ = writeln!(unit, "\n[Install]\nWantedBy={wanted_by}");
    Ok(unit)
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The property list for launchd.
///
/// # Errors
/// As [`systemd`]; `InvalidInput` for a confined service, which launchd cannot make.
pub(super) fn launchd(service: &Service) -> Result<String> {
    check(service)?;
    if service.confine {
        return Err(Error::invalid("confine", "left out: launchd cannot confine a service"));
    }
    let mut plist = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\">\n<dict>\n",
    );
    let _ = writeln!(
        plist,
        "  <key>Label</key><string>{LABEL}</string>\n  <key>ProgramArguments</key>\n  <array>"
    );
    for argument in &service.command {
        let _ = writeln!(plist, "    <string>{}</string>", xml(argument));
    }
    plist.push_str("  </array>\n");
    if let Some(user) = service.run_as.as_ref().filter(|_| service.system) {
        let _ = writeln!(plist, "  <key>UserName</key><string>{}</string>", xml(user));
    }
    // A mode is a decimal number there: 63 is 077.
    plist.push_str(
        "  <key>RunAtLoad</key><true/>\n  <key>KeepAlive</key><true/>\n  \
         <key>ThrottleInterval</key><integer>10</integer>\n  <key>ExitTimeOut</key><integer>30</integer>\n  \
         <key>Umask</key><integer>63</integer>\n  <key>SoftResourceLimits</key>\n  <dict>\n    \
         <key>Core</key><integer>0</integer>\n    <key>NumberOfFiles</key><integer>65536</integer>\n  </dict>\n",
    );
    let log = xml(&service.log.display().to_string());
    let _ = writeln!(plist, "  <key>StandardErrorPath</key><string>{log}</string>\n</dict>\n</plist>");
    Ok(plist)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(system: bool) -> Service {
        let command =
            ["/usr/local/bin/fleetcore", "agent", "--server", "https://fleet.example", "--agent-dir"];
        let dir =
            if system { "/var/lib/fleetcore-agent" } else { "/home/jo/.local/share/fleetcore/agent-data" };
        Service {
            system,
            command: command.into_iter().chain([dir]).map(str::to_owned).collect(),
            run_as: None,
            dir: dir.into(),
            usual_dir: system,
            confine: false,
            log: "/tmp/agent.log".into(),
        }
    }

    #[test]
    fn a_unit_of_a_user() {
        assert_eq!(systemd(&service(false)).unwrap(), include_str!("service/user.service"));
    }

    #[test]
    fn a_unit_of_the_system() {
        let mut service = service(true);
        service.run_as = Some("deploy".to_owned());
        service.confine = true;
        assert_eq!(systemd(&service).unwrap(), include_str!("service/system-confined.service"));
    }

    #[test]
    fn a_property_list() {
        let mut service = service(true);
        service.command.push("--label".to_owned());
        service.command.push("a=<b>&c".to_owned());
        assert_eq!(launchd(&service).unwrap(), include_str!("service/system.plist"));
        service.confine = true;
        assert!(launchd(&service).is_err());
    }

    #[test]
    fn arguments_have_no_meaning_of_their_own() {
        for (text, want) in [
            ("--label", "--label"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("100%", "\"100%%\""),
            ("$HOME", "\"$$HOME\""),
            ("a\"b\\c", "\"a\\\"b\\\\c\""),
            (";", "\";\""),
        ] {
            assert_eq!(quoted(text), want);
        }
        let mut service = service(true);
        service.command.push("a\nExecStartPre=/bin/rm".to_owned());
        assert!(systemd(&service).is_err() && launchd(&service).is_err());
        let mut service = super::tests::service(true);
        for bad in ["", "-x", "a b", "a\nb", "a;b"] {
            service.run_as = Some(bad.to_owned());
            assert!(systemd(&service).is_err(), "{bad:?}");
        }
    }
}
