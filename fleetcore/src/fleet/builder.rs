//! Putting a fleet together.

use std::{collections::BTreeMap, sync::Arc};

use super::Fleet;
use crate::{AgentDirectory, CommandStore, Executor, Layer, Provider};

/// Bounds of one fleet. The defaults suit a small server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FleetLimits {
    /// Commands that may run at once. Default 4096.
    pub commands: usize,
    /// Sessions that may be open at once. Default 1024.
    pub sessions: usize,
    /// Largest replay window a command may ask for, in bytes. Default 64 MiB.
    pub replay_bytes: usize,
    /// Events a slow listener of [`Fleet::events`] may be behind. Default 4096.
    pub events: usize,
}

impl Default for FleetLimits {
    fn default() -> Self {
        Self { commands: 4096, sessions: 1024, replay_bytes: 64 << 20, events: 4096 }
    }
}

/// Puts a fleet together: backends, layers, a store. Made by [`Fleet::builder`].
#[derive(Clone, Debug, Default)]
pub struct FleetBuilder {
    pub(super) host: Option<Arc<dyn Executor>>,
    pub(super) providers: BTreeMap<&'static str, Arc<dyn Provider>>,
    pub(super) layers: Vec<Arc<dyn Layer>>,
    pub(super) store: Option<Arc<dyn CommandStore>>,
    pub(super) agents: Option<Arc<dyn AgentDirectory>>,
    pub(super) limits: FleetLimits,
}

impl FleetBuilder {
    /// Sets what the target `local` means.
    #[must_use]
    pub fn with_host(mut self, host: Arc<dyn Executor>) -> Self {
        self.host = Some(host);
        self
    }

    /// Adds a provider under its own scheme, replacing an earlier one of that scheme.
    #[must_use]
    pub fn with_provider(mut self, provider: Arc<dyn Provider>) -> Self {
        self.providers.insert(provider.scheme(), provider);
        self
    }

    /// Adds a layer around every provider and executor, outside the layers added before.
    #[must_use]
    pub fn with_layer(mut self, layer: Arc<dyn Layer>) -> Self {
        self.layers.push(layer);
        self
    }

    /// Keeps records and output of commands in `store`.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn CommandStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Reaches targets that name an agent through `agents`.
    #[must_use]
    pub fn with_agents(mut self, agents: Arc<dyn AgentDirectory>) -> Self {
        self.agents = Some(agents);
        self
    }

    /// Sets the bounds.
    #[must_use]
    pub fn with_limits(mut self, limits: FleetLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The fleet.
    pub fn build(self) -> Fleet {
        Fleet::assemble(self)
    }
}
