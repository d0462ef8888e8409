//! The built-in layers, for running a suite behind them: all at once, or one by one.

use std::sync::Arc;

use fleetcore::{
    Layer,
    layers::{
        AuditLayer, CapabilityCheckLayer, ChaosLayer, ChaosPlan, Fault, LimitLayer, MetricsLayer, Operation,
        RetryLayer, TimeoutLayer, TracingLayer, When,
    },
    store::memory::MemoryStore,
};

/// Layers, the innermost first.
pub type Layers = Vec<Arc<dyn Layer>>;

/// A way to make layers, and what to call it.
pub type Named = (&'static str, fn() -> Layers);

/// Every built-in layer that is not there to break things, in the recommended order.
pub fn all() -> Layers {
    each().into_iter().filter(|(name, _)| !name.starts_with("chaos")).flat_map(|(_, make)| make()).collect()
}

/// Every built-in layer on its own, by name, in the recommended order. Nobody may notice any of them.
pub fn each() -> [Named; 9] {
    [
        ("timeout", || vec![Arc::new(TimeoutLayer::default())]),
        ("retry", || vec![Arc::new(RetryLayer::default())]),
        ("limit", || vec![Arc::new(LimitLayer::default())]),
        ("capability-check", || vec![Arc::new(CapabilityCheckLayer::new())]),
        ("audit", || vec![Arc::new(AuditLayer::new(Arc::new(MemoryStore::new())))]),
        ("metrics", || vec![Arc::new(MetricsLayer::new())]),
        ("tracing", || vec![Arc::new(TracingLayer::new())]),
        ("chaos", calm),
        ("chaos-short-reads", choppy),
    ]
}

/// Chaos without a fault.
pub fn calm() -> Layers {
    vec![Arc::new(ChaosLayer::new(ChaosPlan::seeded(1)))]
}

/// Faults that no caller may notice: output in small pieces.
pub fn choppy() -> Layers {
    let mut plan = ChaosPlan::seeded(2);
    for operation in [Operation::Spawn, Operation::FileRead, Operation::TarRead, Operation::TunnelOpen] {
        plan = plan.with(operation, When::Always, Fault::ShortReads(997));
    }
    vec![Arc::new(ChaosLayer::new(plan))]
}
