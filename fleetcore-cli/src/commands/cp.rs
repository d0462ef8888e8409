//! `fleetcore cp`

use std::{io::Write as _, path::Path, time::Duration};

use fleetcore::{ByteStream, Error, ErrorKind, FileKind, Fleet, Result, Target, WriteOptions};
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Cp, Output},
    config::Settings,
    control::{self, Control, FileEnd},
    error::{Failure, Outcome, note, stdout_failed},
    exit,
    parse::FilePlace,
    render::{self, Progress},
    signals::StopSignals,
    tty,
};

/// One end of the copy, ready to use.
struct End {
    files: FileEnd,
    path: String,
}

impl End {
    /// The last part of the path, which a directory at the other end takes as name.
    fn name(&self) -> Result<&str> {
        Path::new(&self.path).file_name().and_then(|n| n.to_str()).ok_or_else(|| {
            Error::invalid("destination", "a file name, because the source has none")
                .with_context("path", &self.path)
        })
    }
}

/// How long the other end may take to forget what it has when we are told to stop.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(2);

/// Copies. A signal stops it, and no half of a file stays behind; a second one leaves at once.
pub(crate) async fn cp(args: Cp, settings: &Settings) -> Outcome {
    let stop = CancellationToken::new();
    if matches!(args.destination, FilePlace::Standard) {
        // Nothing to clean up: the signal may just end us, also while a write to stdout blocks.
        return transfer(&args, settings, &stop).await;
    }
    let mut stops = StopSignals::listen()?;
    let mut work = std::pin::pin!(transfer(&args, settings, &stop));
    let signal = tokio::select! {
        biased;
        done = &mut work => return done,
        signal = stops.next() => signal,
    };
    // Its data ends with an error now, so the writer removes what it has; that needs a moment.
    stop.cancel();
    tokio::select! {
        done = tokio::time::timeout(CLEAN_UP_LIMIT, work) => if let Ok(Ok(code)) = done {
            return Ok(code);
        },
        _ = stops.next() => {}
    }
    Err(Failure::Code(signal.exit_code()))
}

async fn transfer(args: &Cp, settings: &Settings, stop: &CancellationToken) -> Outcome {
    // Files of this host never need the data directory; a server is asked only when one end is a target.
    let here = Fleet::local();
    let remote =
        matches!(args.source, FilePlace::There(..)) || matches!(args.destination, FilePlace::There(..));
    let control = if remote { Some(control::open(settings).await?) } else { None };
    let source = end(&here, control.as_deref(), &args.source).await?;
    let destination = end(&here, control.as_deref(), &args.destination).await?;
    let options = WriteOptions::atomic().with_create_parents(args.parents);
    let (progress, what) = match (source, destination) {
        (Some(from), Some(to)) => copy(&from, to, args, options, settings, stop).await?,
        (None, Some(to)) => {
            let progress = Progress::new(settings.quiet, None, "stdin");
            to.files.write(&to.path, options, progress.count(until(stop, stdin()))).await?;
            (progress, to.path)
        }
        (Some(from), None) => {
            let progress = Progress::new(true, None, "");
            to_stdout(progress.count(from.files.read(&from.path).await?)).await?;
            (progress, String::new())
        }
        (None, None) => return Err(Error::invalid("source", "a file: both ends are -").into()),
    };
    progress.finish();
    if settings.verbose > 0 && !what.is_empty() {
        note(settings.quiet, &format!("{} to {what}", render::bytes(progress.done())));
    }
    if settings.output == Output::Json && !what.is_empty() {
        render::print(&format!("{}\n", serde_json::json!({ "path": what, "bytes": progress.done() })))?;
    }
    Ok(exit::OK)
}

async fn end(here: &Fleet, control: Option<&dyn Control>, place: &FilePlace) -> Result<Option<End>> {
    match (place, control) {
        (FilePlace::Standard, _) => Ok(None),
        (FilePlace::There(target, path), Some(control)) => {
            Ok(Some(End { files: control.files(target).await?, path: path.clone() }))
        }
        (FilePlace::There(..), None) => Err(Error::new(ErrorKind::Unexpected, "no target to copy to")),
        (FilePlace::Here(path), _) => {
            let files = FileEnd::Here(here.target(&Target::local())?.files().await?);
            let path = std::path::absolute(path)
                .map_err(|e| Error::io("find the path", e).with_context("path", path))?;
            let path = path.to_str().ok_or_else(|| Error::invalid("path", "UTF-8"))?.to_owned();
            Ok(Some(End { files, path }))
        }
    }
}

async fn copy(
    from: &End,
    to: End,
    args: &Cp,
    options: WriteOptions,
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<(Progress, String), Failure> {
    let source = from.files.stat(&from.path).await?;
    let wants_dir = matches!(&args.destination,
        FilePlace::Here(p) | FilePlace::There(_, p) if p.ends_with('/') || p == "." || p.ends_with("/."));
    let existing = match to.files.stat(&to.path).await {
        Ok(info) => Some(info.kind),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(e.into()),
    };
    let path = match existing {
        Some(FileKind::Dir) => format!("{}/{}", to.path.trim_end_matches('/'), from.name()?),
        None if wants_dir && args.parents => format!("{}/{}", to.path.trim_end_matches('/'), from.name()?),
        None if wants_dir => {
            return Err(Error::new(ErrorKind::NotFound, "the directory does not exist")
                .with_context("path", &to.path)
                .with_context("hint", "--parents makes it")
                .into());
        }
        _ => to.path,
    };
    match source.kind {
        FileKind::Dir if !args.recursive => {
            Err(Error::new(ErrorKind::InvalidInput, "the source is a directory")
                .with_context("path", &from.path)
                .with_context("hint", "--recursive copies it with all in it")
                .into())
        }
        FileKind::Dir => {
            let progress = Progress::new(settings.quiet, None, from.name().unwrap_or("files"));
            let data = progress.count(until(stop, from.files.read_tar(&from.path).await?));
            if args.parents {
                to.files.create_dir(&path).await?;
            }
            to.files.write_tar(&path, data).await?;
            Ok((progress, path))
        }
        _ => {
            let progress = Progress::new(settings.quiet, Some(source.size), from.name().unwrap_or("file"));
            let data = progress.count(until(stop, from.files.read(&from.path).await?));
            to.files.write(&path, options.with_mode(source.mode), data).await?;
            Ok((progress, path))
        }
    }
}

/// The same data, with an error as soon as we are told to stop.
fn until(stop: &CancellationToken, data: ByteStream) -> ByteStream {
    futures::stream::unfold((data, stop.clone()), |(mut data, stop)| async move {
        let part = match stop.run_until_cancelled(data.next()).await {
            Some(part) => part?,
            None => Err(Error::new(ErrorKind::Cancelled, "the copy was stopped")),
        };
        Some((part, (data, stop)))
    })
    .boxed()
}

fn stdin() -> ByteStream {
    futures::stream::unfold(tty::stdin(), |mut rx| async move {
        rx.recv().await.map(|item| (item.map_err(|e| Error::io("read stdin", e)), rx))
    })
    .boxed()
}

async fn to_stdout(mut data: ByteStream) -> Result<(), Failure> {
    while let Some(part) = data.next().await {
        let part = part?;
        let mut out = std::io::stdout().lock();
        out.write_all(&part).map_err(stdout_failed)?;
    }
    std::io::stdout().flush().map_err(stdout_failed)
}
