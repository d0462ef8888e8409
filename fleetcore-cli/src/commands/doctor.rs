//! `fleetcore doctor`

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fleetcore::{CommandSpec, Fleet};
use serde::Serialize;

use crate::{
    config::{Place, Settings},
    error::Outcome,
    exit,
    render::{self, Cell, Row, Tone},
};

/// How long a program may take to tell its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// How bad it is when something is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Grade {
    Ok,
    /// Some feature does not work.
    Missing,
    /// Nothing works.
    Broken,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: Grade,
    /// What was found.
    found: String,
    /// What it is for.
    needed_for: &'static str,
    /// What to do, when something is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

/// A program: names to try, whether everything depends on it, what for, how to get it.
struct Tool {
    names: &'static [&'static str],
    required: bool,
    needed_for: &'static str,
    advice: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool {
        names: &["sh"],
        required: true,
        needed_for: "shell scripts, sessions",
        advice: "install a POSIX shell: apt install dash",
    },
    Tool {
        names: &["bash"],
        required: false,
        needed_for: "the best sessions (sh works too)",
        advice: "apt install bash, dnf install bash, apk add bash",
    },
    Tool { names: &["git"], required: false, needed_for: "workspaces", advice: "apt install git" },
    Tool {
        names: &["ssh"],
        required: false,
        needed_for: "targets over SSH",
        advice: "apt install openssh-client",
    },
    Tool {
        names: &["tmux"],
        required: false,
        needed_for: "tmux sessions of other systems",
        advice: "apt install tmux",
    },
    Tool { names: &["bwrap"], required: false, needed_for: "sandboxes", advice: "apt install bubblewrap" },
    Tool {
        names: &["multipass"],
        required: false,
        needed_for: "targets multipass/…",
        advice: "snap install multipass, or https://multipass.run",
    },
    Tool {
        names: &["nix"],
        required: false,
        needed_for: "NixOS targets",
        advice: "https://nixos.org/download",
    },
    Tool {
        names: &["chromium", "chromium-browser", "google-chrome"],
        required: false,
        needed_for: "tests of the browser front end",
        advice: "apt install chromium",
    },
    Tool {
        names: &["node"],
        required: false,
        needed_for: "building the browser front end",
        advice: "https://nodejs.org, or apt install nodejs npm",
    },
];

/// Looks at everything; exit code 69 when something that all depends on is missing.
pub(crate) async fn doctor(settings: &Settings) -> Outcome {
    let fleet = Fleet::local();
    let mut checks = futures::future::join_all(TOOLS.iter().map(|t| tool(&fleet, t))).await;
    checks.push(run(&fleet).await);
    checks.push(cgroup());
    checks.push(data_dir(&settings.data_dir));
    checks.push(server(settings).await);
    render::list(&checks, settings.output, settings.quiet)?;
    let broken = checks.iter().any(|c| c.state == Grade::Broken);
    Ok(if broken { exit::UNAVAILABLE } else { exit::OK })
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| executable(file))
}

#[cfg(unix)]
fn executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn executable(file: &Path) -> bool {
    file.is_file()
}

async fn tool(fleet: &Fleet, tool: &Tool) -> Check {
    let name = tool.names.first().copied().unwrap_or_default();
    let Some(path) = tool.names.iter().find_map(|n| find(n)) else {
        let state = if tool.required { Grade::Broken } else { Grade::Missing };
        let advice = Some(tool.advice.to_owned());
        return Check {
            name,
            state,
            found: "not found on PATH".to_owned(),
            needed_for: tool.needed_for,
            advice,
        };
    };
    let version = version(fleet, &path, name).await;
    let found = match version {
        Some(version) => format!("{} ({version})", path.display()),
        None => path.display().to_string(),
    };
    Check { name, state: Grade::Ok, found, needed_for: tool.needed_for, advice: None }
}

/// First line of what the program says about its version.
async fn version(fleet: &Fleet, path: &Path, name: &str) -> Option<String> {
    let flag = match name {
        // No version to ask for; dash would read commands from stdin.
        "sh" => return None,
        "ssh" | "tmux" => "-V",
        _ => "--version",
    };
    let spec = CommandSpec::argv([path.to_str()?, flag]).with_timeout(VERSION_LIMIT);
    let output = fleet.machine("local").ok()?.spawn(spec).await.ok()?.output().await.ok()?;
    let text = if output.stdout.is_empty() { &output.stderr } else { &output.stdout };
    let line = String::from_utf8_lossy(text).lines().next()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

async fn run(fleet: &Fleet) -> Check {
    let needed_for = "everything";
    let ran = async {
        let spec = CommandSpec::argv(["true"]).with_timeout(VERSION_LIMIT);
        fleet.machine("local")?.spawn(spec).await?.output().await?.check()
    };
    match ran.await {
        Ok(_) => Check {
            name: "local",
            state: Grade::Ok,
            found: "runs commands".to_owned(),
            needed_for,
            advice: None,
        },
        Err(e) => Check {
            name: "local",
            state: Grade::Broken,
            found: e.message().to_owned(),
            needed_for,
            advice: Some("`true` must run: look at limits (ulimit -u) and seccomp rules".to_owned()),
        },
    }
}

fn cgroup() -> Check {
    let needed_for = "killing programs that daemonise";
    let name = "cgroup";
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Check {
            name,
            state: Grade::Missing,
            found: "no cgroup v2".to_owned(),
            needed_for,
            advice: Some(
                "boot with systemd.unified_cgroup_hierarchy=1; without it process groups are used".to_owned(),
            ),
        };
    }
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
    let dir = PathBuf::from(format!("/sys/fs/cgroup{path}"));
    if writable(&dir) {
        return Check {
            name,
            state: Grade::Ok,
            found: format!("v2, {}", dir.display()),
            needed_for,
            advice: None,
        };
    }
    Check {
        name,
        state: Grade::Missing,
        found: format!("v2, but {} is not writable", dir.display()),
        needed_for,
        advice: Some("run under systemd with Delegate=yes; without it process groups are used".to_owned()),
    }
}

fn writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}

fn data_dir(dir: &Path) -> Check {
    let (name, needed_for) = ("data directory", "records, output, users");
    // It is made on first use, inside the closest directory that exists.
    let existing = dir.ancestors().find(|d| d.exists()).unwrap_or(Path::new("/"));
    if existing.is_dir() && writable(existing) {
        return Check { name, state: Grade::Ok, found: dir.display().to_string(), needed_for, advice: None };
    }
    Check {
        name,
        state: Grade::Broken,
        found: format!("{} is not writable", existing.display()),
        needed_for,
        advice: Some("choose another with --data-dir or FLEETCORE_DATA_DIR".to_owned()),
    }
}

async fn server(settings: &Settings) -> Check {
    let (name, needed_for) = ("server", "--detach, sessions, the browser");
    let check = |state, found: String, advice: Option<&str>| Check {
        name,
        state,
        found,
        needed_for,
        advice: advice.map(str::to_owned),
    };
    let client = match settings.place() {
        Ok(Place::Here) => {
            return check(Grade::Missing, "none configured or running".to_owned(), Some("fleetcore serve"));
        }
        Ok(Place::Server(client)) => client,
        Err(e) => {
            return check(Grade::Broken, e.message().to_owned(), Some("look at --server and the settings"));
        }
    };
    match client.info().await {
        Ok(info) => match client.me().await {
            Ok(me) => {
                check(Grade::Ok, format!("{} {} as {}", client.base_url(), info.version, me.user), None)
            }
            Err(e) => check(
                Grade::Broken,
                format!("{}: {}", client.base_url(), e.message()),
                Some("fleetcore login"),
            ),
        },
        Err(e) => check(
            Grade::Broken,
            format!("{}: {}", client.base_url(), e.message()),
            Some("start it, or name another with --server, or use --local"),
        ),
    }
}

impl Row for Check {
    const HEAD: &'static [&'static str] = &["CHECK", "STATE", "FOUND", "NEEDED FOR", "ADVICE"];

    fn cells(&self) -> Vec<Cell> {
        let state = match self.state {
            Grade::Ok => Cell::toned("ok", Tone::Good),
            Grade::Missing => Cell::toned("missing", Tone::Dim),
            Grade::Broken => Cell::toned("broken", Tone::Bad),
        };
        let advice = self.advice.clone().unwrap_or_default();
        vec![
            self.name.into(),
            state,
            self.found.as_str().into(),
            Cell::toned(self.needed_for, Tone::Dim),
            advice.into(),
        ]
    }

    fn fields(&self) -> Vec<String> {
        let state = match self.state {
            Grade::Ok => "ok",
            Grade::Missing => "missing",
            Grade::Broken => "broken",
        };
        vec![
            self.name.to_owned(),
            state.to_owned(),
            self.found.clone(),
            self.needed_for.to_owned(),
            self.advice.clone().unwrap_or_default(),
        ]
    }

    fn key(&self) -> String {
        self.name.to_owned()
    }
}
