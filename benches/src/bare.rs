//! The floor of everything on a terminal: pty-process and tokio, nothing else.

use std::fmt;

use pty_process::{Command, Pty, Size};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Child,
};

use crate::ws::contains;

/// A program on a pseudo-terminal of 80x24.
pub struct BarePty {
    /// Our side of the terminal.
    pub pty: Pty,
    /// The program; killed when dropped.
    pub child: Child,
}

impl fmt::Debug for BarePty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BarePty").field("child", &self.child).finish_non_exhaustive()
    }
}

impl BarePty {
    /// Starts it.
    pub fn spawn(program: &str, args: &[&str]) -> Self {
        let (pty, side) = pty_process::open().expect("a terminal");
        pty.resize(Size::new(24, 80)).expect("a size");
        let command = Command::new(program).args(args).env("TERM", "xterm-256color").kill_on_drop(true);
        let child = command.spawn(side).expect("the program starts");
        Self { pty, child }
    }

    /// Types.
    pub async fn write(&mut self, data: &[u8]) {
        self.pty.write_all(data).await.expect("the terminal takes it");
    }

    /// Reads until `text` has come; returns nothing else.
    pub async fn wait_for(&mut self, text: &[u8]) {
        let mut seen = Vec::with_capacity(4096);
        let mut buffer = [0; 4096];
        while !contains(&seen, text) {
            let n = self.pty.read(&mut buffer).await.expect("the program runs");
            seen.extend_from_slice(buffer.get(..n).unwrap_or_default());
        }
    }

    /// Reads to the end and reaps; returns the number of bytes.
    pub async fn drain(mut self) -> u64 {
        let mut buffer = vec![0; 64 << 10];
        let mut bytes = 0;
        // The end of a terminal is the error EIO.
        while let Ok(n) = self.pty.read(&mut buffer).await {
            if n == 0 {
                break;
            }
            bytes += n as u64;
        }
        self.child.wait().await.expect("the program ends");
        bytes
    }
}
