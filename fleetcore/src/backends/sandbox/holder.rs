//! The process that keeps the namespaces of a sandbox while it is up.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
};

use super::{
    SandboxConfig, etc,
    limits::Limits,
    parent,
    state::{HOST_IMAGE, Spec},
};
use crate::{
    Error, ErrorKind, MachineId, Result,
    backends::local::{Local, is_dead, place::Place},
    sys::{PASSED, Unprivileged, unprivileged, without_descriptors},
};

/// How long bubblewrap may take to set up a sandbox. It takes 10 ms; the rest is for a machine under load.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long to wait for the end of a sandbox whose processes were killed. It takes a few milliseconds.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// Most of what bubblewrap says that goes into an error.
const COMPLAINT: u64 = 2048;
/// What the first process says once all is set up.
const READY: &str = "fleetcore: ready";
/// Directories of a sandbox, and where they are in there.
const PARTS: [(&str, &str); 3] = [("home", etc::HOME), ("tmp", "/tmp"), ("var-tmp", "/var/tmp")];
/// Runs in the sandbox as its first process until the pipe to the server is closed: an end of the server, however
/// sudden, ends the sandbox.
const FIRST_PROCESS: &str = "echo 'fleetcore: ready' >&2; exec 2>/dev/null; read -r _";

/// The namespaces of a running sandbox. Dropping it ends every process in them.
#[derive(Debug)]
pub(super) struct Holder {
    executor: Arc<Local>,
    first: Arc<OwnedFd>,
    monitor: Child,
    _lifeline: ChildStdin,
    _limits: Limits,
}

impl Holder {
    /// Sets up the sandbox kept in `dir`.
    pub(super) async fn start(
        config: &SandboxConfig,
        local: &Local,
        name: &MachineId,
        dir: &Path,
        spec: &Spec,
    ) -> Result<Self> {
        let limits = Limits::new(name, spec);
        let root = Root::find(config, spec)?;
        let owner = owner();
        let seen = match owner {
            Some(_) => {
                let at = |n: &str| Path::new(PASSED).join(n);
                Seen { dir: at("0"), root: if root.host { root.path.clone() } else { at("1") } }
            }
            None => Seen { dir: dir.to_owned(), root: root.path.clone() },
        };
        let set_up = |e| Error::io("start sandbox", e).with_context("path", dir.display());
        if let Some(owner) = owner {
            hand_over(dir, owner).map_err(set_up)?;
        }
        let args = arguments(name, dir, spec, &root, &seen)?;
        let program = config.find_bwrap().ok_or_else(|| missing(config, io::ErrorKind::NotFound.into()))?;
        let mut command = Command::new(program);
        command.args(args).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true).process_group(0);
        without_descriptors(command.as_std_mut());
        if let Some(owner) = owner {
            let mut dirs = vec![dir.to_owned()];
            if !root.host {
                dirs.push(root.path.clone());
            }
            unprivileged(command.as_std_mut(), Unprivileged { owner, dirs }).map_err(set_up)?;
        }
        let mut monitor = parent::spawn(command).await.map_err(|e| missing(config, e))?;
        let (Some(lifeline), Some(out), Some(err)) =
            (monitor.stdin.take(), monitor.stdout.take(), monitor.stderr.take())
        else {
            return Err(
                Error::new(ErrorKind::Unexpected, "a pipe is missing").with_operation("start sandbox")
            );
        };
        let late = |_| {
            Error::new(ErrorKind::Timeout, "bubblewrap did not set up the sandbox in time")
                .with_operation("start sandbox")
                .with_context("machine", name)
                .with_context("limit_s", START_LIMIT.as_secs())
        };
        let started = async { tokio::join!(first_process(out), ready(err)) };
        let pid = match tokio::time::timeout(START_LIMIT, started).await.map_err(late)? {
            (Some(pid), Ok(())) => pid,
            (_, said) => return Err(complaint(&said.err().unwrap_or_default(), name)),
        };
        let first = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Error::io("start sandbox", e.into()))?;
        // Until now its id could have come to mean something else, if the monitor is gone.
        if let Ok(Some(_)) = monitor.try_wait() {
            return Err(complaint("it ended at once", name));
        }
        let first = Arc::new(first);
        let place = Place {
            holder: (pid, Arc::clone(&first)),
            user: owner.map(|o| (o, etc::ID)),
            own_network: !spec.network,
            env: environment(etc::HOME),
            home: PathBuf::from(etc::HOME),
            cgroup: limits.cgroup.clone(),
            memory_bytes: limits.memory_bytes,
            processes: limits.processes,
            cpus: limits.cpus,
        };
        let executor = Arc::new(local.inside(Arc::new(place)));
        Ok(Self { executor, first, monitor, _lifeline: lifeline, _limits: limits })
    }

    /// Runs things in the sandbox.
    pub(super) fn executor(&self) -> Arc<Local> {
        Arc::clone(&self.executor)
    }

    /// Whether its first process is alive.
    pub(super) fn alive(&self) -> bool {
        !is_dead(&self.first)
    }

    /// Ends every process in the sandbox, and waits until the namespaces are gone; but not for somebody who has not yet
    /// taken note of the end of a command, which keeps its process id.
    pub(super) async fn stop(mut self) {
        self.kill();
        let _ = tokio::time::timeout(STOP_LIMIT, self.monitor.wait()).await;
    }

    fn kill(&self) {
        // The end of the first process of a pid namespace is the end of all.
        let _ = pidfd_send_signal(&self.first, Signal::KILL);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Variables a command starts with.
fn environment(home: &str) -> BTreeMap<String, String> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let set =
        [("PATH", path), ("HOME", home), ("USER", etc::USER), ("LOGNAME", etc::USER), ("LANG", "C.UTF-8")];
    set.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// What a sandbox sees of a system.
struct Root {
    path: PathBuf,
    /// It is that of the host.
    host: bool,
}

impl Root {
    fn find(config: &SandboxConfig, spec: &Spec) -> Result<Self> {
        if spec.image == HOST_IMAGE {
            return Ok(Self { path: "/".into(), host: true });
        }
        let path = config.images.join(&spec.image);
        if path.is_dir() {
            return Ok(Self { path, host: false });
        }
        Err(Error::new(ErrorKind::NotFound, "no such image")
            .with_operation("start sandbox")
            .with_context("field", "image")
            .with_context("image", &spec.image)
            .with_context("hint", format!("unpack a root file system to {}", path.display())))
    }
}

/// Where bubblewrap sees things.
struct Seen {
    dir: PathBuf,
    root: PathBuf,
}

/// Who sandboxes are out here when this process is root: an id that owns nothing. The first is in the range systemd leaves
/// unused (`docs/UIDS-GIDS.md`); in a container there may be few ids, `nobody` among them. `None` for an ordinary user,
/// and for a root that has no other id: then it is itself.
fn owner() -> Option<u32> {
    const CANDIDATES: [u32; 2] = [0x7f1e_e700, 65534];
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let maps =
        ["/proc/self/uid_map", "/proc/self/gid_map"].map(|f| fs::read_to_string(f).unwrap_or_default());
    CANDIDATES.into_iter().find(|id| maps.iter().all(|m| has_id(m, *id)))
}

/// Whether a map of `user_namespaces(7)` has an id.
fn has_id(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

/// Gives the directories of a sandbox to its user. The way to them stays closed for everybody else.
fn hand_over(dir: &Path, owner: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let open = fs::Permissions::from_mode(0o711);
    fs::set_permissions(dir, open.clone())?;
    fs::set_permissions(dir.join("etc"), open)?;
    PARTS.iter().try_for_each(|(part, _)| std::os::unix::fs::lchown(dir.join(part), Some(owner), Some(owner)))
}

fn arguments(name: &MachineId, dir: &Path, spec: &Spec, root: &Root, seen: &Seen) -> Result<Vec<OsString>> {
    let fail = |e| Error::io("start sandbox", e).with_context("path", root.path.display());
    let id = etc::ID.to_string();
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |list: &[&str]| args.extend(list.iter().map(OsString::from));
    add(&[
        "--unshare-all",
        "--unshare-user",
        "--die-with-parent",
        "--info-fd",
        "1",
        "--uid",
        &id,
        "--gid",
        &id,
    ]);
    if spec.network {
        add(&["--share-net"]);
    }
    // Host names have at most 64 bytes (gethostname(2)).
    let shown: String = name.as_str().chars().take(64).collect();
    add(&["--hostname", &shown]);
    args.extend(etc::system(&root.path, &seen.root, root.host).map_err(fail)?);
    let etc_dir = root.path.join("etc");
    let as_root = rustix::process::geteuid().is_root() && owner().is_none();
    if as_root {
        args.extend(etc::masks(&etc_dir));
    }
    args.extend(etc::users(&dir.join("etc"), &seen.dir.join("etc"), &etc_dir).map_err(fail)?);
    for (part, inside) in PARTS {
        args.extend(["--bind".into(), seen.dir.join(part).into(), inside.into()]);
    }
    let mut add = |list: &[&str]| args.extend(list.iter().map(OsString::from));
    add(&["--dev", "/dev", "--proc", "/proc", "--dir", "/run", "--dir", "/root", "--chdir", etc::HOME]);
    if as_root {
        add(&["--ro-bind", "/proc/sys", "/proc/sys"]);
        for file in ["sysrq-trigger", "kcore", "mtrr", "kmsg"].map(|f| format!("/proc/{f}")) {
            if Path::new(&file).exists() {
                add(&["--ro-bind", "/dev/null", &file]);
            }
        }
    }
    // Last: all of the above is made in it. What is not a place of its own would be memory nobody counts.
    add(&["--remount-ro", "/"]);
    add(&["--setenv", "PATH", "/usr/bin:/bin", "--", "/bin/sh", "-c", FIRST_PROCESS]);
    Ok(args)
}

/// Reads what `--info-fd` says: a JSON object, after which bubblewrap closes the pipe.
async fn first_process(out: tokio::process::ChildStdout) -> Option<Pid> {
    #[derive(serde::Deserialize)]
    struct Info {
        #[serde(rename = "child-pid")]
        child_pid: i32,
    }
    let mut text = Vec::new();
    out.take(COMPLAINT).read_to_end(&mut text).await.ok()?;
    Pid::from_raw(serde_json::from_slice::<Info>(&text).ok()?.child_pid)
}

/// Reads on until the first process says that it runs. Otherwise what was said instead.
async fn ready(err: tokio::process::ChildStderr) -> Result<(), String> {
    let mut lines = BufReader::new(err.take(COMPLAINT)).lines();
    let mut said = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if line == READY {
            return Ok(());
        }
        said.push_str(&line);
        said.push('\n');
    }
    Err(said.trim().to_owned())
}

fn complaint(said: &str, name: &MachineId) -> Error {
    let refused = ["namespace", "uid map", "Operation not permitted"].iter().any(|w| said.contains(w));
    let (kind, hint) = if refused {
        (
            ErrorKind::Unsupported,
            "this host lets ordinary users make no namespaces: see sysctl kernel.unprivileged_userns_clone, \
             user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns",
        )
    } else {
        (ErrorKind::Unavailable, "see what bubblewrap said; an image needs /bin/sh")
    };
    Error::new(kind, "the sandbox could not be set up")
        .with_operation("start sandbox")
        .with_context("machine", name)
        .with_context("bwrap", said)
        .with_context("hint", hint)
}

fn missing(config: &SandboxConfig, e: std::io::Error) -> Error {
    if e.kind() == std::io::ErrorKind::NotFound {
        return Error::new(ErrorKind::Unsupported, "bubblewrap is not installed")
            .with_operation("start sandbox")
            .with_context("program", config.bwrap.display())
            .with_context("hint", "install the package bubblewrap");
    }
    Error::io("start sandbox", e).with_context("program", config.bwrap.display())
}
