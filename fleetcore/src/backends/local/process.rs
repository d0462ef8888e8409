//! Control of one running process.

use std::sync::Arc;

use async_trait::async_trait;

use super::tree::Tree;
use crate::{Error, ErrorKind, PtySize, Result, Signal, raw::ProcessControl, sys::PtyControl};

/// Signals, resizes and finally ends a tree.
#[derive(Debug)]
pub(super) struct LocalControl {
    tree: Arc<Tree>,
    terminal: Option<Arc<PtyControl>>,
    armed: bool,
}

impl LocalControl {
    pub(super) fn new(tree: Arc<Tree>) -> Self {
        Self { tree, terminal: None, armed: true }
    }

    pub(super) fn set_terminal(&mut self, terminal: Arc<PtyControl>) {
        self.terminal = Some(terminal);
    }
}

fn number(signal: Signal) -> rustix::process::Signal {
    use rustix::process::Signal as S;
    match signal {
        Signal::Hangup => S::HUP,
        Signal::Interrupt => S::INT,
        Signal::Quit => S::QUIT,
        Signal::Terminate => S::TERM,
        Signal::Kill => S::KILL,
        Signal::Stop => S::STOP,
        Signal::Continue => S::CONT,
        Signal::User1 => S::USR1,
        Signal::User2 => S::USR2,
    }
}

#[async_trait]
impl ProcessControl for LocalControl {
    async fn signal(&self, signal: Signal) -> Result<()> {
        if signal != Signal::Kill {
            let (tree, signal) = (Arc::clone(&self.tree), number(signal));
            // Only the groups of a terminal are searched for, which reads all of /proc.
            let sent = match self.terminal {
                None => tree.signal(signal),
                Some(_) => tokio::task::spawn_blocking(move || tree.signal(signal))
                    .await
                    .unwrap_or_else(|e| Err(std::io::Error::other(e))),
            };
            return sent.map_err(|e| Error::io("signal", e));
        }
        self.tree.kill_group();
        let tree = Arc::clone(&self.tree);
        // Searching reads all of /proc, too long for a runtime thread. Once begun it ends even if nobody waits.
        let _ = tokio::task::spawn_blocking(move || tree.kill_all()).await;
        Ok(())
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        size.check()?;
        let Some(terminal) = &self.terminal else {
            return Err(Error::new(ErrorKind::InvalidState, "command does not run on a terminal")
                .with_operation("resize"));
        };
        terminal.resize(size.cols, size.rows).map_err(|e| Error::io("resize", e))
    }

    fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for LocalControl {
    fn drop(&mut self) {
        if self.armed {
            self.tree.kill_all();
        }
    }
}
