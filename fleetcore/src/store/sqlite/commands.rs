use std::collections::HashSet;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter, types::Value};
use uuid::Uuid;

use super::{
    SqliteStore,
    error::{db, decode, encode, is_duplicate, nanos},
};
use crate::{
    CommandFilter, CommandId, CommandRecord, CommandState, CommandStore, Error, ErrorKind, Offset,
    OutputChunk, RequestKey, Result, StateChange,
};

const DEFAULT_LIMIT: usize = 100;
/// Records removed in one go, so that others get a turn at the writer.
const PRUNE_STEP: usize = 500;

fn key(id: CommandId) -> [u8; 16] {
    id.as_uuid().into_bytes()
}

fn absent(id: CommandId) -> Error {
    Error::new(ErrorKind::NotFound, "no such command").with_context("command", id)
}

/// Ids of all records.
pub(super) fn all_ids(conn: &Connection) -> Result<HashSet<CommandId>> {
    let op = "commands.list";
    let mut query = conn.prepare("SELECT id FROM commands").map_err(db(op))?;
    let ids = query.query_map([], |row| row.get::<_, [u8; 16]>(0)).map_err(db(op))?;
    ids.map(|id| id.map(|id| CommandId::from(Uuid::from_bytes(id))).map_err(db(op))).collect()
}

fn insert(conn: &Connection, record: &CommandRecord) -> Result<()> {
    let op = "commands.insert";
    let added = conn
        .prepare_cached(
            "INSERT INTO commands (id, target, state, created_ns, ended_ns, revision, display, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .map_err(db(op))?
        .execute(params![
            key(record.id),
            record.target.to_string(),
            record.state.as_str(),
            nanos(record.created_at),
            record.ended_at.map(nanos),
            record.revision.cast_signed(),
            record.program.display(),
            encode(record)?,
        ]);
    match added {
        Err(e) if is_duplicate(&e) => {
            return Err(
                Error::new(ErrorKind::AlreadyExists, "the command exists").with_context("command", record.id)
            );
        }
        other => other.map_err(db(op))?,
    };
    for (name, value) in &record.labels {
        conn.prepare_cached("INSERT INTO command_labels (key, value, command) VALUES (?1, ?2, ?3)")
            .and_then(|mut s| s.execute(params![name, value, key(record.id)]))
            .map_err(db(op))?;
    }
    Ok(())
}

fn get(conn: &Connection, id: CommandId) -> Result<CommandRecord> {
    let body: Option<String> = conn
        .prepare_cached("SELECT body FROM commands WHERE id = ?1")
        .and_then(|mut s| s.query_row([key(id)], |row| row.get(0)).optional())
        .map_err(db("commands.get"))?;
    decode(&body.ok_or_else(|| absent(id))?)
}

fn update(conn: &Connection, record: &CommandRecord) -> Result<()> {
    conn.prepare_cached(
        "UPDATE commands SET state = ?2, ended_ns = ?3, revision = ?4, body = ?5 WHERE id = ?1",
    )
    .map_err(db("commands.transition"))?
    .execute(params![
        key(record.id),
        record.state.as_str(),
        record.ended_at.map(nanos),
        record.revision.cast_signed(),
        encode(record)?,
    ])
    .map_err(db("commands.transition"))?;
    Ok(())
}

fn transition(
    conn: &Connection,
    id: CommandId,
    revision: u64,
    change: &StateChange,
) -> Result<CommandRecord> {
    let record = get(conn, id)?;
    if record.revision != revision {
        return Err(Error::new(ErrorKind::Conflict, "the record has changed")
            .with_context("command", id)
            .with_context("revision", revision)
            .with_context("current_revision", record.revision));
    }
    let next = record.apply(change)?;
    update(conn, &next)?;
    Ok(next)
}

fn list(conn: &Connection, filter: &CommandFilter) -> Result<Vec<CommandRecord>> {
    let op = "commands.list";
    let mut terms: Vec<String> = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    if let Some(target) = &filter.target {
        terms.push("target = ?".to_owned());
        values.push(target.to_string().into());
    }
    if !filter.states.is_empty() {
        terms.push(format!("state IN ({})", vec!["?"; filter.states.len()].join(", ")));
        values.extend(filter.states.iter().map(|s| Value::from(s.as_str().to_owned())));
    }
    for (name, value) in &filter.labels {
        terms.push("id IN (SELECT command FROM command_labels WHERE key = ? AND value = ?)".to_owned());
        values.extend([Value::from(name.clone()), Value::from(value.clone())]);
    }
    if let Some(text) = &filter.search {
        terms.push("instr(display, ?) > 0".to_owned());
        values.push(text.clone().into());
    }
    if let Some(since) = filter.since {
        terms.push("created_ns >= ?".to_owned());
        values.push(nanos(since).into());
    }
    if let Some(before) = filter.before {
        terms.push("seq < (SELECT seq FROM commands WHERE id = ?)".to_owned());
        values.push(key(before).to_vec().into());
    }
    let rule = if terms.is_empty() { String::new() } else { format!("WHERE {}", terms.join(" AND ")) };
    values.push(i64::try_from(filter.limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or(i64::MAX).into());
    // The inner query picks a page of ids from an index; only its rows are read.
    let sql = format!(
        "SELECT body FROM commands WHERE seq IN (SELECT seq FROM commands {rule} ORDER BY seq DESC LIMIT ?)
         ORDER BY seq DESC"
    );
    let mut query = conn.prepare_cached(&sql).map_err(db(op))?;
    let rows = query.query_map(params_from_iter(values), |row| row.get::<_, String>(0)).map_err(db(op))?;
    rows.map(|body| decode(&body.map_err(db(op))?)).collect()
}

/// Removes up to a step's worth; returns their ids.
fn prune_step(conn: &Connection, before: i64) -> Result<Vec<CommandId>> {
    let op = "commands.prune";
    let ids: Vec<[u8; 16]> = conn
        .prepare_cached("SELECT id FROM commands WHERE ended_ns < ?1 LIMIT ?2")
        .and_then(|mut s| s.query_map(params![before, PRUNE_STEP as i64], |row| row.get(0))?.collect())
        .map_err(db(op))?;
    for id in &ids {
        conn.prepare_cached("DELETE FROM commands WHERE id = ?1")
            .and_then(|mut s| s.execute([id]))
            .map_err(db(op))?;
    }
    Ok(ids.into_iter().map(|id| CommandId::from(Uuid::from_bytes(id))).collect())
}

#[async_trait]
impl CommandStore for SqliteStore {
    async fn insert(&self, record: CommandRecord) -> Result<()> {
        let ended = record.state.is_settled().then_some(record.id);
        self.writer.run("commands.insert", move |conn| insert(conn, &record)).await?;
        // Written when all was over: its output may be there already.
        if let Some(id) = ended {
            self.spool.close(id);
        }
        Ok(())
    }

    async fn get(&self, id: CommandId) -> Result<CommandRecord> {
        self.readers.run("commands.get", move |conn| get(conn, id)).await
    }

    async fn list(&self, filter: CommandFilter) -> Result<Vec<CommandRecord>> {
        self.readers.run("commands.list", move |conn| list(conn, &filter)).await
    }

    async fn transition(&self, id: CommandId, revision: u64, change: StateChange) -> Result<CommandRecord> {
        let settled = change.to.is_settled();
        let record = self
            .writer
            .run("commands.transition", move |conn| transition(conn, id, revision, &change))
            .await?;
        if settled {
            self.spool.close(id);
        }
        Ok(record)
    }

    async fn append_output(&self, id: CommandId, chunk: &OutputChunk) -> Result<()> {
        self.spool.append(id, chunk).await
    }

    async fn read_output(
        &self,
        id: CommandId,
        from: Offset,
    ) -> Result<BoxStream<'static, Result<OutputChunk>>> {
        self.spool.read(id, from).await
    }

    async fn prune(&self, ended_before: Timestamp) -> Result<u64> {
        let before = nanos(ended_before);
        let mut removed = 0;
        loop {
            let ids = self.writer.run("commands.prune", move |conn| prune_step(conn, before)).await?;
            let last = ids.len() < PRUNE_STEP;
            removed += ids.len() as u64;
            self.spool
                .with(move |spool| {
                    for id in ids {
                        // What stays behind is removed at the next start.
                        if let Err(e) = spool.remove(id) {
                            tracing::warn!(command = %id, error = %e, "output of a pruned command stays for now");
                        }
                    }
                })
                .await?;
            if last {
                break;
            }
        }
        let now = self.age.now();
        self.spool.with(move |spool| spool.enforce(now)).await??;
        Ok(removed)
    }

    async fn mark_lost(&self, why: &str) -> Result<Vec<CommandId>> {
        let (why, spool) = (why.to_owned(), self.spool.clone());
        let op = "commands.mark_lost";
        let work = move |conn: &Connection| {
            let bodies: Vec<String> = conn
                .prepare_cached("SELECT body FROM commands WHERE state IN ('queued', 'running') ORDER BY id")
                .and_then(|mut s| s.query_map([], |row| row.get(0))?.collect())
                .map_err(db(op))?;
            let mut lost = Vec::with_capacity(bodies.len());
            for body in bodies {
                let record: CommandRecord = decode(&body)?;
                let mut change = StateChange::to(CommandState::Lost).with_error(why.clone());
                match spool.end(record.id) {
                    Ok(end) => change.output_end = end.unwrap_or_default(),
                    Err(e) => tracing::warn!(command = %record.id, error = %e, "output cannot be read"),
                }
                update(conn, &record.apply(&change)?)?;
                spool.close(record.id);
                lost.push(record.id);
            }
            Ok(lost)
        };
        self.writer.run(op, work).await
    }

    fn request_key(&self) -> Option<RequestKey> {
        Some(self.request_key.clone())
    }
}
