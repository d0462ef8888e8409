//! What is remembered: agents, commands, people, deeds. One implementation per store.

use std::{collections::HashSet, fmt, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::{
    AgentId, AgentInfo, AgentRegistration, AgentReport, AgentToken, AuditEntry, AuditFilter, CommandFilter,
    CommandId, CommandRecord, JoinCode, Labels, Lease, MetricLevel, MetricPoint, MetricRow, Offset,
    OutputChunk, RegistryEvent, RequestKey, Result, StateChange, TokenId, TokenRecord, UserName, UserRecord,
};

/// Which agents there are.
#[async_trait]
pub trait AgentRegistry: Send + Sync + fmt::Debug + 'static {
    /// Adds or replaces; a new epoch fences out the previous holder.
    async fn register(&self, agent: AgentRegistration, ttl: Duration) -> Result<Lease>;
    /// Renews; `Conflict` on an old epoch, `NotFound` on an unknown agent.
    async fn heartbeat(&self, lease: &Lease, report: AgentReport) -> Result<Lease>;
    /// Leaves on purpose; `Conflict` on an old epoch.
    async fn deregister(&self, lease: &Lease) -> Result<()>;
    /// One agent; `NotFound` if absent.
    async fn get(&self, id: &AgentId) -> Result<AgentInfo>;
    /// All agents that carry all of `labels`, by name.
    async fn list(&self, labels: &Labels) -> Result<Vec<AgentInfo>>;
    /// Marks leases that ran out before `now` as offline; returns those that changed, each once.
    async fn expire(&self, now: Timestamp) -> Result<Vec<AgentId>>;
    /// A snapshot, then changes. A watcher that fell behind gets a new snapshot.
    async fn watch(&self) -> Result<BoxStream<'static, Result<RegistryEvent>>>;
}

/// Command records and their output.
#[async_trait]
pub trait CommandStore: Send + Sync + fmt::Debug + 'static {
    /// Adds a record; `AlreadyExists` means a duplicate request. Durable when it returns.
    async fn insert(&self, record: CommandRecord) -> Result<()>;
    /// One record; `NotFound` if absent.
    async fn get(&self, id: CommandId) -> Result<CommandRecord>;
    /// Records that pass, in the order of creation, newest first.
    async fn list(&self, filter: CommandFilter) -> Result<Vec<CommandRecord>>;
    /// Compare-and-set on `revision`: `Conflict` when stale, `InvalidState` when the state machine forbids it.
    async fn transition(&self, id: CommandId, revision: u64, change: StateChange) -> Result<CommandRecord>;
    /// Keeps output. Idempotent by offset: what is already stored is skipped. An offset beyond the end is a gap
    /// that readers will see. The bytes survive the death of this process when it returns.
    async fn append_output(&self, id: CommandId, chunk: &OutputChunk) -> Result<()>;
    /// What is kept from `from` on, in order. Chunks that start later than expected mean bytes are gone. The
    /// stream ends at the end of what is stored now. A command without output gives an empty stream.
    async fn read_output(
        &self,
        id: CommandId,
        from: Offset,
    ) -> Result<BoxStream<'static, Result<OutputChunk>>>;
    /// Removes records that ended before `ended_before`, with their output; returns how many.
    async fn prune(&self, ended_before: Timestamp) -> Result<u64>;
    /// Settles every record that is `Queued` or `Running` to `Lost`; returns them. For a store that was just opened,
    /// when nothing can be running.
    async fn mark_lost(&self, why: &str) -> Result<Vec<CommandId>>;
    /// The key of the digests in its records, the same as long as the records live. A store without one (the default)
    /// keeps no digests: two requests under one id then count as the same when their records would look the same.
    fn request_key(&self) -> Option<RequestKey> {
        None
    }
}

/// People, programs and their secrets (hashed).
#[async_trait]
pub trait IdentityStore: Send + Sync + fmt::Debug + 'static {
    /// Adds a user; `AlreadyExists` when the name is taken.
    async fn insert_user(&self, user: UserRecord) -> Result<()>;
    /// Replaces a user; `NotFound` if absent.
    async fn update_user(&self, user: UserRecord) -> Result<()>;
    /// One user; `NotFound` if absent.
    async fn user(&self, name: &UserName) -> Result<UserRecord>;
    /// All users by name.
    async fn users(&self) -> Result<Vec<UserRecord>>;
    /// Removes a user and its tokens; `NotFound` if absent.
    async fn remove_user(&self, name: &UserName) -> Result<()>;
    /// Adds a token.
    async fn insert_token(&self, token: TokenRecord) -> Result<()>;
    /// The token with this hash of its secret; `NotFound` if absent. Expiry is the caller's business.
    async fn token_by_hash(&self, secret_sha256: &[u8; 32]) -> Result<TokenRecord>;
    /// Tokens of a user, or of everybody, newest first.
    async fn tokens(&self, user: Option<&UserName>) -> Result<Vec<TokenRecord>>;
    /// Notes a use.
    async fn touch_token(&self, id: TokenId, at: Timestamp) -> Result<()>;
    /// Removes a token; `NotFound` if absent.
    async fn remove_token(&self, id: TokenId) -> Result<()>;
    /// Removes tokens that expired before `now`; returns how many.
    async fn prune_tokens(&self, now: Timestamp) -> Result<u64>;
}

/// A log of who did what; entries are added, never changed, and go when they are too old.
#[async_trait]
pub trait AuditStore: Send + Sync + fmt::Debug + 'static {
    /// Adds an entry; the store sets `seq`.
    async fn append(&self, entry: AuditEntry) -> Result<()>;
    /// Entries that pass, newest first.
    async fn read(&self, filter: AuditFilter) -> Result<Vec<AuditEntry>>;
    /// Removes entries from before `before`, and the oldest beyond `keep` entries; returns how many.
    async fn prune_audit(&self, before: Option<Timestamp>, keep: Option<u64>) -> Result<u64>;
}

/// Codes that agents join with, and the tokens they get for them (hashed).
#[async_trait]
pub trait JoinStore: Send + Sync + fmt::Debug + 'static {
    /// Adds a code and forgets those that have expired; `RateLimited` when [`JoinCode::MAX_OPEN`] are open.
    async fn insert_join_code(&self, code: JoinCode) -> Result<()>;
    /// Exchanges a code for a token, in one step: of two agents with one code, one gets in. Hashes are compared in
    /// constant time.
    ///
    /// # Errors
    /// `Unauthenticated` when the code is unknown, was used, or has expired at `now`; `AlreadyExists` when `agent` is
    /// taken (has a token, or is registered): the code still works then.
    async fn redeem_join_code(
        &self,
        code_sha256: &[u8; 32],
        agent: &AgentId,
        token_sha256: [u8; 32],
        now: Timestamp,
    ) -> Result<AgentToken>;
    /// The token with this hash; `NotFound` if absent.
    async fn agent_token(&self, token_sha256: &[u8; 32]) -> Result<AgentToken>;
    /// The token of an agent; `NotFound` if it has none.
    async fn agent_token_of(&self, agent: &AgentId) -> Result<AgentToken>;
    /// All tokens, by agent.
    async fn agent_tokens(&self) -> Result<Vec<AgentToken>>;
    /// Revokes the token of an agent; `NotFound` if it has none.
    async fn remove_agent_token(&self, agent: &AgentId) -> Result<()>;
    /// Remembers for good that the tokens with these hashes are dead: those of agents that were put out, whose tokens
    /// somebody may still hand out by other means. Ones that are banned already are fine.
    async fn ban_agent_tokens(&self, token_sha256: Vec<[u8; 32]>) -> Result<()>;
    /// Hashes of all tokens that are dead for good.
    async fn banned_agent_tokens(&self) -> Result<HashSet<[u8; 32]>>;
}

/// Measurements of hosts at the resolutions of [`MetricLevel::ALL`].
#[async_trait]
pub trait MetricsStore: Send + Sync + fmt::Debug + 'static {
    /// Adds to what is stored: rows of one host, level and start become one.
    async fn merge_metrics(&self, rows: Vec<MetricRow>) -> Result<()>;
    /// Buckets that begin in `from..to` (seconds since 1970), in this order.
    async fn metrics(&self, host: &str, level: MetricLevel, from: i64, to: i64) -> Result<Vec<MetricPoint>>;
    /// Forgets a host.
    async fn remove_metrics(&self, host: &str) -> Result<()>;
    /// Removes what each level keeps no longer, counted back from `now`; returns how many buckets.
    async fn prune_metrics(&self, now: Timestamp) -> Result<u64>;
}
