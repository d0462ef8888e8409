//! Registration and heartbeats, at any kind of master.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use rand::Rng as _;
use reqwest::{Client, StatusCode};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    options::{Options, hostname},
    routes::Agent,
};
use crate::compat::batwa::{
    map::{self, Clock},
    remote,
    wire::{HeartbeatIn, HeartbeatOut, RegisterIn, RegisterOut},
};

/// Longest one call may take, as in the originals.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// First pause after a registration that failed.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest pause between registrations that fail.
const RETRY_MOST: Duration = Duration::from_secs(60);
/// The original masters forget agents when they restart and do not say so: after this many heartbeats to one of them
/// the agent registers anew.
const RENEW_AFTER: u32 = 10;
/// Most of an answer that is read.
const ANSWER_MAX: usize = 64 << 10;

struct Heart {
    agent: Arc<Agent>,
    options: Options,
    master: String,
    url: String,
    http: Client,
}

/// What a heartbeat led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The master knows us, and said so.
    Known,
    /// It is one of the originals, which say nothing.
    Taken,
    /// It does not know us.
    Unknown,
    /// It wants the time in the other form.
    OtherClock,
    /// No good answer.
    Failed,
}

/// Registers with the master and beats until the process stops. Failures are logged and tried again.
pub(super) async fn beat(agent: Arc<Agent>, options: Options, master: String, url: String) {
    let http = match remote::client(CALL_LIMIT) {
        Ok(http) => http,
        Err(error) => return tracing::error!(%error, "no HTTP client: not registered with the master"),
    };
    let stop = agent.app.stopping().clone();
    let heart = Heart { agent, options, master, url, http };
    stop.run_until_cancelled(heart.run(&stop)).await;
}

impl Heart {
    async fn run(&self, stop: &CancellationToken) {
        let mut again = false;
        while !stop.is_cancelled() {
            let mut clock = self.registered().await;
            let mut every =
                tokio::time::interval_at(Instant::now() + self.options.interval, self.options.interval);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            if again {
                // A registration sets the number of machines to 0.
                self.heartbeat(clock).await;
            }
            again = true;
            let mut silent = 0;
            loop {
                every.tick().await;
                match self.heartbeat(clock).await {
                    Answer::Known => {}
                    Answer::Taken if silent < RENEW_AFTER => silent += 1,
                    Answer::OtherClock if clock != Clock::Zoned => clock = Clock::Zoned,
                    Answer::Taken | Answer::Unknown | Answer::OtherClock | Answer::Failed => break,
                }
            }
        }
    }

    /// Registers, however long it takes; tells how the master wants its time.
    async fn registered(&self) -> Clock {
        let mut pause = RETRY_FIRST;
        loop {
            match self.register().await {
                Ok(clock) => {
                    tracing::info!(master = self.master, url = self.url, "registered with the master");
                    return clock;
                }
                Err(why) => tracing::error!("Error registering with master: {why}"),
            }
            // All agents of a master that restarts come at once otherwise.
            let jitter = rand::rng().random_range(0.75..1.25);
            tokio::time::sleep(pause.mul_f64(jitter)).await;
            pause = (pause * 2).min(RETRY_MOST);
        }
    }

    async fn register(&self) -> Result<Clock, String> {
        let hostname = hostname();
        let body = RegisterOut {
            agent_id: &self.options.id,
            hostname: &hostname,
            api_url: &self.url,
            api_key: self.options.key.as_ref().map(|k| k.expose_secret()),
            tags: BTreeMap::new(),
        };
        let (status, answer) = self.call("register", &body).await?;
        if !status.is_success() {
            return Err(format!("the master answered {status}"));
        }
        let answer: RegisterIn = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
        let last_seen = answer.agent.and_then(|a| a.last_seen);
        Ok(Clock::of_master(last_seen.as_deref(), Timestamp::now()))
    }

    async fn heartbeat(&self, clock: Clock) -> Answer {
        let vm_count = self.agent.listing().await.ok().and_then(|l| map::count(&l)).unwrap_or(0);
        let timestamp = clock.show(Timestamp::now());
        let id = &self.options.id;
        let body = HeartbeatOut { agent_id: id, timestamp: &timestamp, status: "online", vm_count };
        match self.call("heartbeat", &body).await {
            Ok((status, answer)) => meaning(status, &answer),
            Err(why) => {
                tracing::error!("Error sending heartbeat: {why}");
                Answer::Failed
            }
        }
    }

    async fn call(&self, what: &str, body: &impl Serialize) -> Result<(StatusCode, Vec<u8>), String> {
        let mut request = self.http.post(format!("{}/api/agent/{what}", self.master)).json(body);
        if let Some(key) = &self.options.key {
            request = request.header("X-API-Key", key.expose_secret());
        }
        let work = async {
            let mut reply = request.send().await?;
            let status = reply.status();
            let mut all = Vec::new();
            while let Some(piece) = reply.chunk().await? {
                all.extend_from_slice(&piece);
                if all.len() > ANSWER_MAX {
                    break;
                }
            }
            Ok::<_, reqwest::Error>((status, all))
        };
        match tokio::time::timeout(CALL_LIMIT, work).await {
            Ok(done) => done.map_err(|e| reason(&e)),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}

/// The innermost cause is what people need to know.
fn reason(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = cause.to_string();
        next = cause.source();
    }
    text
}

fn meaning(status: StatusCode, answer: &[u8]) -> Answer {
    if status == StatusCode::BAD_REQUEST {
        return Answer::OtherClock;
    }
    if !status.is_success() {
        tracing::error!("Error sending heartbeat: the master answered {status}");
        return Answer::Failed;
    }
    match serde_json::from_slice::<HeartbeatIn>(answer).ok().and_then(|h| h.registered) {
        Some(true) => Answer::Known,
        Some(false) => Answer::Unknown,
        None => Answer::Taken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_masters_answer() {
        for (status, body, want) in [
            (200, r#"{"success":true,"message":"Heartbeat received","registered":true}"#, Answer::Known),
            (200, r#"{"success":true,"message":"Heartbeat received","registered":false}"#, Answer::Unknown),
            (200, r#"{"success":true,"message":"Heartbeat received"}"#, Answer::Taken),
            (400, r#"{"error":"Invalid request"}"#, Answer::OtherClock),
            (403, "", Answer::Failed),
            (502, "<html>", Answer::Failed),
        ] {
            assert_eq!(meaning(StatusCode::from_u16(status).unwrap(), body.as_bytes()), want, "{body}");
        }
    }
}
