//! Keeping the whole spool within its limits.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::SystemTime,
};

use super::{
    Spool,
    log::{self, segment_start},
};
use crate::{CommandId, Error, Result};

struct Found {
    id: CommandId,
    path: PathBuf,
    start: u64,
    len: u64,
    modified: SystemTime,
}

impl Spool {
    /// Removes segments that are too old, then the oldest until nine tenths of the total limit are left. The last
    /// segment of a command that is being written stays. Walks the whole tree: call it off the async threads.
    ///
    /// # Errors
    /// When the directory cannot be read; files that cannot be removed are logged and skipped.
    pub(crate) fn enforce(&self, now: SystemTime) -> Result<()> {
        let mut found = Vec::new();
        for (id, dir) in self.directories()? {
            if self.closed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let Ok(parts) = log::parts_on_disk(&dir) else { continue };
            found.extend(parts.into_iter().filter_map(|p| {
                let modified = fs::metadata(&p.path).and_then(|m| m.modified()).ok()?;
                Some(Found { id, path: p.path, start: p.start, len: p.len, modified })
            }));
        }
        found.sort_unstable_by_key(|f| (f.modified, f.start));
        let mut total: u64 = found.iter().map(|f| f.len).sum();
        let too_old = |f: &Found| {
            let age = now.duration_since(f.modified).unwrap_or_default();
            self.limits.max_age.is_some_and(|max| age > max)
        };
        let full = total > self.limits.total_bytes;
        let goal = if full { self.limits.total_bytes / 10 * 9 } else { u64::MAX };
        for f in found {
            if self.closed.load(Ordering::Relaxed) || !(too_old(&f) || total > goal) {
                break;
            }
            match self.remove_segment(&f) {
                Ok(true) => total -= f.len,
                Ok(false) => {}
                Err(e) => tracing::warn!(path = %f.path.display(), error = %e, "cannot remove old output"),
            }
        }
        self.total.store(total, Ordering::Relaxed);
        let next = self.limits.total_bytes.max(total + self.limits.total_bytes / 16);
        self.pressure_at.store(next, Ordering::Relaxed);
        Ok(())
    }

    /// Commands that have a directory here.
    pub(crate) fn commands(&self) -> Result<Vec<CommandId>> {
        Ok(self.directories()?.into_iter().map(|(id, _)| id).collect())
    }

    /// Whether somebody in this process wrote to the command lately.
    pub(crate) fn is_live(&self, id: CommandId) -> bool {
        self.live.lock().contains_key(&id)
    }

    /// [`shut`](Self::shut) was called.
    pub(crate) fn is_shut(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn remove_segment(&self, found: &Found) -> io::Result<bool> {
        let entry = self.live.lock().get(&found.id).cloned();
        if let Some(entry) = entry
            && let Some(log) = entry.log.lock().as_mut()
        {
            return log.drop_segment(found.start);
        }
        match fs::remove_file(&found.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        if let Some(dir) = found.path.parent() {
            // Fails while other segments are there, which is fine.
            let _ = fs::remove_dir(dir);
        }
        Ok(true)
    }

    fn directories(&self) -> Result<Vec<(CommandId, PathBuf)>> {
        let walk = || -> io::Result<Vec<(CommandId, PathBuf)>> {
            let mut all = Vec::new();
            for shard in list(&self.dir)? {
                all.extend(list(&shard)?.into_iter().filter_map(|dir| {
                    let id = dir.file_name()?.to_str()?.parse().ok()?;
                    Some((id, dir))
                }));
            }
            Ok(all)
        };
        walk().map_err(|e| Error::io("spool", e).with_context("path", self.dir.display()))
    }
}

/// Paths in a directory; none if it is absent or no directory.
fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|e| e.map(|e| e.path()))
            .filter(|path| !path.as_ref().is_ok_and(|p| segment_start(p).is_some()))
            .collect(),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(e) => Err(e),
    }
}
