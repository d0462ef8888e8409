use std::time::Duration;

use async_trait::async_trait;
use futures::{
    future::FutureExt,
    stream::{self, BoxStream},
};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::broadcast;

use super::{
    SqliteStore,
    error::{db, decode, encode, nanos},
};
use crate::{
    AgentId, AgentInfo, AgentRegistration, AgentRegistry, AgentReport, Labels, Lease, RegistryEvent, Result,
    store::{agents as rules, watch},
};

const OP: &str = "agents";

fn find(conn: &Connection, id: &AgentId) -> Result<Option<AgentInfo>> {
    let body: Option<String> = conn
        .prepare_cached("SELECT body FROM agents WHERE id = ?1")
        .and_then(|mut s| s.query_row([id.as_str()], |row| row.get(0)).optional())
        .map_err(db(OP))?;
    body.as_deref().map(decode).transpose()
}

fn get(conn: &Connection, id: &AgentId) -> Result<AgentInfo> {
    find(conn, id)?.ok_or_else(|| rules::absent(id))
}

fn all(conn: &Connection) -> Result<Vec<AgentInfo>> {
    let mut query = conn.prepare_cached("SELECT body FROM agents ORDER BY id").map_err(db(OP))?;
    let rows = query.query_map([], |row| row.get::<_, String>(0)).map_err(db(OP))?;
    rows.map(|body| decode(&body.map_err(db(OP))?)).collect()
}

fn put(conn: &Connection, info: &AgentInfo) -> Result<()> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO agents (id, online, expires_ns, body) VALUES (?1, ?2, ?3, ?4)",
    )
    .map_err(db(OP))?
    .execute(params![info.registration.id.as_str(), info.online, nanos(info.lease.expires_at), encode(info)?])
    .map_err(db(OP))?;
    Ok(())
}

fn next_epoch(conn: &Connection, id: &AgentId) -> Result<u64> {
    conn.prepare_cached(
        "INSERT INTO agent_epochs (agent, epoch) VALUES (?1, 1)
         ON CONFLICT (agent) DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
    )
    .and_then(|mut s| s.query_row([id.as_str()], |row| row.get(0)))
    .map(i64::cast_unsigned)
    .map_err(db(OP))
}

/// Tells watchers; on the writer's thread, so in the order of the commits.
fn tell(changes: &broadcast::Sender<RegistryEvent>, event: Option<RegistryEvent>) {
    if let Some(event) = event {
        // Fails when nobody watches.
        let _ = changes.send(event);
    }
}

type Seen = (Vec<AgentInfo>, Option<broadcast::Receiver<RegistryEvent>>);

fn snapshot((agents, changes): Seen) -> Option<watch::Snapshot> {
    Some(watch::Snapshot { agents, changes: changes? })
}

#[async_trait]
impl AgentRegistry for SqliteStore {
    async fn register(&self, agent: AgentRegistration, ttl: Duration) -> Result<Lease> {
        let changes = self.changes.clone();
        let work = move |conn: &Connection| {
            let epoch = next_epoch(conn, &agent.id)?;
            let before = find(conn, &agent.id)?;
            let info = rules::registered(agent, epoch, ttl, Timestamp::now(), before.as_ref())?;
            put(conn, &info)?;
            Ok(info)
        };
        let then = move |info: &mut AgentInfo| tell(&changes, Some(RegistryEvent::Online(info.clone())));
        Ok(self.writer.run_then("agents.register", work, then).await?.lease)
    }

    async fn heartbeat(&self, lease: &Lease, report: AgentReport) -> Result<Lease> {
        let (lease, changes) = (lease.clone(), self.changes.clone());
        let work = move |conn: &Connection| {
            let info = get(conn, &lease.agent)?;
            let (next, event) = rules::heartbeat(&info, &lease, report, Timestamp::now())?;
            put(conn, &next)?;
            Ok((next.lease, event))
        };
        let then = move |done: &mut (Lease, Option<RegistryEvent>)| tell(&changes, done.1.take());
        Ok(self.writer.run_then("agents.heartbeat", work, then).await?.0)
    }

    async fn deregister(&self, lease: &Lease) -> Result<()> {
        let (lease, changes) = (lease.clone(), self.changes.clone());
        let gone = lease.agent.clone();
        let work = move |conn: &Connection| {
            let info = get(conn, &lease.agent)?;
            rules::check(&info, &lease)?;
            conn.execute("DELETE FROM agents WHERE id = ?1", [lease.agent.as_str()]).map_err(db(OP))?;
            Ok(())
        };
        let then = move |(): &mut ()| tell(&changes, Some(RegistryEvent::Removed(gone)));
        self.writer.run_then("agents.deregister", work, then).await
    }

    async fn get(&self, id: &AgentId) -> Result<AgentInfo> {
        let id = id.clone();
        self.readers.run("agents.get", move |conn| get(conn, &id)).await
    }

    async fn list(&self, labels: &Labels) -> Result<Vec<AgentInfo>> {
        let labels = labels.clone();
        let work = move |conn: &Connection| {
            let mut agents = all(conn)?;
            agents.retain(|a| rules::carries(&a.registration.labels, &labels));
            Ok(agents)
        };
        self.readers.run("agents.list", work).await
    }

    async fn expire(&self, now: Timestamp) -> Result<Vec<AgentId>> {
        let changes = self.changes.clone();
        let work = move |conn: &Connection| {
            let bodies: Vec<String> = conn
                .prepare_cached("SELECT body FROM agents WHERE online AND expires_ns <= ?1 ORDER BY id")
                .and_then(|mut s| s.query_map([nanos(now)], |row| row.get(0))?.collect())
                .map_err(db(OP))?;
            let mut gone = Vec::new();
            for body in bodies {
                if let Some(next) = rules::expired(&decode(&body)?, now) {
                    put(conn, &next)?;
                    gone.push(next.registration.id);
                }
            }
            Ok(gone)
        };
        let then = move |gone: &mut Vec<AgentId>| {
            for id in gone {
                tell(&changes, Some(RegistryEvent::Offline(id.clone())));
            }
        };
        self.writer.run_then("agents.expire", work, then).await
    }

    async fn watch(&self) -> Result<BoxStream<'static, Result<RegistryEvent>>> {
        // On the writer's thread, where nothing can come between snapshot and subscription.
        let look = |conn: &Connection| Ok((all(conn)?, None));
        let changes = self.changes.clone();
        let first = self
            .writer
            .run_then("agents.watch", look, move |seen: &mut Seen| seen.1 = Some(changes.subscribe()))
            .await?;
        // Weak on both sides: a watcher keeps no store open, and ends with it.
        let (writer, changes) = (self.writer.downgrade(), self.changes.downgrade());
        let again = move || {
            let (writer, changes) = (writer.clone(), changes.clone());
            async move {
                let Some(writer) = writer else { return Ok(None) };
                let subscribe = move |seen: &mut Seen| seen.1 = changes.upgrade().map(|c| c.subscribe());
                match writer.run_then("agents.watch", look, subscribe).await {
                    Some(seen) => seen.map(snapshot),
                    None => Ok(None),
                }
            }
            .boxed()
        };
        Ok(snapshot(first)
            .map_or_else(|| Box::pin(stream::empty()) as BoxStream<'static, _>, |s| watch::stream(s, again)))
    }
}
