//! `fleetcore agent install` and `uninstall`

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use etcetera::BaseStrategy as _;
use fleetcore::{Error, ErrorKind, Result};

use super::{
    agent, agent_identity as identity,
    service::{self, LABEL, Service, UNIT},
};
use crate::{
    cli::{AgentInstall, AgentPlace, AgentUninstall, Init},
    config::Settings,
    error::{Outcome, note},
    exit, render,
};

/// Where a system service keeps its data.
const SYSTEM_DIR: &str = "/var/lib/fleetcore-agent";
/// Where the log goes where the service manager keeps none.
const SYSTEM_LOG: &str = "/var/log/fleetcore-agent.log";

/// Whether the service is the system's: what is asked for; otherwise root's are.
fn is_system(place: &AgentPlace) -> bool {
    place.system || (!place.user && rustix::process::geteuid().is_root())
}

fn directory(place: &AgentPlace, settings: &Settings) -> Result<PathBuf> {
    let dir = match &place.agent_dir {
        Some(dir) => dir.clone(),
        None if is_system(place) => PathBuf::from(SYSTEM_DIR),
        None => agent::directory(None, settings),
    };
    std::path::absolute(&dir)
        .map_err(|e| Error::io("find the agent's directory", e).with_context("path", dir.display()))
}

fn home() -> Result<PathBuf> {
    etcetera::home_dir()
        .map_err(|e| Error::new(ErrorKind::InvalidInput, "there is no home directory").with_source(e))
}

/// Where the definition of the service belongs.
fn definition(place: &AgentPlace) -> Result<PathBuf> {
    let unit = format!("{UNIT}.service");
    let plist = format!("{LABEL}.plist");
    Ok(match (place.init(), is_system(place)) {
        (Init::Systemd, true) => Path::new("/etc/systemd/system").join(unit),
        (Init::Systemd, false) => {
            let dirs = etcetera::choose_base_strategy().map_err(|e| {
                Error::new(ErrorKind::InvalidInput, "there is no home directory").with_source(e)
            })?;
            dirs.config_dir().join("systemd/user").join(unit)
        }
        (Init::Launchd, true) => Path::new("/Library/LaunchDaemons").join(plist),
        (Init::Launchd, false) => home()?.join("Library/LaunchAgents").join(plist),
    })
}

/// What the service is to run. Never a secret: these can be read by everybody on the host.
fn plan(args: &AgentInstall, dir: &Path, server: &str, settings: &Settings) -> Result<Service> {
    let program = match &args.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(|e| Error::io("find this program", e))?,
    };
    let utf8 = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| {
            Error::invalid("path", "valid UTF-8")
                .with_context("value", path.display().to_string().escape_debug())
        })
    };
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .map_err(|e| Error::io("find a path", e).with_context("path", path.display()))
            .and_then(|p| utf8(&p))
    };
    let mut command = vec![absolute(&program)?, "agent".to_owned()];
    let mut add = |flag: &str, value: String| command.push(format!("{flag}={value}"));
    add("--server", server.to_owned());
    add("--agent-dir", utf8(dir)?);
    if let Some(file) = settings.certificate_file() {
        add("--cacert", absolute(file)?);
    }
    for (key, value) in &args.offer.label {
        add("--label", format!("{key}={value}"));
    }
    for address in &args.offer.allow_tunnel {
        add("--allow-tunnel", address.to_string());
    }
    if let Some(root) = &args.offer.file_root {
        add("--file-root", absolute(root)?);
    }
    let system = is_system(&args.place);
    let log =
        if system { PathBuf::from(SYSTEM_LOG) } else { home()?.join("Library/Logs/fleetcore-agent.log") };
    Ok(Service {
        system,
        command,
        run_as: args.run_as.clone(),
        usual_dir: system && dir == Path::new(SYSTEM_DIR),
        dir: dir.to_owned(),
        confine: args.confine,
        log,
    })
}

/// Joins, writes the definition of the service and starts it.
pub(crate) async fn install(args: AgentInstall, settings: &Settings) -> Outcome {
    let dir = directory(&args.place, settings)?;
    let known = identity::load(&dir);
    // To look at what would be written, nothing has to be readable.
    let known = if args.dry_run { known.unwrap_or_default() } else { known? };
    let server = match (settings.agent_server(), &known) {
        (Ok(server), _) => server,
        (Err(_), Some(known)) => known.server.clone(),
        (Err(e), None) => return Err(e.into()),
    };
    let service = plan(&args, &dir, &server, settings)?;
    let text = match args.place.init() {
        Init::Systemd => service::systemd(&service)?,
        Init::Launchd => service::launchd(&service)?,
    };
    let path = definition(&args.place)?;
    if args.dry_run {
        render::print(&text)?;
        note(settings.quiet, &format!("would be written to {}", path.display()));
        return Ok(exit::OK);
    }
    let identity = match (&args.join, known) {
        (Some(code), _) => identity::join(settings, &dir, code, args.id.as_ref()).await?,
        (None, Some(known)) => known,
        (None, None) => {
            return Err(Error::invalid("join", "given: this host has not joined yet")
                .with_context("hint", "`fleetcore agents join-code` makes a code")
                .into());
        }
    };
    write(&path, &text)?;
    note(settings.quiet, &format!("{} is written", path.display()));
    if !args.no_start {
        for command in start(&args.place, &path) {
            run(&command)?;
        }
        note(settings.quiet, &format!("agent {} is started", identity.id));
        if !service.system && args.place.init() == Init::Systemd {
            note(
                settings.quiet,
                "it ends when you log out, unless `loginctl enable-linger` keeps your services",
            );
        }
    }
    render::print(&format!("{}\n", identity.id))?;
    Ok(exit::OK)
}

/// Stops the service and removes its definition.
pub(crate) fn uninstall(args: &AgentUninstall, settings: &Settings) -> Outcome {
    let path = definition(&args.place)?;
    let there = path.exists();
    if there {
        let managed = !args.no_stop;
        if managed {
            run(&stop(&args.place))?;
        }
        remove(&path)?;
        if managed && args.place.init() == Init::Systemd {
            run(&systemctl(&args.place, &["daemon-reload"]))?;
        }
    }
    if args.purge {
        let dir = directory(&args.place, settings)?;
        // Only what is an agent's: a slip of the hand must not cost another directory.
        if identity::path(&dir).exists() {
            fs::remove_dir_all(&dir)
                .map_err(|e| Error::io("remove the agent's data", e).with_context("path", dir.display()))?;
            note(settings.quiet, &format!("{} is removed", dir.display()));
        }
    } else if !there {
        return Err(Error::new(ErrorKind::NotFound, "no agent is installed")
            .with_context("path", path.display())
            .into());
    }
    note(settings.quiet, "the server still knows it: `fleetcore agents rm` there forgets it");
    Ok(exit::OK)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let failed = |e| Error::io("write the service", e).with_context("path", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    fs::write(path, text).map_err(failed)
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(|e| Error::io("remove the service", e).with_context("path", path.display()))
}

/// Words of a command; no shell is involved.
type Words = Vec<String>;

fn words<const N: usize>(words: [&str; N]) -> Words {
    words.map(str::to_owned).to_vec()
}

fn systemctl(place: &AgentPlace, rest: &[&str]) -> Words {
    let mut all = words(["systemctl"]);
    if !is_system(place) {
        all.push("--user".to_owned());
    }
    all.extend(rest.iter().map(|w| (*w).to_owned()));
    all
}

/// Where launchd puts a service.
fn domain(place: &AgentPlace) -> String {
    if is_system(place) { "system".to_owned() } else { format!("gui/{}", rustix::process::getuid().as_raw()) }
}

fn start(place: &AgentPlace, path: &Path) -> Vec<Words> {
    let unit = format!("{UNIT}.service");
    match place.init() {
        Init::Systemd => vec![
            systemctl(place, &["daemon-reload"]),
            systemctl(place, &["enable", &unit]),
            // Also when it runs already, with what was there before.
            systemctl(place, &["restart", &unit]),
        ],
        Init::Launchd => {
            vec![words(["launchctl", "bootstrap", &domain(place), &path.display().to_string()])]
        }
    }
}

fn stop(place: &AgentPlace) -> Words {
    match place.init() {
        Init::Systemd => systemctl(place, &["disable", "--now", &format!("{UNIT}.service")]),
        Init::Launchd => words(["launchctl", "bootout", &format!("{}/{LABEL}", domain(place))]),
    }
}

fn run(command: &Words) -> Result<()> {
    let [program, arguments @ ..] = command.as_slice() else { return Ok(()) };
    let failed = |e| {
        Error::io("start the service manager", e)
            .with_context("program", program)
            .with_context("hint", "with --no-start the definition is only written")
    };
    let done = Command::new(program).args(arguments).output().map_err(failed)?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(Error::new(ErrorKind::Unavailable, "the service manager refused")
        .with_context("command", command.join(" "))
        .with_context("said", said.trim().chars().take(400).collect::<String>())
        .with_context("hint", "with --no-start the definition is only written"))
}
