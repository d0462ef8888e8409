//! The DevTools protocol over a pipe: calls, and what the browser tells by itself.
//!
//! A pipe and not a port: a port would be open to everybody on the host, and could not be reached in a sandbox without
//! a network. Messages end with a NUL byte.

#![expect(
    clippy::indexing_slicing,
    reason = "only read: what a JSON value does not have is null, and no panic"
)]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use super::tabs::{LAST_ORDER, World};

/// Largest message; a page that makes a larger one ends the browser, and not us.
const MESSAGE: u64 = 128 << 20;
/// From here on a message is a large one.
const LARGE: usize = 256 << 10;
/// Messages on their way to the browser.
const WAITING: usize = 256;

/// What is said of a call whose page is no more.
pub(super) const CLOSED: &str = "Target page, context or browser has been closed";

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The browser said so.
    Said(String),
    /// There is no browser any more.
    Gone,
}

type Answer = Result<Value, Failed>;

struct Call {
    session: Option<String>,
    answer: oneshot::Sender<Answer>,
}

/// A connection. Clones are the same one.
#[derive(Clone)]
pub(super) struct Cdp {
    inner: Arc<Inner>,
}

struct Inner {
    out: mpsc::Sender<Vec<u8>>,
    calls: Mutex<HashMap<u64, Call>>,
    next: AtomicU64,
    world: Mutex<World>,
    changed: watch::Sender<u64>,
    closed: CancellationToken,
}

impl std::fmt::Debug for Cdp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cdp").field("closed", &self.inner.closed.is_cancelled()).finish_non_exhaustive()
    }
}

/// Takes its call out of those that wait, however it ends.
struct Waiting<'a> {
    inner: &'a Inner,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.calls.lock().remove(&self.id);
    }
}

/// What to send to a session without waiting for an answer.
pub(super) type Order = (String, &'static str, Value);

impl Cdp {
    /// Speaks with the browser at the other ends; both tasks end with the pipe.
    pub(super) fn new(
        from: impl AsyncRead + Send + Unpin + 'static,
        mut to: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        let (out, mut waiting) = mpsc::channel::<Vec<u8>>(WAITING);
        let inner = Arc::new(Inner {
            out,
            calls: Mutex::default(),
            next: AtomicU64::new(1),
            world: Mutex::default(),
            changed: watch::Sender::new(0),
            closed: CancellationToken::new(),
        });
        let closed = inner.closed.clone();
        tokio::spawn(async move {
            while let Some(Some(message)) = closed.run_until_cancelled(waiting.recv()).await {
                if to.write_all(&message).await.is_err() {
                    break;
                }
            }
            closed.cancel();
        });
        tokio::spawn(read(from, inner.clone()));
        Self { inner }
    }

    /// Whether there is no browser any more.
    pub(super) fn closed(&self) -> bool {
        self.inner.closed.is_cancelled()
    }

    /// Ends the connection; everything that waits for it fails.
    pub(super) fn close(&self) {
        self.inner.closed.cancel();
    }

    /// Looks at what is known about the browser, or changes it.
    pub(super) fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.inner.world.lock())
    }

    /// Calls a method, of a page or of the browser. Dropped, its answer is not waited for.
    pub(super) async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Answer {
        let inner = &*self.inner;
        let id = inner.next.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        inner.calls.lock().insert(id, Call { session: session.map(str::to_owned), answer: tell });
        let _waiting = Waiting { inner, id };
        inner.out.send(message(id, session, method, params)).await.map_err(|_| Failed::Gone)?;
        tokio::select! {
            biased;
            answer = told => answer.unwrap_or_else(|_| match inner.closed.is_cancelled() {
                true => Err(Failed::Gone),
                false => Err(Failed::Said(CLOSED.to_owned())),
            }),
            () = inner.closed.cancelled() => Err(Failed::Gone),
        }
    }

    /// Waits until `look` finds what it looks for, which is tried after everything the browser tells.
    pub(super) async fn wait<T>(&self, mut look: impl FnMut(&mut World) -> Option<T>) -> Result<T, Failed> {
        let mut changed = self.inner.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(found) = self.world(&mut look) {
                return Ok(found);
            }
            tokio::select! {
                biased;
                told = changed.changed() => told.map_err(|_| Failed::Gone)?,
                () = self.inner.closed.cancelled() => return Err(Failed::Gone),
            }
        }
    }
}

/// A part of an answer; null, when it has none.
pub(super) fn part(mut answer: Value, pointer: &str) -> Value {
    answer.pointer_mut(pointer).map(Value::take).unwrap_or_default()
}

fn message(id: u64, session: Option<&str>, method: &str, params: Value) -> Vec<u8> {
    let mut message = json!({ "id": id, "method": method, "params": params });
    if let (Some(session), Some(map)) = (session, message.as_object_mut()) {
        map.insert("sessionId".to_owned(), session.into());
    }
    let mut bytes = message.to_string().into_bytes();
    bytes.push(0);
    bytes
}

async fn read(from: impl AsyncRead + Unpin, inner: Arc<Inner>) {
    let mut from = BufReader::with_capacity(64 << 10, from);
    let mut bytes = Vec::new();
    let closed = inner.closed.clone();
    loop {
        bytes.clear();
        let mut limited = (&mut from).take(MESSAGE);
        let read = limited.read_until(0, &mut bytes);
        match closed.run_until_cancelled(read).await {
            Some(Ok(1..)) if bytes.pop() == Some(0) => {}
            Some(Ok(1..)) => {
                tracing::warn!("a message of the browser is too large, or was cut off");
                break;
            }
            _ => break,
        }
        // Large ones are read where they hold nobody up.
        let message = if bytes.len() > LARGE {
            let bytes = std::mem::take(&mut bytes);
            let read = tokio::task::spawn_blocking(move || serde_json::from_slice::<Value>(&bytes));
            read.await.ok().and_then(Result::ok)
        } else {
            serde_json::from_slice(&bytes).ok()
        };
        if let Some(message) = message {
            take(&inner, message);
        }
    }
    inner.closed.cancel();
    inner.calls.lock().clear();
}

fn take(inner: &Inner, mut message: Value) {
    if let Some(id) = message.get("id").and_then(Value::as_u64) {
        let opened = inner.world.lock().answered(id);
        if opened {
            inner.changed.send_modify(|n| *n = n.wrapping_add(1));
        }
        if let Some(call) = inner.calls.lock().remove(&id) {
            let answer = match message.get("error") {
                Some(error) => {
                    Err(Failed::Said(error["message"].as_str().unwrap_or("unknown error").to_owned()))
                }
                None => Ok(message.get_mut("result").map(Value::take).unwrap_or_default()),
            };
            // Whoever asked may be gone.
            let _ = call.answer.send(answer);
        }
        return;
    }
    let method = message["method"].as_str().unwrap_or_default().to_owned();
    let session = message["sessionId"].as_str().map(str::to_owned);
    let params = message.get_mut("params").map(Value::take).unwrap_or_default();
    if method == "Target.detachedFromTarget" {
        // Its calls are answered by nobody.
        let left = params["sessionId"].as_str().unwrap_or_default();
        inner.calls.lock().retain(|_, call| call.session.as_deref() != Some(left));
    }
    // Whoever sees a new tab finds what it is told first on its way already.
    let mut world = inner.world.lock();
    for (session, method, params) in world.hear(&method, session.as_deref(), &params) {
        let id = inner.next.fetch_add(1, Ordering::Relaxed);
        if method == LAST_ORDER {
            world.opens(id, &session);
        }
        if inner.out.try_send(self::message(id, Some(&session), method, params)).is_err() {
            tracing::warn!(method, "the browser does not listen");
        }
    }
    drop(world);
    inner.changed.send_modify(|n| *n = n.wrapping_add(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_are_answered_refused_and_fail_when_the_browser_is_gone() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (from, to) = tokio::io::split(ours);
        let cdp = Cdp::new(from, to);
        let (from, mut to) = tokio::io::split(theirs);
        let mut from = BufReader::new(from);
        let browser = async {
            for answer in [json!({ "result": { "a": 1 } }), json!({ "error": { "message": "no" } })] {
                let mut bytes = Vec::new();
                from.read_until(0, &mut bytes).await.unwrap();
                bytes.pop();
                let asked: Value = serde_json::from_slice(&bytes).unwrap();
                let mut answer = answer;
                answer["id"] = asked["id"].clone();
                to.write_all(format!("{answer}\0").as_bytes()).await.unwrap();
            }
        };
        let calls = async {
            assert_eq!(cdp.call(None, "A.b", json!({})).await, Ok(json!({ "a": 1 })));
            assert_eq!(cdp.call(Some("s"), "A.b", json!({})).await, Err(Failed::Said("no".into())));
        };
        tokio::join!(browser, calls);
        let pending = tokio::spawn({
            let cdp = cdp.clone();
            async move { cdp.call(None, "A.b", json!({})).await }
        });
        let mut byte = [0];
        from.read_exact(&mut byte).await.unwrap();
        drop((from, to));
        assert_eq!(pending.await.unwrap(), Err(Failed::Gone));
        assert!(cdp.closed() && cdp.inner.calls.lock().is_empty());
        assert_eq!(cdp.wait(|_| None::<()>).await, Err(Failed::Gone));
    }
}
