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

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Document {
    /// Layout of this file.
    version: u32,
    machines: BTreeMap<String, Record>,
}

const VERSION: u32 = 1;

/// The records, in memory and perhaps in a file.
#[derive(Debug)]
pub(super) struct Records {
    file: Option<PathBuf>,
    /// `None` until it is read.
    known: Mutex<Option<BTreeMap<String, Record>>>,
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
        let mut known = self.known.lock().await;
        if known.is_none() {
            *known = Some(self.read().await?);
        }
        Ok(known.clone().unwrap_or_default())
    }

    /// Changes the record of `name`: `None` removes it.
    ///
    /// # Errors
    /// When the file cannot be read or written; what is in memory counts then.
    pub(super) async fn set(&self, name: &str, record: Option<Record>) -> Result<()> {
        let mut known = self.known.lock().await;
        let mut all = match known.take() {
            Some(all) => all,
            None => self.read().await?,
        };
        let changed = match record {
            Some(record) => all.insert(name.to_owned(), record.clone()) != Some(record),
            None => all.remove(name).is_some(),
        };
        let written = if changed { self.write(&all).await } else { Ok(()) };
        *known = Some(all);
        written
    }

    async fn read(&self) -> Result<BTreeMap<String, Record>> {
        let Some(path) = &self.file else { return Ok(BTreeMap::new()) };
        let fail = |e: io::Error| Error::io("read machine records", e).with_context("path", path.display());
        let data = match tokio::fs::read(path).await {
            Ok(data) => data,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(e) => return Err(fail(e)),
        };
        let document: Document = serde_json::from_slice(&data).map_err(|e| fail(e.into()))?;
        if document.version > VERSION {
            return Err(fail(io::Error::other("it was written by a newer version")));
        }
        Ok(document.machines)
    }

    async fn write(&self, all: &BTreeMap<String, Record>) -> Result<()> {
        let Some(path) = self.file.clone() else { return Ok(()) };
        let document = Document { version: VERSION, machines: all.clone() };
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
