//! The older transport of MCP over HTTP: events one way, posts the other.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    super::{auth, reply, room::Whole},
    proxy::Proxy,
};

/// Messages that wait for a client.
const WAITING: usize = 256;
/// Requests of one client at once.
const AT_ONCE: usize = 64;
/// Clients at once.
const SESSIONS: usize = 256;
/// How often a silent stream shows that it lives.
const PING: Duration = Duration::from_secs(15);

/// Clients that listen.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

#[derive(Debug)]
struct Session {
    out: mpsc::Sender<Value>,
    /// Ends with the client.
    gone: CancellationToken,
    /// What runs, by the id of its request.
    calls: Mutex<HashMap<String, CancellationToken>>,
    places: Arc<Semaphore>,
}

impl Sessions {
    /// Tells everybody that a list has changed. Who has too much to read already will see it anyway.
    pub(super) fn tell(&self, method: &str) {
        for session in self.0.lock().values() {
            let _ = session.out.try_send(json!({ "jsonrpc": "2.0", "method": method }));
        }
    }
}

/// Takes a client off the list when its stream is dropped.
struct Registered {
    proxy: Arc<Proxy>,
    id: String,
    gone: CancellationToken,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.gone.cancel();
        self.proxy.sessions.0.lock().remove(&self.id);
    }
}

impl Proxy {
    /// `GET /mcp/sse`: `base` is the path its messages go to.
    pub(in super::super) fn listen(self: &Arc<Self>, base: &str, headers: &HeaderMap) -> Response {
        if let Some(refused) = auth::bearer_refusal(self.key.as_ref(), headers) {
            return refused;
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let (out, messages) = mpsc::channel(WAITING);
        let gone = self.stop.child_token();
        {
            let mut all = self.sessions.0.lock();
            if all.len() >= SESSIONS {
                return reply::detail(StatusCode::TOO_MANY_REQUESTS, "Too many MCP sessions");
            }
            let session = Session {
                out,
                gone: gone.clone(),
                calls: Mutex::default(),
                places: Arc::new(Semaphore::new(AT_ONCE)),
            };
            all.insert(id.clone(), Arc::new(session));
        }
        let first = Event::default().event("endpoint").data(format!("{base}?session_id={id}"));
        let registered = Registered { proxy: self.clone(), id, gone };
        let events =
            stream::unfold((Some(first), messages, registered), |(first, mut messages, registered)| async {
                let event = match first {
                    Some(first) => first,
                    None => {
                        let message = tokio::select! {
                            message = messages.recv() => message?,
                            () = registered.gone.cancelled() => return None,
                        };
                        Event::default().event("message").data(message.to_string())
                    }
                };
                Some((Ok::<_, Infallible>(event), (None, messages, registered)))
            });
        let ping = KeepAlive::new().interval(PING).text("ping");
        let mut response = Sse::new(events).keep_alive(ping).into_response();
        let all = response.headers_mut();
        all.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        all.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        all.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    /// `POST /mcp/messages/`: the answer comes through the stream.
    pub(in super::super) async fn message(self: &Arc<Self>, query: Option<&str>, request: Whole) -> Response {
        let Whole { headers, body, held } = request;
        if let Some(refused) = auth::bearer_refusal(self.key.as_ref(), &headers) {
            return refused;
        }
        let pairs: Vec<(String, String)> =
            serde_html_form::from_str(query.unwrap_or_default()).unwrap_or_default();
        let Some((_, id)) = pairs.into_iter().find(|(k, _)| k == "session_id") else {
            return reply::text(StatusCode::BAD_REQUEST, None, "session_id is required");
        };
        let Some(session) = self.sessions.0.lock().get(&id).cloned() else {
            return reply::text(StatusCode::NOT_FOUND, None, "Could not find session");
        };
        let read = move || serde_json::from_slice::<Value>(&body).ok();
        let message = if held.is_some() {
            let Ok(_turn) = self.reading.acquire().await else { return reply::unexpected() };
            tokio::task::spawn_blocking(read).await.ok().flatten()
        } else {
            read()
        };
        let message = match message {
            Some(message) if message.is_object() => message,
            _ => return reply::text(StatusCode::BAD_REQUEST, None, "Could not parse message"),
        };
        if message.get("method").and_then(Value::as_str) == Some("notifications/cancelled") {
            let id = message.pointer("/params/requestId").map(Value::to_string).unwrap_or_default();
            if let Some(call) = session.calls.lock().remove(&id) {
                call.cancel();
            }
        } else if message.get("id").is_some() {
            let Ok(place) = session.places.clone().try_acquire_owned() else {
                return reply::text(StatusCode::TOO_MANY_REQUESTS, None, "Too many requests at once");
            };
            let (proxy, call) = (self.clone(), session.gone.child_token());
            let id = message.get("id").map(Value::to_string).unwrap_or_default();
            session.calls.lock().insert(id.clone(), call.clone());
            tokio::spawn(async move {
                let _holds = (place, held);
                let work = async {
                    if let Some(answer) = proxy.answer(&message).await {
                        // Fails when the client has gone.
                        let _ = session.out.send(answer).await;
                    }
                };
                call.run_until_cancelled(work).await;
                session.calls.lock().remove(&id);
            });
        }
        reply::text(StatusCode::ACCEPTED, None, "Accepted")
    }
}
