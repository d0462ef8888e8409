use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::output::Outputs;
use crate::{
    AgentId, AgentInfo, AgentToken, AuditEntry, CommandId, CommandRecord, JoinCode, RegistryEvent,
    RequestKey, TokenId, TokenRecord, UserName, UserRecord, store::watch::BACKLOG, telemetry::History,
};

/// How much a [`MemoryStore`] keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryLimits {
    /// Command records; beyond it the oldest settled one goes, with its output. Default 100,000.
    pub records: usize,
    /// Bytes of output per command; beyond it the oldest go. Default 4 MiB.
    pub output_bytes: usize,
    /// Bytes of output of all commands; beyond it the oldest command's output goes. Default 256 MiB.
    pub total_output_bytes: usize,
    /// Entries of the audit log; beyond it the oldest go. Default 100,000.
    pub audit_entries: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self {
            records: 100_000,
            output_bytes: 4 << 20,
            total_output_bytes: 256 << 20,
            audit_entries: 100_000,
        }
    }
}

/// A store that keeps everything in memory, within [`MemoryLimits`]. For tests, for the command line without a
/// server, and for programs that need no memory of earlier runs.
///
/// ```
/// # tokio_test(async {
/// use fleetcore::{CommandStore, CommandFilter, store::memory::MemoryStore};
/// let store = MemoryStore::new();
/// assert!(store.list(CommandFilter::default()).await?.is_empty());
/// # Ok::<(), fleetcore::Error>(()) });
/// # fn tokio_test<T>(f: impl Future<Output = Result<T, fleetcore::Error>>) {
/// #     tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(f).unwrap();
/// # }
/// ```
pub struct MemoryStore {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) limits: MemoryLimits,
    pub(super) key: RequestKey,
    pub(super) state: Mutex<State>,
    /// Sent to while `state` is locked, so that watchers see changes in order.
    pub(super) changes: broadcast::Sender<RegistryEvent>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) commands: BTreeMap<CommandId, CommandRecord>,
    pub(super) outputs: Outputs,
    pub(super) agents: BTreeMap<AgentId, AgentInfo>,
    /// Last epoch of every agent there ever was.
    pub(super) epochs: HashMap<AgentId, u64>,
    pub(super) users: BTreeMap<UserName, UserRecord>,
    pub(super) tokens: BTreeMap<TokenId, TokenRecord>,
    pub(super) audit: VecDeque<AuditEntry>,
    pub(super) audit_seq: u64,
    pub(super) join_codes: Vec<JoinCode>,
    pub(super) agent_tokens: BTreeMap<AgentId, AgentToken>,
    pub(super) banned_tokens: HashSet<[u8; 32]>,
    pub(super) metrics: BTreeMap<String, History>,
}

impl MemoryStore {
    /// An empty store with default limits.
    pub fn new() -> Self {
        Self::with_limits(MemoryLimits::default())
    }

    /// An empty store.
    pub fn with_limits(limits: MemoryLimits) -> Self {
        let (changes, _) = broadcast::channel(BACKLOG);
        Self {
            shared: Arc::new(Shared {
                limits,
                key: RequestKey::generate(),
                state: Mutex::default(),
                changes,
            }),
        }
    }

    pub(super) fn state(&self) -> parking_lot::MutexGuard<'_, State> {
        self.shared.state.lock()
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("MemoryStore")
            .field("limits", &self.shared.limits)
            .field("commands", &state.commands.len())
            .field("agents", &state.agents.len())
            .finish_non_exhaustive()
    }
}
