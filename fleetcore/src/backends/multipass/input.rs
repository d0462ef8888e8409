//! Input of a program on a machine, from here to there.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, DuplexStream},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    client::{Call, Client},
    wire::frame,
};
use crate::MachineId;

/// Input the program has not taken yet that may be on its way.
const WINDOW_BYTES: u64 = 64 << 10;
/// Longest piece of one frame.
const PIECE_BYTES: usize = 32 << 10;
/// What may go through the client's standard input in bulk. Clients lose what is beyond two megabytes, silently; the
/// contract says to stay below one.
const BULK_MAX_BYTES: u64 = 1 << 20;
/// Keys typed, and frames that are no input, may use some of the second megabyte.
const SMALL_MAX_BYTES: u64 = (1 << 20) + (512 << 10);
/// The longest piece that counts as typed.
const SMALL_BYTES: usize = 64;
/// Size of files in which the rest travels.
const SEGMENT_BYTES: usize = 4 << 20;
/// How long to wait for more before a file is sent.
const LINGER: Duration = Duration::from_millis(5);

/// Carries input to the machine.
pub(super) struct Pump {
    pub(super) client: Arc<Client>,
    pub(super) machine: MachineId,
    /// Directory on the machine for files of input.
    pub(super) spool: String,
    pub(super) to_machine: mpsc::Sender<Bytes>,
    /// Bytes the program has taken.
    pub(super) taken: watch::Receiver<u64>,
    /// The program takes no more.
    pub(super) closed: CancellationToken,
    /// Bytes that went through the client already.
    pub(super) used: u64,
    /// Limit of sending one file.
    pub(super) limit: Duration,
}

impl Pump {
    /// Runs until the input ends or nobody takes it any more. Whoever writes to the other end of `from` then learns that
    /// the pipe is broken.
    pub(super) async fn run(mut self, mut from: DuplexStream) {
        let closed = self.closed.clone();
        closed.run_until_cancelled(self.carry(&mut from)).await;
    }

    async fn carry(&mut self, from: &mut DuplexStream) {
        let mut sent = 0u64;
        let mut segments = 0u64;
        loop {
            let mut data = BytesMut::with_capacity(PIECE_BYTES);
            match from.read_buf(&mut data).await {
                Ok(n) if n > 0 => {}
                _ => {
                    let _ = self.to_machine.send(frame(b'Q', b"")).await;
                    return;
                }
            }
            let size = data.len() as u64;
            let limit = if data.len() <= SMALL_BYTES { SMALL_MAX_BYTES } else { BULK_MAX_BYTES };
            if self.used + size + 5 <= limit {
                if self.wait_for_room(sent, size).await.is_err() {
                    return;
                }
                self.used += size + 5;
                sent += size;
                if self.to_machine.send(frame(b'D', &data)).await.is_err() {
                    return;
                }
                continue;
            }
            while data.len() < SEGMENT_BYTES
                && let Ok(Ok(1..)) = timeout(LINGER, from.read_buf(&mut data)).await
            {
                data.reserve(PIECE_BYTES);
            }
            if self.wait_for_room(sent, 0).await.is_err() {
                return;
            }
            let name = segments.to_string();
            let size = data.len() as u64;
            let to = format!("{}:{}/{name}", self.machine, self.spool);
            let call = Call::new("transfer", self.limit).args(["-", &to]).stdin(data.freeze());
            if let Err(failure) = self.client.call(call).await {
                tracing::warn!(machine = %self.machine, %failure, "input of a command cannot be sent");
                return;
            }
            segments += 1;
            sent += size;
            self.used += name.len() as u64 + 5;
            if self.to_machine.send(frame(b'T', name.as_bytes())).await.is_err() {
                return;
            }
        }
    }

    /// Waits until no more than the window is under way, `more` included.
    async fn wait_for_room(&mut self, sent: u64, more: u64) -> Result<(), watch::error::RecvError> {
        let room = |taken: &u64| (sent + more).saturating_sub(*taken) <= WINDOW_BYTES;
        self.taken.wait_for(room).await.map(drop)
    }
}
