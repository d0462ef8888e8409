//! What can be set.

use std::path::{Path, PathBuf};

/// Whether commands get a control group of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CgroupMode {
    /// No control groups. A tree is then found by process group, terminal session and the variable
    /// [`COMMAND_ID_VARIABLE`](super::COMMAND_ID_VARIABLE); only a process that left all three escapes.
    #[default]
    Off,
    /// Programs on a terminal get one beside that of this process, where the system lets us make one.
    Auto,
    /// Every command gets one beneath this directory of a version 2 hierarchy.
    Path(PathBuf),
}

/// Settings of the local backend.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LocalConfig {
    /// Where commands start and what relative paths are relative to. Default: `$HOME` if it is a directory,
    /// else `/`.
    pub home: PathBuf,
    /// Control groups; off unless asked for. Moving a process into one makes the kernel wait for all processors:
    /// 0.5 ms were measured for a spawn when many follow one another, 10 ms and more when it comes alone, beside
    /// 0.7 ms for the whole spawn without.
    pub cgroup: CgroupMode,
    /// Files outside this directory cannot be reached through [`FileSystem`](crate::FileSystem). It does not
    /// restrict commands.
    pub file_root: Option<PathBuf>,
    /// Whether commands may run as another user, which also takes being root.
    pub allow_user_switch: bool,
    /// Variables of this process that commands do not inherit. Default: fleetcore's own credentials.
    pub hidden_env: Vec<String>,
    /// Most entries accepted from one tar stream. Default one million.
    pub tar_max_entries: u64,
    /// Most bytes of file contents accepted from one tar stream. Default 64 GiB.
    pub tar_max_bytes: u64,
}

impl Default for LocalConfig {
    fn default() -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|h| h.is_absolute() && h.is_dir());
        Self {
            home: home.unwrap_or_else(|| Path::new("/").to_owned()),
            cgroup: CgroupMode::default(),
            file_root: None,
            allow_user_switch: true,
            hidden_env: ["FLEETCORE_ADMIN_PASSWORD", "FLEETCORE_TOKEN"].map(str::to_owned).to_vec(),
            tar_max_entries: 1_000_000,
            tar_max_bytes: 64 << 30,
        }
    }
}

impl LocalConfig {
    /// Sets where commands start.
    #[must_use]
    pub fn with_home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = home.into();
        self
    }

    /// Sets the use of control groups.
    #[must_use]
    pub fn with_cgroup(mut self, cgroup: CgroupMode) -> Self {
        self.cgroup = cgroup;
        self
    }

    /// Sets the directory that files are confined to.
    #[must_use]
    pub fn with_file_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.file_root = Some(root.into());
        self
    }

    /// Sets whether commands may run as another user.
    #[must_use]
    pub fn with_user_switch(mut self, allow: bool) -> Self {
        self.allow_user_switch = allow;
        self
    }

    /// Adds a variable of this process that commands do not inherit.
    #[must_use]
    pub fn with_hidden_env(mut self, name: impl Into<String>) -> Self {
        self.hidden_env.push(name.into());
        self
    }

    /// Sets what one tar stream may unpack to.
    #[must_use]
    pub fn with_tar_limits(mut self, entries: u64, bytes: u64) -> Self {
        self.tar_max_entries = entries;
        self.tar_max_bytes = bytes;
        self
    }
}
