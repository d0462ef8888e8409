//! What a backend without powers of its own gets on top of `spawn`.

pub(crate) mod quote;
