//! One kernel: its process, its sockets, and one cell at a time.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use fleetcore::{Error, ErrorKind, Result};
use jupyter_protocol::{
    ConnectionInfo, ExecuteRequest, ExecutionState, InterruptRequest, JupyterMessage, JupyterMessageContent,
    KernelInfoRequest, connection_info::Transport,
};
use jupyter_zmq_client::{
    ClientControlConnection, ClientIoPubConnection, ClientShellConnection, RuntimeError,
    create_client_control_connection, create_client_iopub_connection,
    create_client_shell_connection_with_identity, peer_identity_for_session,
};

use super::{
    super::{
        helper::{Helper, Output, Start},
        user::{User, chown_tree},
    },
    cell::Said,
};

/// How often a kernel that comes up is asked whether it is there.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long an interrupted cell has to end.
const INTERRUPT: Duration = Duration::from_secs(10);

/// How to start one.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) program: std::path::PathBuf,
    /// Before `-m ipykernel_launcher`.
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) dir: String,
    pub(super) user: Option<User>,
}

/// How a cell ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    /// It took too long and was interrupted.
    TimedOut,
    /// It took too long, and an interrupt does not reach it.
    Stuck,
    /// The kernel is gone.
    Died(String),
}

/// A kernel that runs.
pub(super) struct Kernel {
    helper: Helper,
    shell: ClientShellConnection,
    iopub: ClientIoPubConnection,
    control: ClientControlConnection,
    /// Its sockets.
    _dir: tempfile::TempDir,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("helper", &self.helper).finish_non_exhaustive()
    }
}

fn failed(what: &'static str) -> impl Fn(RuntimeError) -> Error {
    move |e| Error::new(ErrorKind::Unavailable, e.to_string()).with_operation(what)
}

/// Sockets in a directory that only the user can enter: no port is open, and nobody can be faster.
fn prepare(launch: &Launch) -> std::io::Result<(tempfile::TempDir, ConnectionInfo)> {
    let dir = tempfile::Builder::new()
        .prefix("fleetcore-kernel-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir()?;
    let info = ConnectionInfo {
        ip: dir.path().join("k").display().to_string(),
        transport: Transport::IPC,
        shell_port: 1,
        iopub_port: 2,
        stdin_port: 3,
        control_port: 4,
        hb_port: 5,
        key: uuid::Uuid::new_v4().to_string(),
        signature_scheme: "hmac-sha256".to_owned(),
        kernel_name: Some("python3".to_owned()),
    };
    fs::write(file(dir.path()), serde_json::to_vec(&info)?)?;
    if let Some(user) = &launch.user {
        chown_tree(dir.path(), user.uid, user.gid)?;
    }
    Ok((dir, info))
}

fn file(dir: &Path) -> std::path::PathBuf {
    dir.join("connection.json")
}

impl Kernel {
    /// Starts one and waits until it answers. Dropped before, nothing is left of it.
    pub(super) async fn start(launch: &Launch) -> Result<Self> {
        let (dir, info) = prepare(launch).map_err(|e| Error::io("make the kernel's sockets", e))?;
        let mut args = launch.args.clone();
        args.extend(["-m", "ipykernel_launcher", "-f"].map(str::to_owned));
        args.push(file(dir.path()).display().to_string());
        let mut env = launch.env.clone();
        // It ends by itself when we end without having time to end it. Process 1 is every orphan's parent.
        if std::process::id() != 1 {
            env.insert("JPY_PARENT_PID".to_owned(), std::process::id().to_string());
        }
        let start = Start {
            name: "kernel".to_owned(),
            program: launch.program.clone(),
            args,
            env,
            dir: launch.dir.clone().into(),
            user: launch.user.clone(),
        };
        let mut helper =
            Helper::start(&start, Output::Log, |_| {}).map_err(|e| Error::io("start the kernel", e))?;
        let session = uuid::Uuid::new_v4().to_string();
        let connect = async {
            let iopub = create_client_iopub_connection(&info, "", &session).await?;
            let identity = peer_identity_for_session(&session)?;
            let shell = create_client_shell_connection_with_identity(&info, &session, identity).await?;
            let control = create_client_control_connection(&info, &session).await?;
            Ok::<_, RuntimeError>((iopub, shell, control))
        };
        let connected = tokio::select! {
            connected = connect => Some(connected.map_err(failed("connect to the kernel"))?),
            _ = helper.ended() => None,
        };
        let Some((iopub, shell, control)) = connected else {
            let said = helper.last_words();
            return Err(Error::new(ErrorKind::Unavailable, "the kernel ended at once")
                .with_context("program", launch.program.display())
                .with_context("said", said));
        };
        let mut kernel = Self { helper, shell, iopub, control, _dir: dir };
        kernel.ready().await?;
        Ok(kernel)
    }

    /// Until what it publishes reaches us: a subscription takes effect some time after it was made.
    async fn ready(&mut self) -> Result<()> {
        loop {
            let ask: JupyterMessage = KernelInfoRequest {}.into();
            self.shell.send(ask).await.map_err(failed("ask the kernel"))?;
            let heard = async {
                loop {
                    tokio::select! {
                        message = self.iopub.read() => match message {
                            Ok(message) if matches!(message.content, JupyterMessageContent::Status(_)) => return Ok(true),
                            Ok(_) => {}
                            Err(error) if fatal(&error) => return Err(failed("listen to the kernel")(error)),
                            Err(_) => {}
                        },
                        // Read, so that answers do not pile up.
                        _ = self.shell.read() => {}
                        _ = self.helper.ended() => return Ok(false),
                    }
                }
            };
            match tokio::time::timeout(ASK_EVERY, heard).await {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false)) => {
                    return Err(Error::new(ErrorKind::Unavailable, "the kernel ended while it started")
                        .with_context("said", self.helper.last_words()));
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Runs a cell to its end: until the kernel has answered *and* says that it has nothing more to do, because
    /// output may come after the answer (DEFECT 14).
    pub(super) async fn execute(&mut self, code: &str, limit: Option<Duration>, said: &mut Said) -> Ended {
        let request: JupyterMessage = ExecuteRequest {
            code: code.to_owned(),
            silent: false,
            store_history: false,
            user_expressions: None,
            allow_stdin: false,
            // Nothing is behind it that could be aborted.
            stop_on_error: false,
        }
        .into();
        let id = request.header.msg_id.clone();
        if let Err(error) = self.shell.send(request).await {
            return Ended::Died(error.to_string());
        }
        let whole = self.follow(&id, said);
        let Some(limit) = limit else { return whole.await };
        if let Ok(ended) = tokio::time::timeout(limit, whole).await {
            return ended;
        }
        let interrupt: JupyterMessage = InterruptRequest {}.into();
        if let Err(error) = self.control.send(interrupt).await {
            return Ended::Died(error.to_string());
        }
        match tokio::time::timeout(INTERRUPT, self.follow(&id, said)).await {
            Ok(Ended::Done) => Ended::TimedOut,
            Ok(other) => other,
            Err(_) => Ended::Stuck,
        }
    }

    async fn follow(&mut self, id: &str, said: &mut Said) -> Ended {
        let of = |message: &JupyterMessage| message.parent_header.as_ref().is_some_and(|h| h.msg_id == id);
        let (mut answered, mut idle) = (false, false);
        while !(answered && idle) {
            tokio::select! {
                biased;
                message = self.iopub.read() => match message {
                    Ok(message) if of(&message) => match &message.content {
                        JupyterMessageContent::Status(status) => {
                            idle = status.execution_state == ExecutionState::Idle;
                        }
                        content => said.take(content),
                    },
                    Ok(_) => {}
                    Err(error) if fatal(&error) => return Ended::Died(error.to_string()),
                    Err(error) => tracing::warn!(%error, "a message of the kernel makes no sense"),
                },
                message = self.shell.read() => match message {
                    Ok(message) => answered |= of(&message),
                    Err(error) if fatal(&error) => return Ended::Died(error.to_string()),
                    // The only thing it can be is the answer.
                    Err(error) => {
                        tracing::warn!(%error, "an answer of the kernel makes no sense");
                        answered = true;
                    }
                },
                // Or nobody would ever read it.
                _ = self.control.read() => {}
                status = self.helper.ended() => {
                    return Ended::Died(status.map_or_else(|e| e.to_string(), |s| s.to_string()));
                }
            }
        }
        Ended::Done
    }

    /// Ends it.
    pub(super) async fn stop(self) {
        self.helper.stop().await;
    }
}

/// Whether nothing can come any more.
fn fatal(error: &RuntimeError) -> bool {
    matches!(error, RuntimeError::ZmqError(_) | RuntimeError::IoError(_))
}
