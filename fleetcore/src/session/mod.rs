//! Persistent shells over any executor with pseudo-terminals.

mod keys;
mod marks;
mod setup;
mod shell;
mod tap;
mod track;
mod wait;

pub use shell::ShellSession;

/// Entry points for fuzz targets; not part of the API.
#[doc(hidden)]
pub mod fuzz {
    /// Feeds `data` to the mark parser in two pieces, and cuts turn text out of it.
    pub fn marks(data: &[u8]) {
        let (a, b) = data.split_at(data.len() / 2);
        let mut parser = super::marks::Parser::new("n", 0);
        parser.feed(a, drop);
        parser.feed(b, drop);
        let _ = super::marks::turn_text(data, "n", true);
    }
}
