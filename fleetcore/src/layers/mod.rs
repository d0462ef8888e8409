//! Cross-cutting behaviour, to be added with `FleetBuilder::with_layer`.
//!
//! The first layer added is the innermost. A good order, from the inside: [`TimeoutLayer`] (per attempt),
//! [`RetryLayer`], [`LimitLayer`], [`CapabilityCheckLayer`], [`AuditLayer`], [`MetricsLayer`], [`TracingLayer`].
//!
//! | layer | what it adds |
//! |---|---|
//! | [`TimeoutLayer`] | a time limit per class of operation |
//! | [`RetryLayer`] | another try after a temporary failure, where that is safe |
//! | [`LimitLayer`] | a bound on operations and commands at once |
//! | [`CapabilityCheckLayer`] | an early, uniform refusal of what the backend cannot do |
//! | [`AuditLayer`] | an entry in the audit log for every change |
//! | `MetricsLayer` | counters and histograms (feature `metrics`) |
//! | [`TracingLayer`] | spans and events |
//! | [`ChaosLayer`] | failures on purpose, for tests |

mod around;
mod audit;
mod capability_check;
mod chaos;
mod limit;
#[cfg(feature = "metrics")]
mod metrics;
mod operation;
mod random;
mod retry;
mod streams;
mod timeout;
mod tracing;
mod wrapped;

#[cfg(test)]
mod fake;

pub use self::tracing::TracingLayer;
pub use audit::{AuditLayer, AuditPolicy};
pub use capability_check::CapabilityCheckLayer;
pub use chaos::{ChaosLayer, ChaosPlan, Fault, When};
pub use limit::{LimitConfig, LimitLayer};
#[cfg(feature = "metrics")]
pub use metrics::MetricsLayer;
pub use operation::{Operation, OperationClass};
pub use retry::{RetryConfig, RetryLayer};
pub use timeout::{TimeoutConfig, TimeoutLayer};
