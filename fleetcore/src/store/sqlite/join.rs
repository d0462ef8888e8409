use std::collections::HashSet;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore,
    error::{db, decode, encode, nanos, timestamp},
};
use crate::{AgentId, AgentToken, JoinCode, JoinStore, Result, store::join};

const TOKEN: &str = "SELECT agent, token_sha256, labels, invited_by, joined_ns FROM agent_tokens";

fn token_row(row: &Row<'_>) -> rusqlite::Result<Result<AgentToken>> {
    let (agent, hash, labels): (String, [u8; 32], String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (invited_by, joined): (String, i64) = (row.get(3)?, row.get(4)?);
    let token = || {
        let agent = AgentId::new(agent)?;
        Ok(AgentToken::from_parts(agent, hash, decode(&labels)?, invited_by, timestamp(joined)))
    };
    Ok(token())
}

fn find_code(conn: &Connection, hash: &[u8; 32]) -> Result<Option<JoinCode>> {
    let op = "join_codes.redeem";
    let row = |row: &Row<'_>| {
        let (hash, labels, by): ([u8; 32], String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (created, expires): (i64, i64) = (row.get(3)?, row.get(4)?);
        Ok(decode(&labels).map(|l| JoinCode::new(hash, l, by, timestamp(created), timestamp(expires))))
    };
    conn.prepare_cached(
        "SELECT code_sha256, labels, created_by, created_ns, expires_ns FROM join_codes WHERE code_sha256 = ?1",
    )
    .and_then(|mut s| s.query_row([hash], row).optional())
    .map_err(db(op))?
    .transpose()
}

/// Whether a row with this name is in the table.
fn has(conn: &Connection, sql: &str, name: &AgentId) -> Result<bool> {
    conn.prepare_cached(sql).and_then(|mut s| s.exists([name.as_str()])).map_err(db("join_codes.redeem"))
}

#[async_trait]
impl JoinStore for SqliteStore {
    async fn insert_join_code(&self, code: JoinCode) -> Result<()> {
        let op = "join_codes.insert";
        let work = move |conn: &Connection| {
            conn.execute("DELETE FROM join_codes WHERE expires_ns <= ?1", [nanos(code.created_at)])
                .map_err(db(op))?;
            let open: i64 =
                conn.query_row("SELECT count(*) FROM join_codes", [], |r| r.get(0)).map_err(db(op))?;
            if open >= JoinCode::MAX_OPEN as i64 {
                return Err(join::too_many(JoinCode::MAX_OPEN));
            }
            conn.execute(
                "INSERT INTO join_codes (code_sha256, labels, created_by, created_ns, expires_ns)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    code.code_sha256,
                    encode(&code.labels)?,
                    code.created_by,
                    nanos(code.created_at),
                    nanos(code.expires_at)
                ],
            )
            .map_err(db(op))?;
            Ok(())
        };
        self.writer.run(op, work).await
    }

    async fn redeem_join_code(
        &self,
        code_sha256: &[u8; 32],
        agent: &AgentId,
        token_sha256: [u8; 32],
        now: Timestamp,
    ) -> Result<AgentToken> {
        let op = "join_codes.redeem";
        let (hash, agent) = (*code_sha256, agent.clone());
        // One job on the one thread that writes: nobody comes in between.
        let work = move |conn: &Connection| {
            let code = find_code(conn, &hash)?
                .filter(|c| join::same(&c.code_sha256, &hash) && c.expires_at > now)
                .ok_or_else(join::refused)?;
            if has(conn, "SELECT 1 FROM agent_tokens WHERE agent = ?1", &agent)?
                || has(conn, "SELECT 1 FROM agents WHERE id = ?1", &agent)?
            {
                return Err(join::taken(&agent));
            }
            conn.execute("DELETE FROM join_codes WHERE code_sha256 = ?1", [hash]).map_err(db(op))?;
            let token = AgentToken::new(agent, token_sha256, &code, now);
            conn.execute(
                "INSERT INTO agent_tokens (agent, token_sha256, labels, invited_by, joined_ns)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    token.agent.as_str(),
                    token.token_sha256,
                    encode(&token.labels)?,
                    token.invited_by,
                    nanos(token.joined_at)
                ],
            )
            .map_err(db(op))?;
            Ok(token)
        };
        self.writer.run(op, work).await
    }

    async fn agent_token(&self, token_sha256: &[u8; 32]) -> Result<AgentToken> {
        let (op, hash) = ("agent_tokens.get", *token_sha256);
        let work = move |conn: &Connection| {
            conn.prepare_cached(&format!("{TOKEN} WHERE token_sha256 = ?1"))
                .and_then(|mut s| s.query_row([hash], token_row).optional())
                .map_err(db(op))?
                .transpose()?
                .filter(|t| join::same(&t.token_sha256, &hash))
                .ok_or_else(|| join::no_token(None))
        };
        self.readers.run(op, work).await
    }

    async fn agent_token_of(&self, agent: &AgentId) -> Result<AgentToken> {
        let (op, agent) = ("agent_tokens.get", agent.clone());
        let work = move |conn: &Connection| {
            conn.prepare_cached(&format!("{TOKEN} WHERE agent = ?1"))
                .and_then(|mut s| s.query_row([agent.as_str()], token_row).optional())
                .map_err(db(op))?
                .unwrap_or_else(|| Err(join::no_token(Some(&agent))))
        };
        self.readers.run(op, work).await
    }

    async fn agent_tokens(&self) -> Result<Vec<AgentToken>> {
        let op = "agent_tokens.list";
        let work = move |conn: &Connection| {
            let mut query = conn.prepare_cached(&format!("{TOKEN} ORDER BY agent")).map_err(db(op))?;
            let rows = query.query_map([], token_row).map_err(db(op))?;
            rows.map(|row| row.map_err(db(op))?).collect()
        };
        self.readers.run(op, work).await
    }

    async fn remove_agent_token(&self, agent: &AgentId) -> Result<()> {
        let (op, agent) = ("agent_tokens.remove", agent.clone());
        let work = move |conn: &Connection| match conn
            .execute("DELETE FROM agent_tokens WHERE agent = ?1", [agent.as_str()])
            .map_err(db(op))?
        {
            0 => Err(join::no_token(Some(&agent))),
            _ => Ok(()),
        };
        self.writer.run(op, work).await
    }

    async fn ban_agent_tokens(&self, token_sha256: Vec<[u8; 32]>) -> Result<()> {
        let op = "agent_tokens.ban";
        let work = move |conn: &Connection| {
            let mut insert = conn
                .prepare_cached("INSERT OR IGNORE INTO banned_agent_tokens (token_sha256) VALUES (?1)")
                .map_err(db(op))?;
            for hash in token_sha256 {
                insert.execute([hash]).map_err(db(op))?;
            }
            Ok(())
        };
        self.writer.run(op, work).await
    }

    async fn banned_agent_tokens(&self) -> Result<HashSet<[u8; 32]>> {
        let op = "agent_tokens.banned";
        let work = move |conn: &Connection| {
            let mut query =
                conn.prepare_cached("SELECT token_sha256 FROM banned_agent_tokens").map_err(db(op))?;
            let rows = query.query_map([], |row| row.get::<_, [u8; 32]>(0)).map_err(db(op))?;
            rows.map(|row| row.map_err(db(op))).collect()
        };
        self.readers.run(op, work).await
    }
}
