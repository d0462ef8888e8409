//! What a dialect is to those who start it.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, sync::Arc};

use axum::Router;
use fleetcore::{Provider, Result};
use futures::future::BoxFuture;

use crate::{App, ServerConfig};

/// How the program was called.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Call {
    /// The name it was called by, without directories.
    pub name: String,
    /// Its arguments, without the name.
    pub args: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Where to listen, when that is not the dialect's own choice: `fleetcore serve --compat NAME=ADDR`.
    pub listen: Option<SocketAddr>,
}

impl Call {
    /// A call of the program `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Sets the arguments.
    #[must_use]
    pub fn with_args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the environment.
    #[must_use]
    pub fn with_env<K: Into<String>, V: Into<String>>(
        mut self,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.env = env.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        self
    }

    /// Sets where to listen.
    #[must_use]
    pub fn with_listen(mut self, listen: SocketAddr) -> Self {
        self.listen = Some(listen);
        self
    }
}

/// Why a call starts nothing, in the words and with the exit code of the original. Asking for help is one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// Exit code; 0 means the text is what was asked for and belongs on standard output.
    pub code: u8,
    /// What to print, with its line breaks.
    pub text: String,
}

impl Refusal {
    /// A refusal with an exit code.
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// The wire formats of one program of another system.
pub trait Dialect: fmt::Debug + Send + Sync + 'static {
    /// Its name after `fleetcore compat` and in `--compat NAME=ADDR`.
    fn name(&self) -> &'static str;
    /// Other names of the original program; a binary linked under one of them behaves the same.
    fn aliases(&self) -> &'static [&'static str];
    /// One line for lists.
    fn about(&self) -> &'static str;
    /// Understands the original's arguments and environment. Nothing is opened or started.
    ///
    /// # Errors
    /// What the original would have said, or its help.
    fn parse(&self, call: &Call) -> Result<Box<dyn Plan>, Refusal>;
}

/// A call that was understood.
pub trait Plan: fmt::Debug + Send {
    /// Settings of the server it runs in when it stands alone, the address to listen on among them.
    fn config(&self) -> ServerConfig;
    /// Where it wants its data, if the caller said so.
    fn data_dir(&self) -> Option<PathBuf>;
    /// Whether people, tokens and deeds have to outlive the process.
    fn keeps_records(&self) -> bool;
    /// Machines it brings into the fleet it will run in, which has to be built with them. They show nothing before the
    /// start.
    fn providers(&self) -> Vec<Arc<dyn Provider>> {
        Vec::new()
    }
    /// Variables with secrets for the program itself: nothing it runs may see them.
    fn secrets(&self) -> &'static [&'static str] {
        &[]
    }
    /// How the original ends where its clients could tell; by default as this program does.
    fn exits(&self) -> Exits {
        Exits::default()
    }
    /// Starts it. Background work belongs to `host.app` and ends when that stops.
    fn start(self: Box<Self>, host: Host) -> BoxFuture<'static, Result<Service>>;
}

/// How a program ends. What is not said is as this program does it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exits {
    /// Exit code when it cannot listen.
    pub listen: Option<u8>,
    /// Exit code when what it does after that fails; see [`Service::with_starting`].
    pub start: Option<u8>,
    /// A signal that asks it to end is also what it dies of, once all is done.
    pub of_signal: bool,
}

impl Exits {
    /// With these codes.
    pub fn with_codes(listen: u8, start: u8) -> Self {
        Self { listen: Some(listen), start: Some(start), of_signal: false }
    }

    /// Dies of the signal that asked it to end.
    #[must_use]
    pub fn of_signal(mut self) -> Self {
        self.of_signal = true;
        self
    }
}

/// Where a dialect lives.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Host {
    /// Fleet, people, limits and audit log it shares with whatever else this process serves.
    pub app: App,
    /// A directory of its own for what only that system has. Made when first needed.
    pub dir: PathBuf,
    /// The address it is reached at.
    pub address: SocketAddr,
}

impl Host {
    /// A place for a dialect.
    pub fn new(app: App, dir: impl Into<PathBuf>, address: SocketAddr) -> Self {
        Self { app, dir: dir.into(), address }
    }
}

/// A dialect that runs.
#[non_exhaustive]
pub struct Service {
    /// Its routes.
    pub router: Router,
    /// What the operator has to be told once, such as a first password.
    pub notes: Vec<String>,
    pub(super) starting: Option<BoxFuture<'static, Result<()>>>,
    pub(super) exact_paths: bool,
}

impl Service {
    /// A service with nothing to tell.
    pub fn new(router: Router) -> Self {
        Self { router, notes: Vec::new(), starting: None, exact_paths: false }
    }

    /// Adds a line for the operator.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// What is left to do once it listens, while its routes already answer. When this fails, the listener ends.
    #[must_use]
    pub fn with_starting(mut self, starting: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        self.starting = Some(Box::pin(starting));
        self
    }

    /// Its routes see the path as it was sent; otherwise one with a slash at its end means the one without.
    #[must_use]
    pub fn with_exact_paths(mut self) -> Self {
        self.exact_paths = true;
        self
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("notes", &self.notes.len()).finish_non_exhaustive()
    }
}
