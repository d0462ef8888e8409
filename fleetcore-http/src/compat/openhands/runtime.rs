//! The runtime: what it can do once it is ready, and how an action becomes an answer.

use std::sync::{Arc, OnceLock};

use axum::{extract::Request, http::StatusCode, response::Response};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};

use super::{
    action::{self, Act, Deed, Event, Refused},
    info::Info,
    mcp::Proxy,
    observation::Observation,
    options::Options,
    queue::{Answer, Queue},
    reply,
    resources::Resources,
    watch::{self, Watch},
};

/// Requests about files that are no actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileRequest {
    Upload,
    Download,
    List,
}

/// What acts: the shell, the files and the plugins together, and something else in tests.
pub(super) trait Hands: Send + Sync + 'static {
    /// Does one action; never two at once. The error is the text of what the original would have raised.
    fn act(&self, deed: Deed, timeout: Option<f64>) -> BoxFuture<'_, Result<Observation, String>>;
    /// Answers a request about files, at any time.
    fn files(&self, what: FileRequest, request: Request) -> BoxFuture<'_, Response>;
    /// Whether it works on the host this program runs on.
    fn here(&self) -> bool {
        true
    }
    /// The token of the editor's pages.
    fn editor_token(&self) -> Option<String>;
    /// Ends everything it has started.
    fn stop(&self) -> BoxFuture<'_, ()>;
}

/// A runtime.
pub(super) struct Runtime {
    pub(super) options: Options,
    pub(super) info: Info,
    pub(super) resources: Resources,
    pub(super) proxy: Arc<Proxy>,
    pub(super) watch: Arc<Watch>,
    queue: Queue,
    hands: OnceLock<Arc<dyn Hands>>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Runtime {
    /// One that is not ready yet.
    pub(super) fn new(
        options: Options,
        resources: Resources,
        queue: Queue,
        proxy: Arc<Proxy>,
        watch: Arc<Watch>,
    ) -> Self {
        Self { options, info: Info::new(), resources, proxy, watch, queue, hands: OnceLock::new() }
    }

    /// Actions that wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// It is ready now.
    pub(super) fn set_ready(&self, hands: Arc<dyn Hands>) {
        // A second time changes nothing.
        let _ = self.hands.set(hands);
    }

    /// What acts, once it is ready.
    pub(super) fn hands(&self) -> Option<&Arc<dyn Hands>> {
        self.hands.get()
    }

    /// `/execute_action`.
    pub(super) async fn execute(
        self: &Arc<Self>,
        hands: &Arc<dyn Hands>,
        body: &Bytes,
        content_type: Option<&str>,
    ) -> Response {
        let Event { act, timeout, named } = match action::parse(body, content_type) {
            Ok(event) => event,
            Err(Refused::Invalid(errors)) => return reply::invalid(errors),
            Err(Refused::Internal(text)) => return reply::internal(text),
            Err(Refused::Unreadable) => {
                return reply::detail(
                    axum::http::StatusCode::BAD_REQUEST,
                    "There was an error parsing the body",
                );
            }
        };
        let (runtime, hands) = (self.clone(), hands.clone());
        let work = move || {
            async move {
                runtime.info.begin();
                let (kind, about) = watch::describe(&act);
                let mut acting = runtime.watch.began(kind, about);
                let mut outcome = match act {
                    Act::Unable(name) => Err(format!("'ActionExecutor' object has no attribute '{name}'")),
                    Act::Wrong(text) => Ok(Observation::error(text)),
                    Act::Failed(text) => Err(text),
                    Act::Do(deed) => hands.act(*deed, timeout).await,
                };
                runtime.info.touch();
                if let Ok(observation) = &mut outcome
                    && observation.may_be_told_more()
                    && let Some(news) = runtime.resources.news()
                {
                    observation.content.push_str(&news);
                }
                acting.saw(&outcome);
                let answer = answer(outcome).await;
                acting.ends(&answer);
                answer
            }
            .boxed()
        };
        self.queue.execute(named.then_some(body), work).await
    }
}

/// Larger answers are written where they hold nobody up.
const LARGE: usize = 256 << 10;

async fn answer(outcome: Result<Observation, String>) -> Answer {
    match outcome {
        Ok(observation) if observation.content.len() > LARGE => {
            let written = tokio::task::spawn_blocking(move || serde_json::to_vec(&observation)).await;
            ok(written.ok().and_then(Result::ok))
        }
        Ok(observation) => ok(serde_json::to_vec(&observation).ok()),
        Err(text) => error(&text),
    }
}

fn ok(body: Option<Vec<u8>>) -> Answer {
    match body {
        Some(body) => Answer { status: StatusCode::OK, body: body.into() },
        None => error("the answer cannot be written"),
    }
}

fn error(text: &str) -> Answer {
    let body = serde_json::json!({ "detail": format!("Internal server error: {text}") });
    Answer { status: StatusCode::INTERNAL_SERVER_ERROR, body: body.to_string().into() }
}
