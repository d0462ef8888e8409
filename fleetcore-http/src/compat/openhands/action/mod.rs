//! What the client wants done.

mod classes;
mod parse;

pub(super) use parse::{Act, Browse, Cell, Deed, Event, Refused, parse};
