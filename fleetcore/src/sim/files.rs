//! Files over `spawn`: for machines that offer nothing but running commands.
//!
//! Takes a POSIX shell and cat, head, tail, stat, find, mkdir, mv, rm; for trees also tar.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use jiff::Timestamp;

use super::{script::Script, tar_guard::TarGuard};
use crate::{
    Error, ErrorKind, FileInfo, FileKind, Owner, Result, WriteOptions,
    raw::{ByteStream, Executor, FileSystem, OpContext},
};

/// Longest answer of a script that is taken into memory: a directory of about half a million entries.
const ANSWER_MAX: usize = 64 << 20;
/// Time to remove a temporary file that nobody waits for any more.
const CLEANUP_LIMIT: Duration = Duration::from_secs(30);

const STAT: &str = r#"need "$1"; facts "$1""#;

const READ: &str = r#"need "$1"
[ -d "$1" ] && exit 43
[ -f "$1" ] || exit 42
if [ "$2" -gt 1 ] && [ "$2" -gt "$(wc -c <"$1")" ]; then exit 0; fi
if [ -n "$3" ]; then tail -c "+$2" -- "$1" | head -c "$3"
elif [ "$2" = 1 ]; then exec cat -- "$1"
else exec tail -c "+$2" -- "$1"; fi"#;

/// `$2` directory to make, `$3` mode, `$4` temporary name, `$5` append; each may be empty.
const UPLOAD: &str = r#"if [ -n "$2" ]; then mkdir -p -- "$2" || exit 1; fi
[ -d "$1" ] && exit 43
if [ -e "$1" ] && ! [ -f "$1" ]; then exit 42; fi
if [ -n "$4" ]; then umask 077; exec cat >"$4"; fi
if ! [ -e "$1" ] && [ -n "$3" ]; then (umask 077; : >"$1") && chmod "$3" "$1" || exit 1; fi
if [ -n "$5" ]; then exec cat >>"$1"; fi
exec cat >"$1""#;

/// Puts `$3` in the place of `$1`, with the owner and mode of the old file or the mode `$2`.
const COMMIT: &str = r#"to=$1
if [ -L "$1" ] && [ -e "$1" ]; then
  to=$(readlink -f -- "$1" && echo x) || exit 1
  to=${to%?x}
fi
if [ -e "$to" ]; then
  owner=$(stat -c %u:%g -- "$to" 2>/dev/null || stat -f %u:%g -- "$to") && chown "$owner" "$3" 2>/dev/null
  mode=$(stat -c %a -- "$to" 2>/dev/null || stat -f %Lp -- "$to") && chmod "$mode" "$3" || exit 1
elif [ -n "$2" ]; then chmod "$2" "$3" || exit 1
else chmod =rw "$3" || exit 1; fi
mv -f -- "$3" "$to" && facts "$to""#;

const LIST: &str = r#"need "$1"
[ -d "$1" ] || exit 45
cd "$1" || exit 1
[ -r . ] || { ls . >/dev/null; exit 1; }
if stat --printf= . 2>/dev/null; then
  find . ! -name . -prune -exec stat --printf '%f %s %Y %n\0' -- {} + 2>/dev/null
else
  find . ! -name . -prune -exec sh -c 'for f do
    s=$(stat -c "%f %s %Y" -- "$f" 2>/dev/null || stat -f "%Xp %z %m" -- "$f" 2>/dev/null) &&
    printf "%s %s\0" "$s" "$f"; done' sh {} +
fi
exit 0"#;

const MKDIR: &str = r#"exec mkdir -p -- "$1""#;

const OWNER: &str = r#"need "$1"; exec chown -- "$2" "$1""#;

/// mv(1) moves into a directory where rename(2) would replace it or fail.
const RENAME: &str = r#"[ -L "$1" ] || need "$1"
if [ -d "$1" ] && ! [ -L "$1" ]; then
  if [ -d "$2" ] && ! [ -L "$2" ]; then rmdir -- "$2" || exit 1
  elif [ -e "$2" ] || [ -L "$2" ]; then exit 45; fi
elif [ -L "$2" ] && [ -d "$2" ]; then rm -f -- "$2" || exit 1
elif [ -d "$2" ]; then exit 43; fi
exec mv -f -- "$1" "$2""#;

const REMOVE: &str = r#"[ -L "$1" ] || need "$1"
if [ -d "$1" ] && ! [ -L "$1" ]; then
  if [ -n "$2" ]; then exec rm -rf -- "$1"; fi
  exec rmdir -- "$1"
fi
exec rm -f -- "$1""#;

const PACK: &str = r#"need "$1"
if [ -d "$1" ]; then exec tar -C "$1" -cf - .; fi
[ -f "$1" ] || exit 42
exec tar -C "$2" -cf - "$3""#;

const UNPACK: &str = r#"mkdir -p -- "$1" && exec tar -C "$1" -o -xf -"#;

/// Files of a machine through commands on it. They are as confined as those commands are: not at all.
#[derive(Clone, Debug)]
pub(crate) struct SpawnFiles {
    executor: Arc<dyn Executor>,
}

impl SpawnFiles {
    /// Files over commands of `executor`.
    pub(crate) fn new(executor: Arc<dyn Executor>) -> Self {
        Self { executor }
    }

    async fn start(
        &self,
        cx: &OpContext,
        operation: &'static str,
        text: &str,
        args: &[&str],
        stdin: bool,
    ) -> Result<Script> {
        cx.guard(operation, Script::start(&*self.executor, cx, operation, text, args, stdin)).await
    }

    async fn ask(&self, cx: &OpContext, operation: &'static str, text: &str, args: &[&str]) -> Result<Bytes> {
        let mut script = self.start(cx, operation, text, args, false).await?;
        cx.guard(operation, script.collect(ANSWER_MAX)).await
    }

    /// Streams what a script prints. Waits for the first piece, so that a script that cannot begin fails here.
    async fn stream(
        &self,
        cx: &OpContext,
        operation: &'static str,
        text: &str,
        args: &[&str],
    ) -> Result<ByteStream> {
        let mut script = self.start(cx, operation, text, args, false).await?;
        let Some(first) = cx.guard(operation, script.next()).await? else {
            return Ok(stream::empty().boxed());
        };
        let rest = stream::try_unfold(script, |mut script| async move {
            Ok(script.next().await?.map(|piece| (piece, script)))
        });
        Ok(stream::iter([Ok(first)]).chain(rest).boxed())
    }
}

/// A path that no tool takes for an option.
fn checked(path: &str) -> Result<String> {
    if path.is_empty() || path.contains('\0') {
        return Err(Error::invalid("path", "not empty and without NUL characters")
            .with_context("path", path.escape_debug()));
    }
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("./{path}") })
}

/// A path that ends in a name, without slashes behind it; and its directory and that name.
fn named(path: &str) -> Result<(String, String, String)> {
    let path = checked(path)?;
    let trimmed = path.trim_end_matches('/');
    let (dir, name) = trimmed.rsplit_once('/').unwrap_or_default();
    if matches!(name, "" | "." | "..") {
        return Err(Error::invalid(
            "path",
            "a path that ends in a name, not in `.`, `..` or the top directory itself",
        )
        .with_context("path", path));
    }
    let dir = if dir.is_empty() { "/" } else { dir };
    Ok((trimmed.to_owned(), dir.to_owned(), name.to_owned()))
}

/// Reads `mode size mtime`: the raw mode in hexadecimal, the others in decimal.
fn info(path: &str, facts: &str) -> Option<FileInfo> {
    let mut fields = facts.split_ascii_whitespace();
    let mode = u32::from_str_radix(fields.next()?, 16).ok()?;
    let size = fields.next()?.parse().ok()?;
    let changed = fields.next()?.parse().ok()?;
    // The file type as in <sys/stat.h>; POSIX leaves the values open, but all systems agree on them.
    let kind = match mode & 0o170_000 {
        0o100_000 => FileKind::File,
        0o040_000 => FileKind::Dir,
        0o120_000 => FileKind::Symlink,
        _ => FileKind::Other,
    };
    let mut info = FileInfo::new(path, kind, size);
    info.mode = Some(mode & 0o7777);
    info.modified_at = Timestamp::from_second(changed).ok();
    Some(info)
}

fn garbled(operation: &'static str, path: &str) -> Error {
    Error::new(ErrorKind::Unexpected, "stat(1) on the machine answered in an unknown way")
        .with_operation(operation)
        .with_context("path", path)
}

fn parse_info(operation: &'static str, path: &str, answer: &[u8]) -> Result<FileInfo> {
    info(path, &String::from_utf8_lossy(answer)).ok_or_else(|| garbled(operation, path))
}

/// Removes a temporary file when a write ends without having used it, even when nobody waits any more.
#[derive(Debug)]
struct Temporary {
    files: SpawnFiles,
    path: Option<String>,
}

impl Temporary {
    async fn remove(files: SpawnFiles, path: String) {
        let cx = OpContext::default().with_timeout(CLEANUP_LIMIT);
        if let Err(err) = files.ask(&cx, "remove temporary file", "rm -f -- \"$1\"", &[&path]).await {
            tracing::warn!(%err, "a temporary file may be left");
        }
    }

    async fn discard(mut self) {
        if let Some(path) = self.path.take() {
            Self::remove(self.files.clone(), path).await;
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(Self::remove(self.files.clone(), path));
        }
    }
}

#[async_trait]
impl FileSystem for SpawnFiles {
    async fn stat(&self, cx: &OpContext, path: &str) -> Result<FileInfo> {
        let answer = self.ask(cx, "stat", STAT, &[&checked(path)?]).await?;
        parse_info("stat", path, &answer)
    }

    async fn read(&self, cx: &OpContext, path: &str, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        // tail(1) counts from one; a shell counts to the largest i64.
        let countable = |n: u64| n.min(i64::MAX.unsigned_abs()).to_string();
        let from = countable(offset.saturating_add(1));
        let len = len.map(countable).unwrap_or_default();
        self.stream(cx, "read", READ, &[&checked(path)?, &from, &len]).await
    }

    async fn write(
        &self,
        cx: &OpContext,
        path: &str,
        opts: WriteOptions,
        data: ByteStream,
    ) -> Result<FileInfo> {
        if opts.append && opts.atomic {
            return Err(Error::invalid("append", "off when atomic is on").with_operation("write"));
        }
        if opts.mode.is_some_and(|m| m > 0o7777) {
            return Err(Error::invalid("mode", "at most 7777 octal").with_operation("write"));
        }
        let at = checked(path)?;
        let mode = opts.mode.map(|m| format!("{m:o}")).unwrap_or_default();
        let (parent, temporary) = match named(path) {
            Ok((_, dir, _)) => {
                let temporary = format!("{dir}/.fleetcore-{:016x}.tmp", rand::random::<u64>());
                (dir, temporary)
            }
            // It is a directory then, and the script says so.
            Err(_) if !opts.atomic => (String::new(), String::new()),
            Err(e) => return Err(e.with_operation("write")),
        };
        let parent = if opts.create_parents { parent.as_str() } else { "" };
        let append = if opts.append { "1" } else { "" };
        if !opts.atomic {
            let mut script = self.start(cx, "write", UPLOAD, &[&at, parent, &mode, "", append], true).await?;
            cx.guard("write", script.feed(data, ANSWER_MAX)).await?;
            return self.stat(cx, path).await;
        }
        let mut guard = Temporary { files: self.clone(), path: Some(temporary.clone()) };
        let written = async {
            let mut script =
                self.start(cx, "write", UPLOAD, &[&at, parent, "", &temporary, ""], true).await?;
            cx.guard("write", script.feed(data, ANSWER_MAX)).await?;
            self.ask(cx, "write", COMMIT, &[&at, &mode, &temporary]).await
        };
        match written.await {
            Ok(answer) => {
                guard.path = None;
                parse_info("write", path, &answer)
            }
            Err(e) => {
                guard.discard().await;
                Err(e)
            }
        }
    }

    async fn list(&self, cx: &OpContext, path: &str) -> Result<Vec<FileInfo>> {
        let answer = self.ask(cx, "list", LIST, &[&checked(path)?]).await?;
        let mut entries = Vec::new();
        for entry in answer.split(|b| *b == 0).filter(|e| !e.is_empty()) {
            let entry = String::from_utf8_lossy(entry);
            let (facts, name) = entry.split_once(" ./").ok_or_else(|| garbled("list", path))?;
            entries.push(info(name, facts).ok_or_else(|| garbled("list", path))?);
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    async fn create_dir(&self, cx: &OpContext, path: &str) -> Result<()> {
        self.ask(cx, "create_dir", MKDIR, &[&checked(path)?]).await.map(drop)
    }

    async fn set_owner(&self, cx: &OpContext, path: &str, owner: Owner) -> Result<()> {
        let numbers = format!("{}:{}", owner.uid, owner.gid);
        self.ask(cx, "set_owner", OWNER, &[&checked(path)?, &numbers]).await.map(drop)
    }

    async fn rename(&self, cx: &OpContext, from: &str, to: &str) -> Result<()> {
        let ((from, ..), (to, ..)) = (named(from)?, named(to)?);
        self.ask(cx, "rename", RENAME, &[&from, &to]).await.map(drop)
    }

    async fn remove(&self, cx: &OpContext, path: &str, recursive: bool) -> Result<()> {
        let (path, ..) = named(path).map_err(|e| e.with_operation("remove"))?;
        self.ask(cx, "remove", REMOVE, &[&path, if recursive { "1" } else { "" }]).await.map(drop)
    }

    async fn read_tar(&self, cx: &OpContext, path: &str) -> Result<ByteStream> {
        let at = checked(path)?;
        // Of a directory only `at` is used; what is not one has a name.
        let (_, dir, name) = named(path).unwrap_or_default();
        self.stream(cx, "read_tar", PACK, &[&at, &dir, &format!("./{name}")]).await
    }

    async fn write_tar(&self, cx: &OpContext, path: &str, data: ByteStream) -> Result<u64> {
        let at = checked(path)?;
        let guard = TarGuard::default();
        let entries = guard.counter();
        // Nothing of an entry reaches the machine before its header was found harmless.
        let checked = stream::unfold((Some(data), guard), |(data, mut guard)| async move {
            let mut data = data?;
            let (item, data) = match data.next().await {
                Some(piece) => match piece.and_then(|p| guard.check(p)) {
                    Ok(good) => (Ok(good), Some(data)),
                    Err(e) => (Err(e), None),
                },
                None => (guard.finish(), None),
            };
            Some((item, (data, guard)))
        });
        let mut script = self.start(cx, "write_tar", UNPACK, &[&at], true).await?;
        let fed = cx.guard("write_tar", script.feed(checked.boxed(), ANSWER_MAX)).await;
        fed.map_err(|e| if e.context_value("path").is_some() { e } else { e.with_context("path", path) })
            .map_err(|e| if e.operation().is_empty() { e.with_operation("write_tar") } else { e })?;
        Ok(entries.get())
    }
}

#[cfg(all(test, feature = "local"))]
mod tests {
    use super::*;
    use crate::backends::local::{Local, files::tests::suite};

    #[tokio::test]
    async fn files_over_commands_do_all_that_native_ones_do() {
        suite(Arc::new(SpawnFiles::new(Arc::new(Local::default())))).await;
    }
}
