use std::str::FromStr;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter, types::Value};
use secrecy::{ExposeSecret, SecretString};

use super::{
    SqliteStore,
    error::{db, decode, encode, is_dangling, is_duplicate, nanos, timestamp},
};
use crate::{
    AuditEntry, AuditFilter, AuditStore, Error, ErrorKind, IdentityStore, Result, Role, TokenId, TokenRecord,
    UserName, UserRecord,
};

const USER: &str = "SELECT name, role, password_hash, disabled, created_ns FROM users";
const TOKEN: &str =
    "SELECT id, kind, name, user, secret_sha256, scopes, created_ns, expires_ns, last_used_ns FROM tokens";

fn no_user(name: &UserName) -> Error {
    Error::new(ErrorKind::NotFound, "no such user").with_context("user", name)
}

fn no_token(id: TokenId) -> Error {
    Error::new(ErrorKind::NotFound, "no such token").with_context("token", id)
}

/// A stored text in its type; a text the type refuses is damage.
fn parse<T: FromStr<Err = Error>>(text: &str) -> Result<T> {
    text.parse().map_err(|e: Error| {
        Error::new(ErrorKind::DataLoss, "a stored value cannot be read")
            .with_operation("store")
            .with_source(e)
    })
}

fn user_row(row: &Row<'_>) -> rusqlite::Result<Result<UserRecord>> {
    let (name, role, hash): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (disabled, created): (bool, i64) = (row.get(3)?, row.get(4)?);
    Ok(parse::<UserName>(&name).and_then(|name| {
        let role = parse::<Role>(&role)?;
        let mut user = UserRecord::new(name, role, SecretString::from(hash), timestamp(created));
        user.disabled = disabled;
        Ok(user)
    }))
}

fn token_row(row: &Row<'_>) -> rusqlite::Result<Result<TokenRecord>> {
    let (id, kind, name, user): (String, String, String, String) =
        (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    let (secret, scopes): ([u8; 32], String) = (row.get(4)?, row.get(5)?);
    let (created, expires, used): (i64, Option<i64>, Option<i64>) = (row.get(6)?, row.get(7)?, row.get(8)?);
    let token = || -> Result<TokenRecord> {
        let (kind, scopes) = (decode(&kind)?, decode(&scopes)?);
        let mut token = TokenRecord::new(kind, name, parse(&user)?, secret, scopes, timestamp(created))
            .with_expires_at(expires.map(timestamp));
        token.id = parse(&id)?;
        token.last_used_at = used.map(timestamp);
        Ok(token)
    };
    Ok(token())
}

fn put_user(conn: &Connection, sql: &str, user: &UserRecord) -> rusqlite::Result<usize> {
    conn.prepare_cached(sql)?.execute(params![
        user.name.as_str(),
        user.role.as_str(),
        user.password_hash.expose_secret(),
        user.disabled,
        nanos(user.created_at),
    ])
}

#[async_trait]
impl IdentityStore for SqliteStore {
    async fn insert_user(&self, user: UserRecord) -> Result<()> {
        let op = "users.insert";
        let sql =
            "INSERT INTO users (name, role, password_hash, disabled, created_ns) VALUES (?1, ?2, ?3, ?4, ?5)";
        let work = move |conn: &Connection| match put_user(conn, sql, &user) {
            Err(e) if is_duplicate(&e) => {
                Err(Error::new(ErrorKind::AlreadyExists, "the user exists").with_context("user", &user.name))
            }
            other => other.map(drop).map_err(db(op)),
        };
        self.writer.run(op, work).await
    }

    async fn update_user(&self, user: UserRecord) -> Result<()> {
        let op = "users.update";
        let sql =
            "UPDATE users SET role = ?2, password_hash = ?3, disabled = ?4, created_ns = ?5 WHERE name = ?1";
        let work = move |conn: &Connection| match put_user(conn, sql, &user).map_err(db(op))? {
            0 => Err(no_user(&user.name)),
            _ => Ok(()),
        };
        self.writer.run(op, work).await
    }

    async fn user(&self, name: &UserName) -> Result<UserRecord> {
        let (op, name) = ("users.get", name.clone());
        let work = move |conn: &Connection| {
            conn.prepare_cached(&format!("{USER} WHERE name = ?1"))
                .and_then(|mut s| s.query_row([name.as_str()], user_row).optional())
                .map_err(db(op))?
                .ok_or_else(|| no_user(&name))?
        };
        self.readers.run(op, work).await
    }

    async fn users(&self) -> Result<Vec<UserRecord>> {
        let op = "users.list";
        let work = move |conn: &Connection| {
            let mut query = conn.prepare_cached(&format!("{USER} ORDER BY name")).map_err(db(op))?;
            let rows = query.query_map([], user_row).map_err(db(op))?;
            rows.map(|row| row.map_err(db(op))?).collect()
        };
        self.readers.run(op, work).await
    }

    async fn remove_user(&self, name: &UserName) -> Result<()> {
        let (op, name) = ("users.remove", name.clone());
        let work = move |conn: &Connection| match conn
            .execute("DELETE FROM users WHERE name = ?1", [name.as_str()])
            .map_err(db(op))?
        {
            0 => Err(no_user(&name)),
            _ => Ok(()),
        };
        self.writer.run(op, work).await
    }

    async fn insert_token(&self, token: TokenRecord) -> Result<()> {
        let op = "tokens.insert";
        let work = move |conn: &Connection| {
            let added = conn
                .prepare_cached(
                    "INSERT INTO tokens (id, kind, name, user, secret_sha256, scopes, created_ns, expires_ns, last_used_ns)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                )
                .map_err(db(op))?
                .execute(params![
                    token.id.to_string(),
                    encode(&token.kind)?,
                    token.name,
                    token.user.as_str(),
                    token.secret_sha256,
                    encode(&token.scopes)?,
                    nanos(token.created_at),
                    token.expires_at.map(nanos),
                    token.last_used_at.map(nanos),
                ]);
            match added {
                Err(e) if is_duplicate(&e) => {
                    Err(Error::new(ErrorKind::AlreadyExists, "the token exists")
                        .with_context("token", token.id))
                }
                Err(e) if is_dangling(&e) => Err(no_user(&token.user)),
                other => other.map(drop).map_err(db(op)),
            }
        };
        self.writer.run(op, work).await
    }

    async fn token_by_hash(&self, secret_sha256: &[u8; 32]) -> Result<TokenRecord> {
        let (op, hash) = ("tokens.get", *secret_sha256);
        let work = move |conn: &Connection| {
            conn.prepare_cached(&format!("{TOKEN} WHERE secret_sha256 = ?1"))
                .and_then(|mut s| s.query_row([hash], token_row).optional())
                .map_err(db(op))?
                .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such token"))?
        };
        self.readers.run(op, work).await
    }

    async fn tokens(&self, user: Option<&UserName>) -> Result<Vec<TokenRecord>> {
        let (op, user) = ("tokens.list", user.cloned());
        let work = move |conn: &Connection| {
            let rule = if user.is_some() { "WHERE user = ?1" } else { "" };
            let sql = format!("{TOKEN} {rule} ORDER BY created_ns DESC, id DESC");
            let mut query = conn.prepare_cached(&sql).map_err(db(op))?;
            let rows = query
                .query_map(params_from_iter(user.iter().map(UserName::as_str)), token_row)
                .map_err(db(op))?;
            rows.map(|row| row.map_err(db(op))?).collect()
        };
        self.readers.run(op, work).await
    }

    async fn touch_token(&self, id: TokenId, at: Timestamp) -> Result<()> {
        let op = "tokens.touch";
        let work = move |conn: &Connection| {
            let changed = conn
                .prepare_cached("UPDATE tokens SET last_used_ns = ?2 WHERE id = ?1")
                .and_then(|mut s| s.execute(params![id.to_string(), nanos(at)]))
                .map_err(db(op))?;
            if changed == 0 { Err(no_token(id)) } else { Ok(()) }
        };
        self.writer.run(op, work).await
    }

    async fn remove_token(&self, id: TokenId) -> Result<()> {
        let op = "tokens.remove";
        let work = move |conn: &Connection| {
            let changed =
                conn.execute("DELETE FROM tokens WHERE id = ?1", [id.to_string()]).map_err(db(op))?;
            if changed == 0 { Err(no_token(id)) } else { Ok(()) }
        };
        self.writer.run(op, work).await
    }

    async fn prune_tokens(&self, now: Timestamp) -> Result<u64> {
        let op = "tokens.prune";
        let sql = "DELETE FROM tokens WHERE expires_ns < ?1";
        let work = move |conn: &Connection| conn.execute(sql, [nanos(now)]).map(|n| n as u64).map_err(db(op));
        self.writer.run(op, work).await
    }
}

#[async_trait]
impl AuditStore for SqliteStore {
    async fn append(&self, entry: AuditEntry) -> Result<()> {
        let op = "audit.append";
        let work = move |conn: &Connection| {
            conn.prepare_cached(
                "INSERT INTO audit (at_ns, actor, action, target, outcome, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )
            .and_then(|mut s| {
                let e = &entry;
                s.execute(params![nanos(e.at), e.actor, e.action, e.target, e.outcome, e.detail])
            })
            .map(drop)
            .map_err(db(op))
        };
        self.writer.run(op, work).await
    }

    async fn read(&self, filter: AuditFilter) -> Result<Vec<AuditEntry>> {
        self.readers.run("audit.read", move |conn| read_audit(conn, &filter)).await
    }

    async fn prune_audit(&self, before: Option<Timestamp>, keep: Option<u64>) -> Result<u64> {
        let mut removed = 0;
        for rule in [before.map(Stale::Before), keep.map(Stale::Beyond)].into_iter().flatten() {
            loop {
                let step = self.writer.run("audit.prune", move |conn| prune_audit(conn, rule)).await?;
                removed += step as u64;
                if step < PRUNE_STEP {
                    break;
                }
            }
        }
        Ok(removed)
    }
}

/// Entries of the audit log removed in one go, so that others get a turn at the writer.
const PRUNE_STEP: usize = 5000;

/// Which entries of the audit log are to go.
#[derive(Clone, Copy)]
enum Stale {
    Before(Timestamp),
    /// The oldest, beyond this many.
    Beyond(u64),
}

/// Removes up to a step's worth; returns how many.
fn prune_audit(conn: &Connection, stale: Stale) -> Result<usize> {
    let (rule, value) = match stale {
        Stale::Before(at) => ("at_ns < ?1", nanos(at)),
        // Numbers go up by one, so that at most `keep` entries have one of the last `keep` numbers.
        Stale::Beyond(keep) => {
            ("seq <= (SELECT coalesce(max(seq), 0) FROM audit) - ?1", i64::try_from(keep).unwrap_or(i64::MAX))
        }
    };
    let sql = format!("DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE {rule} LIMIT ?2)");
    conn.prepare_cached(&sql)
        .and_then(|mut s| s.execute(params![value, PRUNE_STEP as i64]))
        .map_err(db("audit.prune"))
}

fn read_audit(conn: &Connection, filter: &AuditFilter) -> Result<Vec<AuditEntry>> {
    let op = "audit.read";
    let mut terms: Vec<&str> = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    if let Some(actor) = &filter.actor {
        terms.push("actor = ?");
        values.push(actor.clone().into());
    }
    match &filter.action {
        Some(prefix) if prefix.ends_with('.') => {
            // The character after `.` ends the range of texts that begin with the prefix.
            let (stem, _) = prefix.split_at(prefix.len() - 1);
            terms.push("action >= ? AND action < ?");
            values.extend([Value::from(prefix.clone()), Value::from(format!("{stem}/"))]);
        }
        Some(action) => {
            terms.push("action = ?");
            values.push(action.clone().into());
        }
        None => {}
    }
    if let Some(before) = filter.before {
        terms.push("seq < ?");
        values.push(i64::try_from(before).unwrap_or(i64::MAX).into());
    }
    let rule = if terms.is_empty() { String::new() } else { format!("WHERE {}", terms.join(" AND ")) };
    let limit = if filter.limit == 0 { 100 } else { filter.limit };
    values.push(i64::try_from(limit).unwrap_or(i64::MAX).into());
    let sql = format!(
        "SELECT seq, at_ns, actor, action, target, outcome, detail FROM audit {rule} ORDER BY seq DESC LIMIT ?"
    );
    let entry = |row: &Row<'_>| {
        let (actor, action, target): (String, String, String) = (row.get(2)?, row.get(3)?, row.get(4)?);
        let mut entry = AuditEntry::new(actor, action, target, &row.get::<_, String>(5)?)
            .with_detail(row.get::<_, String>(6)?);
        entry.seq = row.get::<_, i64>(0)?.cast_unsigned();
        entry.at = timestamp(row.get(1)?);
        Ok(entry)
    };
    conn.prepare_cached(&sql)
        .and_then(|mut s| s.query_map(params_from_iter(values), entry)?.collect())
        .map_err(db(op))
}
