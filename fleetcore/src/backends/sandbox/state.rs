//! What is kept of a sandbox on disk.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Labels, MachineId, MachineSpec, Result};

/// Image that is the host itself.
pub(super) const HOST_IMAGE: &str = "host";
/// File of a sandbox' directory that describes it.
const FILE: &str = "sandbox.json";
/// What directories on their way out are called; no sandbox can have such a name.
const TRASH: &str = ".trash-";

/// What sandboxes are called that are made to see whether they can be, before a UUID. They are never listed.
pub(super) const PROBE: &str = "probe-";

fn is_probe(name: &str) -> bool {
    name.strip_prefix(PROBE).is_some_and(|id| uuid::Uuid::try_parse(id).is_ok())
}

/// A sandbox as it was asked for, and whether it is meant to be up.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Spec {
    pub(super) image: String,
    pub(super) network: bool,
    #[serde(default)]
    pub(super) memory_bytes: Option<u64>,
    #[serde(default)]
    pub(super) cpus: Option<u32>,
    #[serde(default)]
    pub(super) processes: Option<u64>,
    #[serde(default)]
    pub(super) labels: Labels,
    pub(super) created_at: Timestamp,
    pub(super) running: bool,
}

impl Spec {
    /// Checks what is asked for. Nothing is ignored: what a sandbox has not is refused.
    pub(super) fn from_machine(spec: &MachineSpec) -> Result<Self> {
        let without = |field: &'static str| {
            Err(Error::unsupported("create").with_context("field", field).with_context("provider", "sandbox"))
        };
        if spec.disk_bytes.is_some() {
            return without("disk_bytes");
        }
        if spec.region.is_some() {
            return without("region");
        }
        if spec.user_data.is_some() {
            return without("user_data");
        }
        let (mut network, mut processes) = (false, None);
        for (key, value) in &spec.options {
            match key.as_str() {
                "network" => {
                    network =
                        value.as_bool().ok_or_else(|| Error::invalid("options.network", "true or false"))?;
                }
                "processes" => {
                    let most = value.as_u64().filter(|n| (1..=1 << 22).contains(n));
                    processes =
                        Some(most.ok_or_else(|| Error::invalid("options.processes", "1 to 4194304"))?);
                }
                _ => {
                    return Err(Error::invalid("options", "network and processes only")
                        .with_context("option", key.escape_debug()));
                }
            }
        }
        if spec.memory_bytes.is_some_and(|m| m < 16 << 20) {
            return Err(Error::invalid("memory_bytes", "at least 16 MiB"));
        }
        if spec.cpus == Some(0) {
            return Err(Error::invalid("cpus", "at least 1"));
        }
        let image = spec.image.clone().unwrap_or_else(|| HOST_IMAGE.to_owned());
        MachineId::new(&image)
            .map_err(|e| Error::invalid("image", "host, or the name of an image").with_source(e))?;
        Ok(Self {
            image,
            network,
            memory_bytes: spec.memory_bytes,
            cpus: spec.cpus,
            processes,
            labels: spec.labels.clone(),
            created_at: Timestamp::now(),
            running: true,
        })
    }
}

/// The directory of all sandboxes.
#[derive(Clone, Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

fn fail(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |e| Error::io(operation, e).with_context("path", path)
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Store {
    /// Opens or makes the directory, and removes what a deletion left half done.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        make_dir(dir).map_err(fail("open sandboxes", dir))?;
        // bubblewrap resolves what it shows on its own.
        let dir = dir.canonicalize().map_err(fail("open sandboxes", dir))?;
        for entry in fs::read_dir(&dir).map_err(fail("open sandboxes", &dir))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(TRASH) || is_probe(&name) {
                let _ = remove_tree(&entry.path());
            }
        }
        Ok(Self { dir })
    }

    pub(super) fn dir(&self, name: &MachineId) -> PathBuf {
        self.dir.join(name.as_str())
    }

    /// Makes the directory of a new sandbox, all of it or nothing.
    pub(super) fn create(&self, name: &MachineId, spec: &Spec) -> Result<()> {
        let dir = self.dir(name);
        let taken = || {
            Error::new(ErrorKind::AlreadyExists, "the name is taken")
                .with_operation("create")
                .with_context("machine", name)
        };
        if dir.exists() {
            return Err(taken());
        }
        let draft = self.dir.join(format!("{TRASH}{}", uuid::Uuid::now_v7()));
        let made = ["home", "tmp", "var-tmp", "etc"].iter().try_for_each(|part| make_dir(&draft.join(part)));
        let made = made.and_then(|()| write_spec(&draft, spec)).and_then(|()| {
            // Refuses to replace a directory that is not empty, so two creations of one name cannot both win.
            fs::rename(&draft, &dir)
        });
        made.map_err(|e| {
            let _ = remove_tree(&draft);
            if dir.exists() { taken() } else { fail("create", &dir)(e) }
        })
    }

    pub(super) fn read(&self, name: &MachineId) -> Result<Spec> {
        let path = self.dir(name).join(FILE);
        let text = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::new(ErrorKind::NotFound, "no such sandbox").with_context("machine", name));
            }
            other => other.map_err(fail("read sandbox", &path))?,
        };
        serde_json::from_slice(&text).map_err(|e| {
            Error::new(ErrorKind::DataLoss, "the description of the sandbox cannot be read")
                .with_context("path", path.display())
                .with_source(e)
        })
    }

    pub(super) fn write(&self, name: &MachineId, spec: &Spec) -> Result<()> {
        let dir = self.dir(name);
        write_spec(&dir, spec).map_err(fail("write sandbox", &dir))
    }

    /// All of them, by name. One that cannot be read is left out and logged.
    pub(super) fn list(&self) -> Result<Vec<(MachineId, Spec)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fail("list", &self.dir))?.flatten() {
            let name = entry.file_name();
            let name = name.to_str().filter(|n| !is_probe(n)).and_then(|n| MachineId::new(n).ok());
            let Some(name) = name else { continue };
            match self.read(&name) {
                Ok(spec) => all.push((name, spec)),
                Err(error) => tracing::warn!(machine = %name, %error, "sandbox cannot be listed"),
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// Removes a sandbox with all its files. It is gone at once; the files follow.
    pub(super) fn remove(&self, name: &MachineId) -> Result<()> {
        let dir = self.dir(name);
        let trash = self.dir.join(format!("{TRASH}{}", uuid::Uuid::now_v7()));
        match fs::rename(&dir, &trash) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(fail("delete", &dir))?,
        }
        remove_tree(&trash).map_err(fail("delete", &trash))
    }
}

fn write_spec(dir: &Path, spec: &Spec) -> io::Result<()> {
    let draft = dir.join(".sandbox.json.new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec_pretty(spec)?)?;
    // A name without its content would be a sandbox nobody can read.
    file.sync_all()?;
    fs::rename(draft, dir.join(FILE))
}

/// Removes a tree even where its owner took away the right to; never follows links.
fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
        other => return other,
    }
    open_up(path, 0);
    fs::remove_dir_all(path)
}

fn open_up(dir: &Path, depth: usize) {
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    if depth > 256 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            open_up(&entry.path(), depth + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_once_and_deletion_leaves_nothing() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("s")).unwrap();
        let name = MachineId::new("a").unwrap();
        let machine = MachineSpec { name: "a".into(), ..MachineSpec::default() };
        let spec = Spec::from_machine(&machine).unwrap();
        store.create(&name, &spec).unwrap();
        assert_eq!(store.create(&name, &spec).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(store.read(&name).unwrap(), spec);
        let closed = store.dir(&name).join("home/closed");
        fs::create_dir(&closed).unwrap();
        fs::write(closed.join("file"), "x").unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        store.remove(&name).unwrap();
        store.remove(&name).unwrap();
        let probe = MachineId::new(format!("{PROBE}{}", uuid::Uuid::now_v7())).unwrap();
        store.create(&probe, &spec).unwrap();
        assert!(store.list().unwrap().is_empty());
        let store = Store::open(&top.path().join("s")).unwrap();
        assert_eq!(
            store.read(&probe).unwrap_err().kind(),
            ErrorKind::NotFound,
            "of a process that was killed"
        );
        assert_eq!(fs::read_dir(top.path().join("s")).unwrap().count(), 0);
    }

    #[test]
    fn what_a_sandbox_has_not_is_refused_by_name() {
        let refused = |change: fn(&mut MachineSpec)| {
            let mut spec = MachineSpec::default();
            change(&mut spec);
            let error = Spec::from_machine(&spec).unwrap_err();
            (error.kind(), error.context_value("field").unwrap_or_default().to_owned())
        };
        assert_eq!(refused(|s| s.disk_bytes = Some(1)), (ErrorKind::Unsupported, "disk_bytes".into()));
        assert_eq!(refused(|s| s.region = Some("x".into())), (ErrorKind::Unsupported, "region".into()));
        assert_eq!(refused(|s| s.image = Some("../x".into())), (ErrorKind::InvalidInput, "image".into()));
        assert_eq!(refused(|s| s.cpus = Some(0)), (ErrorKind::InvalidInput, "cpus".into()));
        assert_eq!(
            refused(|s| drop(s.options.insert("x".into(), true.into()))),
            (ErrorKind::InvalidInput, "options".into())
        );
    }
}
