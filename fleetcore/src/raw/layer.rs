//! Cross-cutting behaviour.

use std::{fmt, sync::Arc};

use super::{Executor, Provider};

/// Wraps providers and executors. State lives in the layer; the hooks may be called again at any time and must
/// then wrap anew.
pub trait Layer: Send + Sync + fmt::Debug + 'static {
    /// Wraps the life of machines.
    fn layer_provider(&self, inner: Arc<dyn Provider>) -> Arc<dyn Provider> {
        inner
    }

    /// Wraps every executor a provider hands out.
    fn layer_executor(&self, inner: Arc<dyn Executor>) -> Arc<dyn Executor> {
        inner
    }
}
