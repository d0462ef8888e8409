//! Starting processes.

use std::{
    ffi::OsStr,
    io,
    num::NonZero,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    pin::Pin,
    process::{Command, Stdio},
    sync::Arc,
};

use async_trait::async_trait;
use futures::StreamExt;
use rustix::process::Pid;
use secrecy::ExposeSecret;
use tokio::{
    io::AsyncWrite,
    net::unix::pipe::{Receiver, Sender},
    sync::Semaphore,
};

use super::{
    COMMAND_ID_VARIABLE, LocalConfig,
    cgroup::Cgroup,
    connect::connect,
    error::SpawnError,
    files::LocalFiles,
    input::{PipeInput, TerminalInput},
    output::{PipeOutput, TerminalOutput},
    place::{Elsewhere, Place, Report},
    process::LocalControl,
    tree::Tree,
    user::{Account, ignored_signals},
};
use crate::{
    Channel, CommandId, CommandSpec, Error, ErrorKind, ExecCapabilities, HostPort, Io, Offset, Program,
    PtySize, Result, SessionSpec,
    raw::{BoxConnection, Executor, FileSystem, OpContext, RawProcess, Session},
    sys::{ExitWatch, Prepare, PtyControl, open_pty, prepare, to_io},
};

/// This host.
#[derive(Clone, Debug)]
pub struct Local {
    config: Arc<LocalConfig>,
    /// This process ignores signals that a command must not ignore; asked once.
    reset_signals: bool,
    /// Starting a process holds a runtime thread for half a millisecond. A burst of starts takes half of the threads,
    /// so that whatever else the runtime serves does not wait behind all of them.
    starting: Arc<Semaphore>,
    /// Where commands live, if that is not this process' own surroundings.
    place: Option<Arc<Place>>,
}

impl Default for Local {
    fn default() -> Self {
        Self::new(LocalConfig::default())
    }
}

impl Local {
    /// This host with these settings.
    pub fn new(config: LocalConfig) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            config: Arc::new(config),
            reset_signals: ignored_signals(),
            starting: Arc::new(Semaphore::new((threads / 2).max(1))),
            place: None,
        }
    }

    /// Commands of this host that live in `place`. They inherit no environment, cannot switch users, and files are
    /// reached through commands.
    #[cfg(all(feature = "sandbox", target_os = "linux"))]
    pub(in crate::backends) fn inside(&self, place: Arc<Place>) -> Self {
        Self { place: Some(place), ..self.clone() }
    }

    /// What works [inside](Self::inside) a place.
    pub(in crate::backends) fn capabilities_inside() -> ExecCapabilities {
        ExecCapabilities {
            pty: true,
            stdin: true,
            split_output: true,
            signals: true,
            connect: true,
            ..ExecCapabilities::default()
        }
    }

    /// The settings.
    pub fn config(&self) -> &LocalConfig {
        &self.config
    }
}

/// Everything that would only fail in the child, or worse would not.
fn check(spec: &CommandSpec) -> Result<()> {
    if let Program::Action { name, .. } = &spec.program {
        return Err(Error::unsupported("spawn").with_context("action", name.escape_debug()));
    }
    spec.check()
}

/// Our ends of a process' channels.
enum Channels {
    Pipes { stdin: Option<OwnedFd>, outputs: Vec<(Channel, OwnedFd)> },
    Terminal { reader: pty_process::OwnedReadPty, control: PtyControl },
}

impl Local {
    /// The command without its channels.
    fn command(&self, id: CommandId, spec: &CommandSpec, cwd: &Path, account: Option<&Account>) -> Command {
        let mut cmd = match &spec.program {
            Program::Argv(argv) => {
                let mut cmd = Command::new(argv.first().map_or("", String::as_str));
                cmd.args(argv.iter().skip(1));
                cmd
            }
            Program::Shell(script) => {
                let mut cmd = Command::new("/bin/sh");
                cmd.arg("-c").arg(script);
                cmd
            }
            Program::Action { .. } => Command::new(""),
        };
        let terminal = matches!(spec.io, Io::Pty(_));
        if let Some(place) = &self.place {
            cmd.env_clear();
            if !spec.clear_env {
                cmd.envs(&place.env).env("PWD", cwd);
            }
        } else if spec.clear_env {
            cmd.env_clear();
        } else {
            for name in self.config.hidden_env.iter().filter(|n| std::env::var_os(n).is_some()) {
                cmd.env_remove(name);
            }
            if terminal {
                // They describe the terminal of this process.
                cmd.env_remove("COLUMNS").env_remove("LINES");
            }
            cmd.env("PWD", cwd);
        }
        if terminal {
            cmd.env("TERM", "xterm-256color");
        }
        if let Some(account) = account {
            for name in ["USER", "LOGNAME"] {
                cmd.env(name, &account.name);
            }
            cmd.env("HOME", &account.home).env("SHELL", &account.shell);
        }
        for (name, value) in &spec.env {
            cmd.env(name, OsStr::new(value.expose_secret()));
        }
        let mut text = [0; 36];
        cmd.env(COMMAND_ID_VARIABLE, &*id.as_uuid().as_hyphenated().encode_lower(&mut text));
        if self.place.is_none() {
            cmd.current_dir(cwd);
        }
        cmd
    }

    fn start(&self, id: CommandId, spec: &CommandSpec) -> Result<RawProcess> {
        if self.place.is_some() && spec.user.is_some() {
            return Err(Error::unsupported("spawn").with_context("field", "user"));
        }
        let account = match &spec.user {
            Some(name) => Some(
                Account::find(name, self.config.allow_user_switch)
                    .map_err(|e| e.into_error("", Path::new(""), Some(name)))?,
            ),
            None => None,
        };
        // Another user's home may be missing or closed to us; theirs to start in only if it is there.
        let home = account.as_ref().map(|a| a.home.as_path()).filter(|h| h.is_dir());
        let home = self.place.as_ref().map(|p| p.home.as_path()).or(home).unwrap_or(&self.config.home);
        let base = if self.place.is_some() { home } else { &self.config.home };
        let cwd: PathBuf = spec.cwd.as_ref().map_or_else(|| home.to_owned(), |c| base.join(c));
        let shown = match &spec.program {
            Program::Argv(argv) => argv.first().map_or("", String::as_str),
            _ => "/bin/sh",
        };
        let fail = |e: io::Error| {
            // What is wrong with the directory shows only to those who look from there.
            let seen = self.place.as_ref().map_or_else(|| cwd.clone(), |p| p.seen_from_here(&cwd));
            SpawnError::from_io(e, shown, &seen).into_error(shown, &cwd, spec.user.as_deref())
        };
        let cmd = self.command(id, spec, &cwd, account.as_ref());
        let terminal = matches!(spec.io, Io::Pty(_));
        let (cgroup, mut cgroup_procs) = Cgroup::create(&self.config.cgroup, id, terminal).unzip();
        let mut elsewhere = None;
        if let Some(place) = &self.place {
            cgroup_procs = cgroup_procs.or_else(|| place.cgroup_procs());
            elsewhere = Some(Elsewhere::prepare(place, &cwd, !terminal).map_err(fail)?);
        }
        let (enter, report) = elsewhere.map(|e| (e.enter, e.report)).unzip();
        let work = Prepare {
            reset_signals: self.reset_signals,
            cgroup_procs,
            user: account.map(Account::into_user),
            enter,
        };
        let (child, channels) = match spec.io {
            Io::Pipes { stdin, merge } => spawn_on_pipes(cmd, work, stdin, merge),
            Io::Pty(size) => spawn_on_terminal(cmd, work, size),
        }
        .map_err(|e| {
            report.as_ref().map(Report::discard);
            fail(e)
        })?;
        let pid = match report {
            None => Pid::from_child(&child),
            Some(report) => report.take(child).map_err(fail)?,
        };
        // From here on the tree owns the process: every early return kills and reaps it.
        let tree = Arc::new(Tree::new(pid, id, terminal, cgroup));
        let control = LocalControl::new(Arc::clone(&tree));
        assemble(tree, control, channels).map_err(|e| Error::io("spawn", e).with_context("program", shown))
    }
}

fn spawn_on_pipes(
    mut cmd: Command,
    work: Prepare,
    stdin: bool,
    merge: bool,
) -> io::Result<(std::process::Child, Channels)> {
    cmd.process_group(0);
    if !work.is_empty() {
        prepare(&mut cmd, work);
    }
    cmd.stdin(if stdin { Stdio::piped() } else { Stdio::null() });
    let mut outputs = Vec::with_capacity(2);
    if merge {
        let (ours, theirs) = io::pipe()?;
        cmd.stdout(theirs.try_clone()?).stderr(theirs);
        outputs.push((Channel::Stdout, OwnedFd::from(ours)));
    } else {
        cmd.stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    let mut child = cmd.spawn()?;
    outputs.extend(child.stdout.take().map(|p| (Channel::Stdout, p.into())));
    outputs.extend(child.stderr.take().map(|p| (Channel::Stderr, p.into())));
    let stdin = child.stdin.take().map(OwnedFd::from);
    Ok((child, Channels::Pipes { stdin, outputs }))
}

fn spawn_on_terminal(
    mut cmd: Command,
    work: Prepare,
    size: PtySize,
) -> io::Result<(std::process::Child, Channels)> {
    let (reader, control, pts, spare) = open_pty(size.cols, size.rows)?;
    if let Some(user) = &work.user {
        // Programs that open their terminal by name must be allowed to; the group stays what devpts chose.
        let uid = rustix::process::Uid::from_raw(user.uid.as_raw());
        rustix::fs::fchown(&spare, Some(uid), None)?;
    }
    drop(spare);
    if !work.is_empty() {
        prepare(&mut cmd, work);
    }
    let child = pty_process::blocking::Command::from(cmd).spawn(pts).map_err(to_io)?;
    Ok((child, Channels::Terminal { reader, control }))
}

/// Registers our ends with the runtime and puts the parts together. An error drops `control`, which kills.
fn assemble(tree: Arc<Tree>, mut control: LocalControl, channels: Channels) -> io::Result<RawProcess> {
    let watch = ExitWatch::new(tree.pid())?;
    let nonblocking = |fd: OwnedFd| rustix::io::ioctl_fionbio(&fd, true).map(|()| fd);
    let (output, stdin) = match channels {
        Channels::Pipes { stdin, outputs } => {
            let mut pipes = Vec::with_capacity(outputs.len());
            for (channel, fd) in outputs {
                pipes.push((channel, Receiver::from_owned_fd_unchecked(nonblocking(fd)?)?));
            }
            let stdin = match stdin {
                Some(fd) => {
                    let pipe = Sender::from_owned_fd_unchecked(nonblocking(fd)?)?;
                    Some(Box::pin(PipeInput::new(pipe)) as Pin<Box<dyn AsyncWrite + Send>>)
                }
                None => None,
            };
            (PipeOutput::new(pipes).boxed(), stdin)
        }
        Channels::Terminal { reader, control: terminal } => {
            let terminal = Arc::new(terminal);
            control.set_terminal(Arc::clone(&terminal));
            (TerminalOutput::new(reader).boxed(), Some(Box::pin(TerminalInput::new(terminal)) as _))
        }
    };
    let pid = Some(tree.pid().as_raw_nonzero().get().unsigned_abs());
    let exit = Box::pin(async move {
        let kind = watch.wait().await.map_err(|e| Error::io("wait", e))?;
        drop(tree); // until here the leader must stay unreaped, or its status is lost
        Ok(kind)
    });
    Ok(RawProcess { pid, output, stdin, exit, control: Box::new(control) })
}

#[async_trait]
impl Executor for Local {
    fn capabilities(&self) -> ExecCapabilities {
        let inside = Self::capabilities_inside();
        if self.place.is_some() {
            return inside;
        }
        let run_as_user = self.config.allow_user_switch && rustix::process::geteuid().is_root();
        ExecCapabilities { native_files: true, run_as_user, ..inside }
    }

    async fn ping(&self, _cx: &OpContext) -> Result<()> {
        Ok(())
    }

    async fn spawn(&self, cx: &OpContext, id: CommandId, spec: &CommandSpec) -> Result<RawProcess> {
        if cx.cancel.is_cancelled() || cx.deadline.is_some_and(|d| d <= tokio::time::Instant::now()) {
            return cx.guard("spawn", std::future::pending()).await;
        }
        check(spec).map_err(|e| e.with_operation("spawn"))?;
        let turn = cx.guard("spawn", async {
            self.starting.acquire().await.map_err(|e| Error::new(ErrorKind::Unavailable, e.to_string()))
        });
        let _turn = turn.await?;
        // Starting has no await in it: it either leaves nothing behind or hands over an owner.
        self.start(id, spec)
    }

    async fn reattach(&self, _cx: &OpContext, _id: CommandId, _from: Offset) -> Result<RawProcess> {
        Err(Error::unsupported("reattach"))
    }

    async fn open_session(&self, _cx: &OpContext, _spec: SessionSpec) -> Result<Arc<dyn Session>> {
        Err(Error::unsupported("open_session"))
    }

    fn files(&self) -> Result<Arc<dyn FileSystem>> {
        if self.place.is_some() {
            return Err(Error::unsupported("files"));
        }
        Ok(Arc::new(LocalFiles::open(&self.config)?))
    }

    async fn connect(&self, cx: &OpContext, to: &HostPort) -> Result<BoxConnection> {
        connect(cx, to, self.place.as_deref()).await
    }
}
