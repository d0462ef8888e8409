//! Persistent shells over any executor with pseudo-terminals.

mod keys;
mod lines;
mod marks;
mod render;
mod setup;
mod shell;
mod tap;
mod track;
mod wait;

pub use render::render_text;
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
        let size = crate::PtySize { cols: 20, rows: 5 };
        let _ = super::render_text(&String::from_utf8_lossy(data), size, crate::Offset(0));
    }
}
