//! Parsers of outside data, opened for the targets in `fleetcore/fuzz`; only with `--cfg fuzzing`.

use bytes::Bytes;

use crate::{
    PtySize,
    term::{Backlog, Emulator},
};

pub use crate::session::fuzz::marks;

/// The check of tar streams on their way to a machine's own tar.
pub fn tar(cut: usize, data: &[u8]) {
    crate::sim::tar_guard::fuzz(cut, data);
}

/// Frame headers of stored output.
#[cfg(feature = "sqlite")]
pub fn frame(data: &[u8]) {
    crate::journal::spool::frame::fuzz(data);
}

/// The terminal emulator, over whatever a program prints.
pub fn screen(cols: u16, rows: u16, cut: usize, data: &[u8]) {
    let size = PtySize { cols: cols % 300, rows: rows % 100 };
    let mut emulator = Emulator::new(size, 100);
    let mut backlog = Backlog::new(size, 100);
    for piece in data.chunks(cut.max(1)) {
        backlog.push(Bytes::copy_from_slice(piece));
    }
    emulator.catch_up(backlog.take());
    emulator.resize(PtySize { cols: rows % 300, rows: cols % 100 });
    let screen = emulator.screen();
    assert!(screen.cursor_row < usize::from(cols % 100).max(1));
}
