//! Our own terminal: raw mode, size, keys.

use std::io::{self, Read as _, Write as _};

use bytes::Bytes;
use fleetcore::{Error, ErrorKind, PtySize, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

/// Undoes what a full-screen program may have left behind when we lose sight of it while it runs: alternate screen, hidden cursor,
/// mouse reports, bracketed paste, colours.
const RESET: &[u8] = b"\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[0m";

/// Size of our terminal, 80x24 when there is none.
pub(crate) fn size() -> PtySize {
    match crossterm::terminal::size() {
        Ok((cols, rows)) if cols > 0 && rows > 0 => PtySize { cols, rows },
        _ => PtySize::default(),
    }
}

/// Raw mode until dropped, also when a panic unwinds.
#[derive(Debug)]
pub(crate) struct Raw {
    reset: bool,
}

impl Raw {
    /// Every key goes to the program.
    ///
    /// # Errors
    /// `InvalidState` when stdin is no terminal.
    pub(crate) fn enter() -> Result<Self> {
        crossterm::terminal::enable_raw_mode().map_err(|e| {
            Error::new(ErrorKind::InvalidState, "stdin is not a terminal")
                .with_operation("raw mode")
                .with_source(e)
        })?;
        Ok(Self { reset: true })
    }

    /// The program has ended and put the screen right itself. In any other case we do: it goes on without us, or
    /// the connection to it is lost.
    pub(crate) fn program_ended(&mut self) {
        self.reset = false;
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if self.reset {
            let _ = io::stdout().lock().write_all(RESET).and_then(|()| io::stdout().flush());
        }
        let _ = crossterm::terminal::disable_raw_mode();
    }
}

/// Changes of the size of our terminal.
#[derive(Debug)]
pub(crate) struct Resizes(Signal);

impl Resizes {
    /// Starts to listen.
    ///
    /// # Errors
    /// When the system refuses handlers.
    pub(crate) fn listen() -> Result<Self> {
        signal(SignalKind::window_change()).map(Self).map_err(|e| Error::io("listen for resizes", e))
    }

    /// The next new size. Cancel-safe.
    pub(crate) async fn next(&mut self) -> PtySize {
        self.0.recv().await;
        size()
    }
}

/// Our stdin, read by a thread of its own: a read from a terminal cannot be cancelled, and the runtime must not wait
/// for it at the end. An error is the last item.
pub(crate) fn stdin() -> mpsc::Receiver<io::Result<Bytes>> {
    let (tx, rx) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            let item = match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => Ok(Bytes::copy_from_slice(buffer.get(..n).unwrap_or_default())),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
            let end = item.is_err();
            if tx.blocking_send(item).is_err() || end {
                return;
            }
        }
    });
    rx
}

/// What typed bytes mean.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Typed {
    /// Bytes for the program.
    pub(crate) bytes: Vec<u8>,
    /// The user wants to leave.
    pub(crate) detach: bool,
}

/// Finds Ctrl-] d in what is typed. Ctrl-] twice is one Ctrl-]; before anything else it is passed on.
#[derive(Debug, Default)]
pub(crate) struct DetachKeys {
    escaped: bool,
}

impl DetachKeys {
    const ESCAPE: u8 = 0x1d;

    pub(crate) fn feed(&mut self, typed: &[u8]) -> Typed {
        let mut out = Typed::default();
        for &byte in typed {
            match (std::mem::take(&mut self.escaped), byte) {
                (false, Self::ESCAPE) => self.escaped = true,
                (true, b'd' | b'D') => {
                    out.detach = true;
                    return out;
                }
                (true, Self::ESCAPE) | (false, _) => out.bytes.push(byte),
                (true, _) => out.bytes.extend([Self::ESCAPE, byte]),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys() {
        let feed = |parts: &[&[u8]]| {
            let mut keys = DetachKeys::default();
            let mut bytes = Vec::new();
            for part in parts {
                let typed = keys.feed(part);
                bytes.extend(typed.bytes);
                if typed.detach {
                    return (bytes, true);
                }
            }
            (bytes, false)
        };
        assert_eq!(feed(&[b"ls\r"]), (b"ls\r".to_vec(), false));
        assert_eq!(feed(&[b"a\x1dd", b"never"]), (b"a".to_vec(), true));
        assert_eq!(feed(&[b"\x1d", b"d"]), (vec![], true));
        assert_eq!(feed(&[b"\x1d\x1d"]), (b"\x1d".to_vec(), false));
        assert_eq!(feed(&[b"\x1dx"]), (b"\x1dx".to_vec(), false));
    }
}
