//! Files of one target.

use std::{sync::Arc, time::Duration};

use ::fleetcore::{
    ByteStream, Error, ErrorKind, FileInfo, Files as CoreFiles, Fleet, Result, Target, WriteOptions,
};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use pyo3::prelude::*;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinHandle,
};

use crate::{
    convert::{bytes, joined, json, text, value},
    errors::raise,
    op::Op,
    place::Place,
    rt,
};

/// Bytes that are handed over at once, if that many are there.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces on their way to a file.
const PIECES_AHEAD: usize = 4;
/// How long a broken write may take to clean up.
const TIDY: Duration = Duration::from_secs(5);

#[pyclass(module = "fleetcore._fleetcore", frozen)]
pub(crate) struct Files {
    place: Place,
    target: Target,
}

impl Files {
    pub(crate) fn new(place: Place, target: Target) -> Self {
        Self { place, target }
    }

    fn files(&self) -> impl Future<Output = Result<CoreFiles>> + Send + 'static {
        let (place, target) = (self.place.clone(), self.target.clone());
        async move { place.machine(&target).await?.files().await }
    }

    fn info<F>(&self, ask: impl FnOnce(CoreFiles) -> F + Send + 'static) -> Op
    where
        F: Future<Output = Result<FileInfo>> + Send + 'static,
    {
        let files = self.files();
        Op::new(async move { value(&ask(files.await?).await?) }, |py, info| json(py, &info))
    }

    fn unit<F>(&self, ask: impl FnOnce(CoreFiles) -> F + Send + 'static) -> Op
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let files = self.files();
        Op::unit(async move { ask(files.await?).await })
    }
}

fn count(field: &'static str, n: Option<i64>) -> PyResult<Option<u64>> {
    n.map(|n| u64::try_from(n).map_err(|_| raise(Error::invalid(field, "0 or more")))).transpose()
}

#[pymethods]
impl Files {
    /// Those of this host, for copies.
    #[staticmethod]
    fn here() -> Self {
        Self::new(Place::Here(Fleet::local(), None), Target::local())
    }

    fn stat(&self, path: &Bound<'_, PyAny>) -> PyResult<Op> {
        let path = text(path, "path")?;
        Ok(self.info(|files| async move { files.stat(&path).await }))
    }

    fn list(&self, path: &Bound<'_, PyAny>) -> PyResult<Op> {
        let (path, files) = (text(path, "path")?, self.files());
        Ok(Op::new(async move { value(&files.await?.list(&path).await?) }, |py, all| json(py, &all)))
    }

    fn create_dir(&self, path: &Bound<'_, PyAny>) -> PyResult<Op> {
        let path = text(path, "path")?;
        Ok(self.unit(|files| async move { files.create_dir(&path).await }))
    }

    fn rename(&self, from: &Bound<'_, PyAny>, to: &Bound<'_, PyAny>) -> PyResult<Op> {
        let (from, to) = (text(from, "source")?, text(to, "destination")?);
        Ok(self.unit(|files| async move { files.rename(&from, &to).await }))
    }

    fn remove(&self, path: &Bound<'_, PyAny>, recursive: bool) -> PyResult<Op> {
        let path = text(path, "path")?;
        Ok(self.unit(move |files| async move { files.remove(&path, recursive).await }))
    }

    /// A part of a file as one `bytes`.
    fn read(&self, path: &Bound<'_, PyAny>, offset: i64, length: Option<i64>) -> PyResult<Op> {
        let path = text(path, "path")?;
        let (offset, length) = (count("offset", Some(offset))?.unwrap_or_default(), count("length", length)?);
        let files = self.files();
        let work = async move {
            let mut stream = files.await?.read_stream(&path, offset, length).await?;
            let mut pieces = Vec::new();
            while let Some(piece) = stream.next().await {
                pieces.push(piece?);
            }
            Ok(pieces)
        };
        Ok(Op::new(work, |py, pieces| Ok(joined(py, &pieces)?.into_any().unbind())))
    }

    fn reader(&self, path: &Bound<'_, PyAny>, offset: i64, length: Option<i64>) -> PyResult<Op> {
        let path = text(path, "path")?;
        let (offset, length) = (count("offset", Some(offset))?.unwrap_or_default(), count("length", length)?);
        let files = self.files();
        Ok(Reader::opening(async move { files.await?.read_stream(&path, offset, length).await }))
    }

    fn tar_reader(&self, path: &Bound<'_, PyAny>) -> PyResult<Op> {
        let (path, files) = (text(path, "path")?, self.files());
        Ok(Reader::opening(async move { files.await?.read_tar(&path).await }))
    }

    fn writer(
        &self,
        path: &Bound<'_, PyAny>,
        mode: Option<u32>,
        append: bool,
        parents: bool,
        atomic: bool,
    ) -> PyResult<Writer> {
        let path = text(path, "path")?;
        let options = WriteOptions::default()
            .with_mode(mode)
            .with_append(append)
            .with_create_parents(parents)
            .with_atomic(atomic);
        let files = self.files();
        Writer::begin(
            move |data| async move { value(&files.await?.write_stream(&path, options, data).await?) },
        )
    }

    fn tar_writer(&self, path: &Bound<'_, PyAny>) -> PyResult<Writer> {
        let (path, files) = (text(path, "path")?, self.files());
        Writer::begin(move |data| async move { value(&files.await?.write_tar(&path, data).await?) })
    }
}

/// Bytes as they come.
#[pyclass(module = "fleetcore._fleetcore", frozen)]
pub(crate) struct Reader {
    stream: Arc<Mutex<ByteStream>>,
}

impl Reader {
    fn opening(open: impl Future<Output = Result<ByteStream>> + Send + 'static) -> Op {
        let work = async move { Ok(Self { stream: Arc::new(Mutex::new(open.await?.fuse().boxed())) }) };
        Op::new(work, |py, reader| Ok(Py::new(py, reader)?.into_any()))
    }
}

#[pymethods]
impl Reader {
    /// The next piece; empty at the end.
    fn next(&self) -> Op {
        let stream = Arc::clone(&self.stream);
        let work = async move {
            let mut stream = stream.lock().await;
            let mut pieces: Vec<Bytes> = stream.next().await.transpose()?.into_iter().collect();
            let mut size = pieces.iter().map(Bytes::len).sum::<usize>();
            while size < PIECE_BYTES
                && let Some(Some(more)) = stream.next().now_or_never()
            {
                let more = more?;
                size += more.len();
                pieces.push(more);
            }
            Ok(pieces)
        };
        Op::new(work, |py, pieces| Ok(joined(py, &pieces)?.into_any().unbind()))
    }
}

type Writing = Arc<Mutex<Option<JoinHandle<Result<serde_json::Value>>>>>;

/// Bytes on their way into a file. Unless it is finished, dropping it breaks the write off.
#[pyclass(module = "fleetcore._fleetcore", frozen)]
pub(crate) struct Writer {
    pieces: Arc<Mutex<Option<mpsc::Sender<Result<Bytes>>>>>,
    writing: Writing,
    abort: tokio::task::AbortHandle,
}

async fn outcome(writing: &Writing) -> Result<serde_json::Value> {
    let broken = || Error::new(ErrorKind::InvalidState, "the write is over").with_operation("write");
    // Kept until it is there: whoever waits may be cancelled.
    let mut writing = writing.lock().await;
    let done = match writing.as_mut() {
        Some(task) => task.await,
        None => return Err(broken()),
    };
    *writing = None;
    done.map_err(|e| broken().with_source(e))?
}

impl Writer {
    fn begin<F>(write: impl FnOnce(ByteStream) -> F) -> PyResult<Self>
    where
        F: Future<Output = Result<serde_json::Value>> + Send + 'static,
    {
        let (pieces, queue) = mpsc::channel(PIECES_AHEAD);
        let data = futures::stream::unfold(queue, |mut queue| async {
            queue.recv().await.map(|piece| (piece, queue))
        });
        let task = rt::handle()?.spawn(write(data.boxed()));
        let abort = task.abort_handle();
        Ok(Self {
            pieces: Arc::new(Mutex::new(Some(pieces))),
            writing: Arc::new(Mutex::new(Some(task))),
            abort,
        })
    }
}

#[pymethods]
impl Writer {
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<Op> {
        let data = bytes(data, "data")?;
        let (pieces, writing) = (Arc::clone(&self.pieces), Arc::clone(&self.writing));
        Ok(Op::unit(async move {
            let sender = pieces.lock().await.clone();
            match sender {
                Some(sender) if sender.send(Ok(data)).await.is_ok() => Ok(()),
                // It has failed: say why.
                _ => match outcome(&writing).await {
                    Err(error) => Err(error),
                    Ok(_) => Err(Error::new(ErrorKind::InvalidState, "the write is over")),
                },
            }
        }))
    }

    fn finish(&self) -> Op {
        let (pieces, writing) = (Arc::clone(&self.pieces), Arc::clone(&self.writing));
        let work = async move {
            drop(pieces.lock().await.take());
            outcome(&writing).await
        };
        Op::new(work, |py, info| json(py, &info))
    }

    /// Breaks off: an atomic write leaves what was there.
    fn abort(&self) -> Op {
        let (pieces, writing) = (Arc::clone(&self.pieces), Arc::clone(&self.writing));
        Op::unit(async move {
            if let Some(pieces) = pieces.lock().await.take() {
                let cancelled = Error::new(ErrorKind::Cancelled, "the write was broken off");
                let _ = tokio::time::timeout(TIDY, pieces.send(Err(cancelled))).await;
            }
            let _ = tokio::time::timeout(TIDY, outcome(&writing)).await;
            Ok(())
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.abort.abort();
    }
}
