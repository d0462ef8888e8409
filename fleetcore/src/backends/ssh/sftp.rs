//! One SFTP channel: opening it, and files in pieces of a size the server takes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesOrdered, FuturesUnordered},
};
use russh::{Channel, ChannelMsg, client::Msg};
use russh_sftp::{
    client::{Config, RawSftpSession, error::Error as SftpError},
    protocol::{FileAttributes, OpenFlags, Packet, StatusCode},
};

use super::error;
use crate::{Error, ErrorKind, Result, raw::ByteStream};

/// Pieces where the server does not say what it takes: what every one must (draft-ietf-secsh-filexfer-02, section 3).
const PIECE_MIN: u64 = 32 << 10;
/// Larger pieces gain nothing: SSH packets carry 32 KiB.
const PIECE_MAX: u64 = 64 << 10;
/// Requests under way for one file. With pieces of 64 KiB that is a megabyte, enough for 100 Mbit/s over 80 ms.
const AHEAD: usize = 16;
/// Seconds a single request may take.
const ANSWER_LIMIT_S: u64 = 60;
/// Renaming that replaces, an extension of OpenSSH's.
const POSIX_RENAME: &str = "posix-rename@openssh.com";

/// An SFTP session.
pub(super) struct Sftp {
    raw: RawSftpSession,
    read_piece: u32,
    write_piece: usize,
    posix_rename: bool,
    broken: AtomicBool,
}

/// An open file; closed when dropped.
pub(super) struct Handle {
    sftp: Arc<Sftp>,
    handle: String,
    closed: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (sftp, handle) = (Arc::clone(&self.sftp), std::mem::take(&mut self.handle));
        runtime.spawn(async move {
            let _ = sftp.raw.close(handle).await;
        });
    }
}

impl Sftp {
    /// Asks for the subsystem on a fresh channel.
    ///
    /// # Errors
    /// `Unsupported` when the host has none.
    pub(super) async fn start(mut channel: Channel<Msg>) -> Result<Self> {
        let failed = |e| error::ssh("open SFTP", e);
        channel.request_subsystem(true, "sftp").await.map_err(failed)?;
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => break,
                Some(ChannelMsg::Failure | ChannelMsg::Close) => {
                    let _ = channel.close().await;
                    return Err(Error::new(ErrorKind::Unsupported, "the host has no SFTP server")
                        .with_operation("open SFTP"));
                }
                None => return Err(error::lost("open SFTP")),
                Some(_) => {}
            }
        }
        let config = Config { request_timeout_secs: ANSWER_LIMIT_S, ..Config::default() };
        let raw = RawSftpSession::new_with_config(channel.into_stream(), config);
        let version = raw.init().await.map_err(|e| error::sftp("open SFTP", "", e))?;
        let has = |name: &str| version.extensions.contains_key(name);
        let (mut read, mut write) = (PIECE_MIN, PIECE_MIN);
        if has("limits@openssh.com")
            && let Ok(limits) = raw.limits().await
        {
            let piece = |limit: u64| if limit == 0 { PIECE_MIN } else { limit.clamp(1 << 10, PIECE_MAX) };
            (read, write) = (piece(limits.max_read_len), piece(limits.max_write_len));
        }
        Ok(Self {
            posix_rename: has(POSIX_RENAME),
            read_piece: u32::try_from(read).unwrap_or(32 << 10),
            write_piece: usize::try_from(write).unwrap_or(32 << 10),
            raw,
            broken: AtomicBool::new(false),
        })
    }

    /// Whether it has to be opened anew.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// The plain protocol.
    pub(super) fn raw(&self) -> &RawSftpSession {
        &self.raw
    }

    /// Our error for what happened to `path`.
    pub(super) fn failed(&self, operation: &'static str, path: &str, err: SftpError) -> Error {
        let error = error::sftp(operation, path, err);
        if matches!(error.kind(), ErrorKind::Unavailable) {
            self.broken.store(true, Ordering::Relaxed);
        }
        error
    }

    /// Opens a file.
    pub(super) async fn open(
        self: &Arc<Self>,
        path: &str,
        flags: OpenFlags,
        mode: Option<u32>,
    ) -> std::result::Result<Handle, SftpError> {
        let mut attrs = FileAttributes::empty();
        attrs.permissions = mode;
        // Seen through by a task: the handle of an answer that nobody waits for would stay open.
        let (sftp, path) = (Arc::clone(self), path.to_owned());
        let open = tokio::spawn(async move {
            let opened = sftp.raw.open(path, flags, attrs).await?;
            Ok(Handle { sftp, handle: opened.handle, closed: false })
        });
        open.await.unwrap_or_else(|e| Err(SftpError::UnexpectedBehavior(e.to_string())))
    }

    /// Renames, replacing what is there.
    pub(super) async fn rename(&self, from: &str, to: &str) -> std::result::Result<(), SftpError> {
        if !self.posix_rename {
            // Version 3 refuses to replace. In between there is no file of that name, which cannot be helped.
            if self.raw.lstat(to).await.is_ok_and(|a| !a.attrs.is_dir()) {
                self.raw.remove(to).await?;
            }
            return self.raw.rename(from, to).await.map(drop);
        }
        let mut data = Vec::with_capacity(from.len() + to.len() + 8);
        for path in [from, to] {
            let length = u32::try_from(path.len()).map_err(|e| SftpError::Limited(e.to_string()))?;
            data.extend_from_slice(&length.to_be_bytes());
            data.extend_from_slice(path.as_bytes());
        }
        match self.raw.extended(POSIX_RENAME, data).await? {
            Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
            Packet::Status(status) => Err(SftpError::Status(status)),
            _ => Err(SftpError::UnexpectedPacket),
        }
    }

    /// Reads up to `len` bytes, fewer only at the end of the file, which the flag tells.
    async fn piece(&self, handle: &str, at: u64, len: u32) -> std::result::Result<(Bytes, bool), SftpError> {
        let mut all = BytesMut::new();
        loop {
            let got = u32::try_from(all.len()).unwrap_or(len);
            if got >= len {
                return Ok((all.freeze(), false));
            }
            match self.raw.read(handle, at + u64::from(got), len - got).await {
                Ok(data) if data.data.is_empty() => return Ok((all.freeze(), true)),
                Ok(data) if got == 0 && data.data.len() == len as usize => {
                    return Ok((data.data.into(), false));
                }
                Ok(data) => all.extend_from_slice(&data.data),
                Err(SftpError::Status(s)) if s.status_code == StatusCode::Eof => {
                    return Ok((all.freeze(), true));
                }
                Err(e) => return Err(e),
            }
        }
    }
}

impl Handle {
    /// Sets what is known of the file.
    pub(super) async fn set(&self, attrs: FileAttributes) -> std::result::Result<(), SftpError> {
        self.sftp.raw.fsetstat(self.handle.as_str(), attrs).await.map(drop)
    }

    /// What is known of the file.
    pub(super) async fn stat(&self) -> std::result::Result<FileAttributes, SftpError> {
        self.sftp.raw.fstat(self.handle.as_str()).await.map(|a| a.attrs)
    }

    /// Closes it and tells what only then went wrong.
    pub(super) async fn close(mut self) -> std::result::Result<(), SftpError> {
        self.closed = true;
        let handle = std::mem::take(&mut self.handle);
        self.sftp.raw.close(handle).await.map(drop)
    }

    /// Bytes from `from` to `end` or the end of the file, several requests ahead. `size` is how long the file seems to
    /// be; what is asked for beyond it is asked for one piece at a time.
    pub(super) fn read(self, path: String, from: u64, end: Option<u64>, size: u64) -> ByteStream {
        struct State {
            file: Arc<Handle>,
            path: String,
            at: u64,
            end: Option<u64>,
            size: u64,
            ahead: FuturesOrdered<BoxFuture<'static, std::result::Result<(Bytes, bool), SftpError>>>,
            done: bool,
        }
        let state = State {
            file: Arc::new(self),
            path,
            at: from,
            end,
            size,
            ahead: FuturesOrdered::new(),
            done: false,
        };
        stream::try_unfold(state, |mut s| async move {
            loop {
                while !s.done
                    && s.end.is_none_or(|end| s.at < end)
                    && (s.ahead.is_empty() || (s.ahead.len() < AHEAD && s.at < s.size))
                {
                    let (file, at) = (Arc::clone(&s.file), s.at);
                    let room = s.end.map_or(u64::MAX, |end| end - at);
                    let len = file.sftp.read_piece.min(u32::try_from(room).unwrap_or(u32::MAX));
                    s.at += u64::from(len);
                    s.ahead.push_back(Box::pin(async move { file.sftp.piece(&file.handle, at, len).await }));
                }
                match s.ahead.next().await {
                    None => return Ok(None),
                    Some(Err(e)) => return Err(s.file.sftp.failed("read", &s.path, e)),
                    Some(Ok((data, ended))) => {
                        if ended {
                            s.done = true;
                            s.ahead = FuturesOrdered::new();
                        }
                        if !data.is_empty() {
                            return Ok(Some((data, s)));
                        }
                    }
                }
            }
        })
        .boxed()
    }

    /// Writes all of `data` from `at` on, several requests ahead unless they must be `ordered`: where the server
    /// appends, it does so in the order in which they come.
    pub(super) async fn write(
        &self,
        path: &str,
        mut at: u64,
        ordered: bool,
        mut data: ByteStream,
    ) -> Result<()> {
        let requests = if ordered { 1 } else { AHEAD };
        let piece = self.sftp.write_piece;
        let mut ahead = FuturesUnordered::new();
        let mut pending = BytesMut::new();
        let failed = |e: SftpError| self.sftp.failed("write", path, e);
        let mut ended = false;
        while !ended || !pending.is_empty() {
            while !ended && pending.len() < piece {
                match data.next().await {
                    Some(more) => pending.extend_from_slice(&more?),
                    None => ended = true,
                }
            }
            while pending.len() >= piece || (ended && !pending.is_empty()) {
                if ahead.len() >= requests
                    && let Some(Err(e)) = ahead.next().await
                {
                    return Err(failed(e));
                }
                let now = pending.split_to(piece.min(pending.len())).to_vec();
                let from = at;
                at += now.len() as u64;
                ahead.push(self.sftp.raw.write(self.handle.as_str(), from, now));
            }
        }
        while let Some(done) = ahead.next().await {
            if let Err(e) = done {
                return Err(failed(e));
            }
        }
        Ok(())
    }
}
