//! The editor in a browser: an openvscode-server that is installed, and the token its pages want.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use fleetcore::{Error, ErrorKind, Result};
use tokio::{net::TcpListener, sync::mpsc};

use super::{
    helper::{self, Helper, Output, Start},
    nolink::Dir,
    options::Options,
    user::{User, chown_tree},
};

/// Where the original's image has the editor.
const ROOT: &str = "/openhands/.openvscode-server";
const WORKSPACE: &str = "/workspace";
const SETTINGS: &str = r#"{
    "workbench.colorTheme": "Default Dark Modern",
    "workbench.startupEditor": "none",
    "chat.commandCenter.enabled": false
}
"#;

/// The plugin, running or not.
#[derive(Debug, Default)]
pub(super) struct Vscode {
    token: Option<String>,
    server: tokio::sync::Mutex<Option<Helper>>,
    /// With the token in it.
    _dir: Option<tempfile::TempDir>,
}

fn refuse(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Unavailable, why).with_operation("plugin vscode")
}

impl Vscode {
    /// Starts the editor. Without a port, or with another user than it is meant for, there is none, and no token.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub(super) async fn start(options: &Options, user: Option<&User>) -> Result<Self> {
        let known = matches!(options.username.as_str(), "root" | "openhands")
            || options.var("RUNTIME_USERNAME") == Some(options.username.as_str());
        let port = options.var("VSCODE_PORT").and_then(|p| p.trim().parse::<u16>().ok());
        let Some(port) = port.filter(|_| known) else {
            tracing::warn!("no editor: VSCODE_PORT is not set to a port, or the user is another one");
            return Ok(Self::default());
        };
        let workspace = PathBuf::from(options.var("WORKSPACE_BASE").unwrap_or(WORKSPACE));
        settings(&workspace).map_err(|e| {
            Error::io("write the editor's settings", e).with_context("workspace", workspace.display())
        })?;
        let token = uuid::Uuid::new_v4().to_string();
        if TcpListener::bind(("0.0.0.0", port)).await.is_err() {
            tracing::warn!(port, "no editor: somebody else has its port");
            return Ok(Self { token: Some(token), ..Self::default() });
        }
        let root = PathBuf::from(options.var("OPENVSCODE_SERVER_ROOT").unwrap_or(ROOT));
        let program = root.join("bin/openvscode-server");
        if helper::find(&program.to_string_lossy(), &options.env).is_none() {
            return Err(refuse("openvscode-server is not installed")
                .with_context("program", program.display())
                .with_context(
                    "hint",
                    "install it there, set OPENVSCODE_SERVER_ROOT, or leave the plugin vscode out",
                ));
        }
        let dir = token_file(&token, user).map_err(|e| Error::io("write the editor's token", e))?;
        if let Some(user) = user {
            let (uid, gid) = (user.uid, user.gid);
            let changed = tokio::task::spawn_blocking(move || chown_tree(&root, uid, gid)).await;
            changed
                .unwrap_or_else(|e| Err(std::io::Error::other(e)))
                .map_err(|e| Error::io("give the editor to the user", e))?;
        }
        let folder = options.var("WORKSPACE_MOUNT_PATH_IN_SANDBOX").unwrap_or(WORKSPACE);
        let mut args: Vec<String> =
            ["--host", "0.0.0.0", "--connection-token-file"].map(str::to_owned).to_vec();
        args.push(dir.path().join("token").display().to_string());
        args.extend(["--port".to_owned(), port.to_string(), "--disable-workspace-trust".to_owned()]);
        if let Some(base) = base_path(options) {
            args.extend(["--server-base-path".to_owned(), base]);
        }
        let start = Start {
            name: "vscode".to_owned(),
            program,
            args,
            env: options.env.clone(),
            dir: folder.into(),
            user: user.cloned(),
        };
        let (tell, mut ready) = mpsc::channel(1);
        let seen = move |line: &str| {
            if line.contains("at") {
                let _ = tell.try_send(());
            }
        };
        let mut server =
            Helper::start(&start, Output::Log, seen).map_err(|e| Error::io("start the editor", e))?;
        tokio::select! {
            biased;
            Some(()) = ready.recv() => {}
            status = server.ended() => {
                let how = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                return Err(refuse("openvscode-server ended at once")
                    .with_context("how", how)
                    .with_context("said", server.last_words()));
            }
        }
        Ok(Self { token: Some(token), server: tokio::sync::Mutex::new(Some(server)), _dir: Some(dir) })
    }

    /// The token of its pages.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Ends the editor.
    pub(super) async fn stop(&self) {
        if let Some(server) = self.server.lock().await.take() {
            server.stop().await;
        }
    }
}

/// Where its pages are, when that is not the root (DEFECT 24: with the first of these the original crashes).
fn base_path(options: &Options) -> Option<String> {
    if let Some(base) = options.var("OPENVSCODE_SERVER_BASE_PATH") {
        return Some(format!("/{}", base.trim_matches('/')));
    }
    let id = options.var("RUNTIME_ID")?;
    let url = options.var("RUNTIME_URL")?;
    let path = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = path.split_once('/').map_or("", |(_, path)| path);
    path.starts_with(id).then(|| format!("/{id}/vscode"))
}

fn settings(workspace: &Path) -> std::io::Result<()> {
    use std::io::Write as _;
    let dir = Dir::open(workspace)?.inside(".vscode", 0o777, None)?;
    let mut file = dir.write("settings.json", 0o666)?;
    file.write_all(SETTINGS.as_bytes())?;
    file.set_permissions(Permissions::from_mode(0o666))
}

/// In a file, because everybody sees the arguments of a program.
fn token_file(token: &str, user: Option<&User>) -> std::io::Result<tempfile::TempDir> {
    use std::io::Write as _;
    let dir = tempfile::Builder::new()
        .prefix("fleetcore-vscode-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()?;
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.path().join("token"))?;
    file.write_all(token.as_bytes())?;
    if let Some(user) = user {
        chown_tree(dir.path(), user.uid, user.gid)?;
    }
    Ok(dir)
}
