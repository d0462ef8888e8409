//! The `fleetcore` program.
fn main() {}
