//! What Multipass does not keep: labels, and when a machine was made.

use std::{collections::BTreeMap, io, io::Write as _, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{Error, Labels, Result};

/// What is known about one machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    pub(super) labels: Labels,
    pub(super) created_at: Option<Timestamp>,
}

/// A launch whose outcome is not known yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) since: Timestamp,
    #[serde(default)]
    pub(super) labels: Labels,
    /// Whether somebody still wants the machine.
    pub(super) wanted: bool,
    /// Whether cloud-init got a document.
    #[serde(default)]
    pub(super) user_data: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Document {
    /// Layout of this file.
    version: u32,
    machines: BTreeMap<String, Record>,
    launches: BTreeMap<String, Pending>,
}

const VERSION: u32 = 1;

/// The records, in memory and perhaps in a file.
#[derive(Debug)]
pub(super) struct Records {
    file: Option<PathBuf>,
    /// `None` until it is read.
    known: Mutex<Option<Document>>,
}

impl Records {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { file, known: Mutex::new(None) }
    }

    /// All records.
    ///
    /// # Errors
    /// When the file cannot be read or is not ours: it is left alone then.
    pub(super) async fn all(&self) -> Result<BTreeMap<String, Record>> {
        self.with(|document| document.machines.clone()).await
    }

    /// Changes the record of `name`: `None` removes it.
    ///
    /// # Errors
    /// When the file cannot be read or written; what is in memory counts then.
    pub(super) async fn set(&self, name: &str, record: Option<Record>) -> Result<()> {
        self.change(|document| match record {
            Some(record) => drop(document.machines.insert(name.to_owned(), record)),
            None => drop(document.machines.remove(name)),
        })
        .await
    }

    /// Launches that a process before this one began and whose outcome it did not see.
    pub(super) async fn launches(&self) -> Result<BTreeMap<String, Pending>> {
        self.with(|document| document.launches.clone()).await
    }

    /// A launch begins, or its outcome is known (`None`). Errors as for [`set`](Self::set).
    pub(super) async fn set_launch(&self, name: &str, launch: Option<Pending>) -> Result<()> {
        self.change(|document| match launch {
            Some(launch) => drop(document.launches.insert(name.to_owned(), launch)),
            None => drop(document.launches.remove(name)),
        })
        .await
    }

    /// Nobody wants the machine of this launch any more.
    pub(super) async fn unwanted(&self, name: &str) -> Result<()> {
        self.change(|document| {
            if let Some(launch) = document.launches.get_mut(name) {
                launch.wanted = false;
            }
        })
        .await
    }

    async fn with<T>(&self, look: impl FnOnce(&Document) -> T) -> Result<T> {
        let mut known = self.known.lock().await;
        let document = match known.take() {
            Some(document) => document,
            None => self.read().await?,
        };
        Ok(look(known.insert(document)))
    }

    async fn change(&self, change: impl FnOnce(&mut Document)) -> Result<()> {
        let mut known = self.known.lock().await;
        let before = match known.take() {
            Some(document) => document,
            None => self.read().await?,
        };
        let mut document = before.clone();
        change(&mut document);
        let written = if document == before { Ok(()) } else { self.write(&document).await };
        *known = Some(document);
        written
    }

    async fn read(&self) -> Result<Document> {
        let Some(path) = &self.file else { return Ok(Document::default()) };
        let fail = |e: io::Error| Error::io("read machine records", e).with_context("path", path.display());
        let data = match tokio::fs::read(path).await {
            Ok(data) => data,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Document::default()),
            Err(e) => return Err(fail(e)),
        };
        let document: Document = serde_json::from_slice(&data).map_err(|e| fail(e.into()))?;
        if document.version > VERSION {
            return Err(fail(io::Error::other("it was written by a newer version")));
        }
        Ok(document)
    }

    async fn write(&self, document: &Document) -> Result<()> {
        let Some(path) = self.file.clone() else { return Ok(()) };
        let document = Document { version: VERSION, ..document.clone() };
        let shown = path.display().to_string();
        let work = move || -> io::Result<()> {
            let dir = path.parent().filter(|d| !d.as_os_str().is_empty());
            let mut file = match dir {
                Some(dir) => tempfile::NamedTempFile::new_in(dir)?,
                None => tempfile::NamedTempFile::new_in(".")?,
            };
            file.write_all(&serde_json::to_vec_pretty(&document)?)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        let written = tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)));
        written.map_err(|e| Error::io("write machine records", e).with_context("path", shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn records_survive_and_a_file_of_the_future_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("records.json");
        let record = Record { labels: [("a".to_owned(), "b".to_owned())].into(), created_at: None };
        Records::new(Some(file.clone())).set("m", Some(record.clone())).await.unwrap();
        let again = Records::new(Some(file.clone()));
        assert_eq!(again.all().await.unwrap()["m"], record);
        again.set("m", None).await.unwrap();
        assert!(Records::new(Some(file.clone())).all().await.unwrap().is_empty());
        std::fs::write(&file, r#"{"version": 99, "machines": {}}"#).unwrap();
        Records::new(Some(file.clone())).set("m", None).await.unwrap_err();
        assert!(std::fs::read_to_string(&file).unwrap().contains("99"));
    }
}
