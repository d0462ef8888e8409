//! The runtime on a machine of a server, instead of where its own program runs.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, extract::Request, http::HeaderMap, response::Response};
use fleetcore::{Error, ErrorKind, Machine, Result, Session};
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{
    auth,
    body::Body,
    options::RUNTIME,
    routes::{self, MountedAt},
    runtime::{Hands, Runtime},
    watch::{Feed, From, RuntimeState, Watch},
};
use crate::{App, compat::Call};

/// The memory limit of a runtime that has its machine for itself.
const MEMORY_LIMIT: &str = "RUNTIME_MAX_MEMORY_GB";
/// Of the server's own environment, what helpers on this host get: nothing that may be a secret.
const HARMLESS: [&str; 8] = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ"];

/// How one is started.
#[derive(Debug)]
pub(crate) struct HostedSpec {
    /// What its sessions are called, before a number.
    pub(crate) name: String,
    /// Where it is mounted, without a slash at the end.
    pub(crate) mount: String,
    pub(crate) key: SecretString,
    pub(crate) working_dir: String,
    pub(crate) plugins: Vec<String>,
    pub(crate) env: BTreeMap<String, SecretString>,
    pub(crate) no_change_timeout_s: Option<u64>,
}

/// One that runs.
pub(crate) struct Hosted {
    router: Router,
    runtime: Arc<Runtime>,
    hands: Arc<dyn Hands>,
    mount: MountedAt,
}

impl std::fmt::Debug for Hosted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hosted").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

impl Hosted {
    /// Starts it on `machine`; it ends with `stop`, and then wants [`end`](Self::end).
    ///
    /// # Errors
    /// `InvalidInput`, `Unsupported` for a plugin there cannot be on that machine; those of the machine, the shell
    /// and the plugins.
    pub(crate) async fn start(
        app: &App,
        machine: Machine,
        spec: HostedSpec,
        stop: CancellationToken,
    ) -> Result<Self> {
        let here = machine.target().is_local();
        if let Some(plugin) = spec.plugins.iter().find(|p| !here || *p == "vscode") {
            return Err(Error::unsupported("plugin of a runtime")
                .with_context("plugin", plugin)
                .with_context("target", machine.target())
                .with_context("hint", "only jupyter and agent_skills, and only on the server's own host"));
        }
        if spec.env.contains_key(MEMORY_LIMIT) {
            // It would take processes out of the sandbox's own groups, and elsewhere it would hold nothing.
            return Err(Error::invalid(
                "env",
                format!("without {MEMORY_LIMIT}; a new sandbox has memory_bytes"),
            ));
        }
        let mut env = BTreeMap::new();
        if here {
            let set =
                HARMLESS.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
            env.extend(set);
        }
        env.extend(spec.env.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned())));
        env.insert("SESSION_API_KEY".to_owned(), spec.key.expose_secret().to_owned());
        env.insert("SU_TO_USER".to_owned(), "false".to_owned());
        if let Some(seconds) = spec.no_change_timeout_s {
            env.insert("NO_CHANGE_TIMEOUT_SECONDS".to_owned(), seconds.to_string());
        }
        let mut args = vec!["0", "--working-dir", spec.working_dir.as_str(), "--no-enable-browser"];
        if !spec.plugins.is_empty() {
            args.push("--plugins");
            args.extend(spec.plugins.iter().map(String::as_str));
        }
        let mut options =
            RUNTIME.options(&Call::new("runtime").with_args(args).with_env(env)).map_err(|why| {
                Error::new(ErrorKind::InvalidInput, why.text.trim().to_owned())
                    .with_operation("start a runtime")
            })?;
        for ours in ["SU_TO_USER", "NO_CHANGE_TIMEOUT_SECONDS"] {
            options.env.remove(ours);
        }
        let watch = Watch::new(Some(spec.name), stop.clone());
        let runtime = Runtime::start(options, watch.clone(), app.tasks(), stop)?;
        let target = machine.target().clone();
        let hands: Arc<dyn Hands> = Body::hosted(machine, &runtime.options, watch.clone()).await?;
        runtime.set_ready(hands.clone());
        let sessions = app.fleet().sessions().clone();
        watch.on_open(move |session: Arc<dyn Session>| {
            // People attach to what the fleet lists. It is not needed for anything else.
            if let Err(error) = sessions.adopt(&target, session) {
                tracing::warn!(%error, "the shell of a runtime is not listed");
            }
        });
        Ok(Self {
            router: routes::router(runtime.clone()),
            runtime,
            hands,
            mount: MountedAt(spec.mount.into()),
        })
    }

    /// Answers a request whose path is as below the mount.
    pub(crate) async fn answer(&self, mut request: Request) -> Response {
        let path = request.uri().path();
        // On a server that others share, what it measures is nobody else's business.
        if path != "/alive"
            && let Some(refused) = auth::refusal(self.runtime.options.key.as_ref(), "", request.headers())
        {
            return refused;
        }
        request.extensions_mut().insert(self.mount.clone());
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Whether the key is sent.
    pub(crate) fn knows(&self, headers: &HeaderMap) -> bool {
        auth::refusal(self.runtime.options.key.as_ref(), "", headers).is_none()
    }

    /// What it is doing.
    pub(crate) fn state(&self) -> RuntimeState {
        self.runtime.watch.state()
    }

    /// A reader of what happens; see [`Watch::feed`].
    pub(crate) fn feed(&self, from: From, output: bool) -> Result<Option<Feed>, ()> {
        self.runtime.watch.feed(from, output)
    }

    /// Ends the shell and all that was started.
    pub(crate) async fn end(&self) {
        self.runtime.proxy.close();
        self.hands.stop().await;
    }
}
