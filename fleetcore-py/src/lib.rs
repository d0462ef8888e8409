//! Python bindings of fleetcore.
