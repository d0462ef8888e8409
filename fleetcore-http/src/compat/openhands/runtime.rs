//! The runtime: what it can do once it is ready, and how an action becomes an answer.

use std::sync::{Arc, OnceLock};

use axum::{
    extract::Request,
    http::{StatusCode, header},
    response::Response,
};
use fleetcore::Result;
use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    action::{self, Act, Deed, Event, Refused},
    fair::heavy,
    info::Info,
    mcp::Proxy,
    observation::Observation,
    options::Options,
    queue::{Answer, Id, Queue},
    reply,
    resources::Resources,
    room::{Room, Whole},
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
    /// For the bodies of requests that wait.
    pub(super) room: Room,
    queue: Queue,
    hands: OnceLock<Arc<dyn Hands>>,
    /// Large bodies are understood one after another: what they are made into on the way is larger still.
    reading: Semaphore,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Runtime {
    /// One that is not ready yet. It takes actions until `stop`.
    ///
    /// # Errors
    /// Those of [`Resources::start`].
    pub(super) fn start(
        mut options: Options,
        watch: Arc<Watch>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Arc<Self>> {
        let resources = Resources::start(&mut options)?;
        let (queue, turns) = Queue::new(stop.clone());
        tasks.spawn(turns);
        let dir = options.working_dir.clone().into();
        let proxy = Proxy::new(options.key.clone(), options.env.clone(), dir, stop);
        Ok(Arc::new(Self {
            options,
            info: Info::new(),
            resources,
            proxy,
            watch,
            room: Room::new(),
            queue,
            hands: OnceLock::new(),
            reading: Semaphore::new(1),
        }))
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
    pub(super) async fn execute(self: &Arc<Self>, hands: &Arc<dyn Hands>, request: Whole) -> Response {
        let Whole { headers, body, held } = request;
        let understand = move || {
            let kind = headers.get(header::CONTENT_TYPE).map(|t| t.to_str().unwrap_or("?"));
            let event = action::parse(&body, kind)?;
            let id = event.named.then(|| Id::of(&body));
            Ok((event, id))
        };
        let understood = if held.is_some() {
            let _turn = self.reading.acquire().await;
            match tokio::task::spawn_blocking(understand).await {
                Ok(understood) => understood,
                Err(_) => return reply::unexpected(),
            }
        } else {
            understand()
        };
        let (Event { act, timeout, .. }, id) = match understood {
            Ok(understood) => understood,
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
                // What the request carried is part of the action until that is done.
                let _held = held;
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
        self.queue.execute(id, work).await
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
        Some(body) => Answer { status: StatusCode::OK, body: heavy(body) },
        None => error("the answer cannot be written"),
    }
}

fn error(text: &str) -> Answer {
    let body = serde_json::json!({ "detail": format!("Internal server error: {text}") });
    Answer { status: StatusCode::INTERNAL_SERVER_ERROR, body: body.to_string().into() }
}
