//! The stand-in as a test sees it.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use fleetcore::{Error, ErrorKind, Result, backends::multipass::MultipassConfig};

/// A directory with a program called `multipass` in it, and a state of its own. Removed when dropped.
#[derive(Debug)]
pub struct StandIn {
    dir: tempfile::TempDir,
}

impl Drop for StandIn {
    /// Ends all that runs on its machines, and all that still works on them.
    fn drop(&mut self) {
        super::guest::end_all(&self.state());
    }
}

/// Runs the stand-in if this process was started under the name `multipass`. To be called first in the `main` of a test
/// without a harness: the test program itself is then what the link of a [`StandIn`] points to.
pub fn main_if_called() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    (Path::new(&name).file_name()? == "multipass").then(super::main)
}

impl StandIn {
    /// A fresh one over this very program: see [`main_if_called`].
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn new() -> Result<Self> {
        let fail = |e| Error::io("make a stand-in", e);
        let dir = tempfile::Builder::new().prefix("fleetcore-standin.").tempdir().map_err(fail)?;
        std::fs::create_dir(dir.path().join("bin")).map_err(fail)?;
        let this = std::env::current_exe().map_err(fail)?;
        std::os::unix::fs::symlink(this, dir.path().join("bin/multipass")).map_err(fail)?;
        Ok(Self { dir })
    }

    /// The directory that holds the program, for `PATH`.
    pub fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    /// The program.
    pub fn program(&self) -> PathBuf {
        self.bin().join("multipass")
    }

    /// Its state.
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Runs the program and waits for it; its output is dropped.
    ///
    /// # Errors
    /// When it does not start or fails.
    pub fn run(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new(self.program());
        command.args(args).envs(&self.config().env).stdin(Stdio::null()).stdout(Stdio::null());
        let ended = command.status().map_err(|e| Error::io("run the stand-in", e))?;
        if ended.success() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unexpected, format!("{args:?}: {ended}")))
    }

    /// Sets what goes wrong from now on: see [`plan`](super::plan).
    ///
    /// # Panics
    /// When the plan cannot be written.
    pub fn plan(&self, rules: serde_json::Value) {
        let dir = self.state();
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(&dir)?;
            for old in ["plan.json", "plan-counts.json"] {
                let _ = std::fs::remove_file(dir.join(old));
            }
            let mut file = tempfile::NamedTempFile::new_in(&dir)?;
            file.write_all(rules.to_string().as_bytes())?;
            file.persist(dir.join("plan.json"))?;
            Ok(())
        };
        if let Err(e) = write() {
            crate::fail(format!("the plan cannot be written: {e}"));
        }
    }

    /// Calls so far, oldest first: the arguments of each.
    pub fn calls(&self) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(self.state().join("journal.jsonl")).unwrap_or_default();
        let argv = |line: &str| {
            let entry: serde_json::Value = serde_json::from_str(line).ok()?;
            serde_json::from_value(entry.get("argv")?.clone()).ok()
        };
        text.lines().filter_map(argv).collect()
    }

    /// Calls of one command so far.
    pub fn called(&self, command: &str) -> usize {
        self.calls().iter().filter(|argv| argv.first().is_some_and(|c| c == command)).count()
    }

    /// Settings of the backend for it, a hundred times faster than life.
    pub fn config(&self) -> MultipassConfig {
        self.config_as("1.16.3")
    }

    /// The same, of this release.
    pub fn config_as(&self, release: &str) -> MultipassConfig {
        let ms = std::time::Duration::from_millis;
        MultipassConfig::default()
            .with_program(self.program())
            .with_env("FAKE_MULTIPASS_STATE", self.state().to_string_lossy())
            .with_env("FAKE_MULTIPASS_SCALE", "0.01")
            .with_env("FAKE_MULTIPASS_VERSION", release)
            .with_follow_pause(ms(20))
            .with_freshness(ms(20), ms(200))
    }
}
