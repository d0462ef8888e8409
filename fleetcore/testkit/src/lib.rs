//! One behaviour suite for every implementation of fleetcore's traits.

pub mod suite;
