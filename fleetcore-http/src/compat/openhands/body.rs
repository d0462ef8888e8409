//! The shell, the files and the plugins of a runtime.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use axum::{extract::Request, response::Response};
use fleetcore::{Error, ErrorKind, Files, Machine, Owner, Result};
use futures::{FutureExt as _, future::BoxFuture};
use secrecy::SecretString;
use tokio::net::TcpListener;

use super::{
    action::Deed,
    archive,
    browser::{self, Browser},
    files::Workspace,
    jupyter::Jupyter,
    list,
    observation::Observation,
    options::Options,
    runtime::{FileRequest, Hands},
    shell::Shell,
    user::{self, User},
    viewer,
    vscode::Vscode,
    watch::Watch,
};
use crate::App;

/// Where everybody who knows the original looks for the address of the file viewer.
const VIEWER_URL: &str = "/tmp/oh-server-url";
/// Another place for it, for several runtimes on one host.
const VIEWER_URL_VARIABLE: &str = "FLEETCORE_VIEWER_URL_FILE";
/// What a user's own shell decides, or the shell's terminal.
const NOT_FOR_OTHERS: [&str; 5] = ["HOME", "USER", "LOGNAME", "SHELL", "MAIL"];
const NOT_FOR_A_TERMINAL: [&str; 3] = ["TERM", "COLUMNS", "LINES"];

/// All of it.
#[derive(Debug)]
pub(super) struct Body {
    shell: Shell,
    workspace: Workspace,
    jupyter: Option<Jupyter>,
    vscode: Option<Vscode>,
    here: bool,
    browser: Option<Browser>,
}

impl Body {
    /// Starts everything the options ask for. Dropped before it is done, nothing is left.
    ///
    /// # Errors
    /// Those of the user, the shell and the plugins, which are named.
    pub(super) async fn start(options: Options, app: App, watch: Arc<Watch>) -> Result<Arc<Self>> {
        let options = Arc::new(options);
        let users = tokio::task::spawn_blocking({
            let options = options.clone();
            move || user::set_up(&options)
        });
        let users = users.await.map_err(|e| {
            Error::new(ErrorKind::Unexpected, e.to_string()).with_operation("set up the user")
        })??;
        let machine = app.fleet().machine("local")?;
        let files = machine.files().await?;
        serve_viewer(&options, &app, files.clone()).await?;
        Self::on(machine, files, users, &options, watch).await
    }

    /// Starts it on a machine of a server, as whoever commands there run as.
    ///
    /// # Errors
    /// Those of the machine, the shell and the plugins, which are named.
    pub(super) async fn hosted(machine: Machine, options: &Options, watch: Arc<Watch>) -> Result<Arc<Self>> {
        let files = machine.files().await?;
        files.create_dir(&options.working_dir).await?;
        Self::on(machine, files, user::Set::default(), options, watch).await
    }

    async fn on(
        machine: Machine,
        files: Files,
        users: user::Set,
        options: &Options,
        watch: Arc<Watch>,
    ) -> Result<Arc<Self>> {
        let here = machine.target().is_local();
        let shell = Shell::open(
            machine,
            &options.working_dir,
            users.shell.as_ref().map(|user| user.name.as_str()),
            Duration::from_secs(options.soft),
            shell_env(options, users.shell.as_ref()),
            watch,
        );
        // As in the original: whose files are is a matter of the user's id alone.
        let owner = users.owner.filter(|_| rustix::process::geteuid().is_root());
        let browser =
            Browser::new(options, users.shell.clone(), owner.as_ref().map(|user| (user.uid, user.uid)))?;
        let workspace = Workspace::new(
            files,
            &options.working_dir,
            owner.map(|user| Owner { uid: user.uid, gid: user.uid }),
        )
        .on_this_host(here);
        let (shell, (jupyter, vscode)) = tokio::try_join!(shell, plugins(options, users.shell.clone()))?;
        Ok(Arc::new(Self { shell, workspace, jupyter, vscode, browser, here }))
    }
}

async fn plugins(options: &Options, user: Option<User>) -> Result<(Option<Jupyter>, Option<Vscode>)> {
    let wanted = options.plugins;
    if wanted.agent_skills && !wanted.jupyter {
        tracing::warn!("agent_skills without jupyter does nothing");
    }
    let jupyter = async {
        if wanted.jupyter { Jupyter::start(options, user.clone()).await.map(Some) } else { Ok(None) }
    };
    let vscode = async {
        if wanted.vscode { Vscode::start(options, user.as_ref()).await.map(Some) } else { Ok(None) }
    };
    let limit = options.plugin_timeout;
    match tokio::time::timeout(limit, async { tokio::try_join!(jupyter, vscode) }).await {
        Ok(started) => started,
        Err(_) => Err(Error::new(ErrorKind::Timeout, "the plugins take too long to start")
            .with_context("seconds", limit.as_secs())),
    }
}

fn shell_env(options: &Options, user: Option<&User>) -> BTreeMap<String, SecretString> {
    let hidden =
        |name: &str| NOT_FOR_A_TERMINAL.contains(&name) || (user.is_some() && NOT_FOR_OTHERS.contains(&name));
    let env = options.env.iter().filter(|(name, _)| !hidden(name));
    env.map(|(name, value)| (name.clone(), SecretString::from(value.as_str()))).collect()
}

/// The file viewer, on a port of its own above ours, for clients of this host.
async fn serve_viewer(options: &Options, app: &App, files: Files) -> Result<()> {
    const TRIES: usize = 10;
    let port = options.listen.port();
    let first = port.saturating_add(1);
    let last = port.saturating_add(1024);
    let mut listener = None;
    for _ in 0..TRIES {
        let port = if port == 0 { 0 } else { rand::random_range(first..=last) };
        if let Ok(bound) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            listener = Some(bound);
            break;
        }
    }
    let none = || Error::new(ErrorKind::Unavailable, "no free port for the file viewer");
    let listener = listener.ok_or_else(none)?;
    let failed = |e| Error::io("listen", e).with_context("what", "file viewer");
    let url = format!("http://localhost:{}", listener.local_addr().map_err(failed)?.port());
    let path = PathBuf::from(options.var(VIEWER_URL_VARIABLE).unwrap_or(VIEWER_URL));
    let told = url.clone();
    let written = tokio::task::spawn_blocking(move || tell(&path, &told)).await;
    // The original cannot do without; ours can.
    if let Ok(Err(error)) | Err(error) = written.map_err(std::io::Error::other) {
        tracing::warn!(%error, "nobody can be told where the file viewer is");
    }
    tracing::info!(url, "file viewer");
    let stop = app.stopping().clone();
    let service = viewer::routes(files).into_make_service_with_connect_info::<std::net::SocketAddr>();
    app.tasks().spawn(async move {
        let serving = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::warn!(%error, "the file viewer ended");
        }
    });
    Ok(())
}

/// Into a new file in place of whatever is there: in `/tmp` that may be a link of somebody else.
fn tell(path: &std::path::Path, url: &str) -> std::io::Result<()> {
    use std::{io::Write as _, os::unix::fs::PermissionsExt as _};
    let dir = path.parent().unwrap_or(std::path::Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(url.as_bytes())?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}

impl Hands for Body {
    fn act(&self, deed: Deed, timeout: Option<f64>) -> BoxFuture<'_, Result<Observation, String>> {
        async move {
            match deed {
                Deed::Run(args) => Ok(self.shell.run(&args, timeout).await),
                Deed::Cell(cell) => match &self.jupyter {
                    Some(jupyter) => Ok(jupyter.run(&cell, &self.shell.cwd(), timeout).await),
                    None => Err("JupyterRequirement not found. Unable to run IPython action.".to_owned()),
                },
                Deed::Read(args) => self.workspace.read(&self.shell.cwd(), &args).await,
                Deed::Write(args) => self.workspace.write(&self.shell.cwd(), &args).await,
                Deed::Edit(args) => self.workspace.edit(&args).await,
                Deed::Browse(browse) => Ok(match &self.browser {
                    Some(browser) => browser.act(&browse, &self.shell.cwd(), timeout).await,
                    None => Observation::error(browser::NONE),
                }),
            }
        }
        .boxed()
    }

    fn files(&self, what: FileRequest, request: Request) -> BoxFuture<'_, Response> {
        async move {
            match what {
                FileRequest::Upload => archive::upload(&self.workspace, request).await,
                FileRequest::Download => archive::download(&self.workspace, request).await,
                FileRequest::List => list::list(&self.workspace, request).await,
            }
        }
        .boxed()
    }

    fn here(&self) -> bool {
        self.here
    }

    fn editor_token(&self) -> Option<String> {
        self.vscode.as_ref().and_then(Vscode::token).map(str::to_owned)
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        async move {
            let jupyter = async {
                if let Some(jupyter) = &self.jupyter {
                    jupyter.stop().await;
                }
            };
            let vscode = async {
                if let Some(vscode) = &self.vscode {
                    vscode.stop().await;
                }
            };
            let browser = async {
                if let Some(browser) = &self.browser {
                    browser.stop().await;
                }
            };
            tokio::join!(self.shell.close(), jupyter, vscode, browser);
        }
        .boxed()
    }
}
