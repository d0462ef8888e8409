//! What can be set.

use std::{collections::BTreeMap, num::NonZero, path::PathBuf, time::Duration};

/// What becomes of a machine whose launch nobody waits for any more, or which did not come up in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Abandoned {
    /// It is deleted and purged as soon as it shows up. Only what this launch made: a machine that was there before is
    /// never touched.
    #[default]
    Delete,
    /// It stays, and is logged and listed by the action `launches`.
    Keep,
}

/// Settings of the Multipass backend.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MultipassConfig {
    /// The program: a path, or a name to look up in `PATH`. Default `multipass`.
    pub program: PathBuf,
    /// Variables for the program besides the inherited ones, e.g. `MULTIPASS_SERVER_ADDRESS`.
    pub env: BTreeMap<String, String>,
    /// How old a list may be. Default 1 s.
    pub list_fresh: Duration,
    /// How long a list waits for a daemon that is busy before the last known one is given instead. Default 3 s. What
    /// was asked goes on, and answers whoever asks next.
    pub list_patience: Duration,
    /// How old addresses may be. Default 30 s.
    pub addresses_fresh: Duration,
    /// Limit of a question such as `list`. Default 60 s: a daemon that stops a machine answers nobody meanwhile.
    pub read_limit: Duration,
    /// Limit of start, stop, snapshot and the like. Default 330 s: the daemon's own is 300 s.
    pub change_limit: Duration,
    /// Limit of a launch, image download included; `timeout_secs` among the options of a machine overrides it.
    /// Default 600 s.
    pub launch_limit: Duration,
    /// How much longer than its limit a launch is followed before its machine is given up. Default 330 s.
    pub follow_limit: Duration,
    /// How long a machine may stay unseen after a launch broke off before it counts as never made. Default 30 s.
    pub unseen_limit: Duration,
    /// First pause between two looks at a launch that is followed; it doubles up to eight times that. Default 1 s.
    pub follow_pause: Duration,
    /// What becomes of machines of abandoned launches.
    pub abandoned: Abandoned,
    /// Launches at once; the others wait. Default: processors of this host, which is what the daemon does at once.
    pub launches: usize,
    /// Processes of the program at once, commands on machines and transfers not counted. Default 8.
    pub calls: usize,
    /// Limit of starting a command on a machine. Default 30 s.
    pub exec_limit: Duration,
    /// Where labels, which Multipass does not have, and times of creation are kept. `None`: only in memory.
    pub records: Option<PathBuf>,
    /// Name no machine may get, because the program gives it a meaning of its own. Default `primary`.
    pub primary_name: String,
    /// Directories of the host that may be mounted, with all beneath them; empty means any.
    pub mount_roots: Vec<PathBuf>,
}

impl Default for MultipassConfig {
    fn default() -> Self {
        Self {
            program: PathBuf::from("multipass"),
            env: BTreeMap::new(),
            list_fresh: Duration::from_secs(1),
            list_patience: Duration::from_secs(3),
            addresses_fresh: Duration::from_secs(30),
            read_limit: Duration::from_secs(60),
            change_limit: Duration::from_secs(330),
            launch_limit: Duration::from_secs(600),
            follow_limit: Duration::from_secs(330),
            unseen_limit: Duration::from_secs(30),
            follow_pause: Duration::from_secs(1),
            abandoned: Abandoned::default(),
            launches: std::thread::available_parallelism().map_or(1, NonZero::get),
            calls: 8,
            exec_limit: Duration::from_secs(30),
            records: None,
            primary_name: "primary".to_owned(),
            mount_roots: Vec::new(),
        }
    }
}

impl MultipassConfig {
    /// Sets the program.
    #[must_use]
    pub fn with_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Sets one variable for the program.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets where labels are kept.
    #[must_use]
    pub fn with_records(mut self, file: impl Into<PathBuf>) -> Self {
        self.records = Some(file.into());
        self
    }

    /// Sets what becomes of machines of abandoned launches.
    #[must_use]
    pub fn with_abandoned(mut self, abandoned: Abandoned) -> Self {
        self.abandoned = abandoned;
        self
    }

    /// Sets how long a launch may take, and how much longer it is followed.
    #[must_use]
    pub fn with_launch_limits(mut self, limit: Duration, follow: Duration, unseen: Duration) -> Self {
        (self.launch_limit, self.follow_limit, self.unseen_limit) = (limit, follow, unseen);
        self
    }

    /// Sets the first pause between two looks at a launch that is followed.
    #[must_use]
    pub fn with_follow_pause(mut self, pause: Duration) -> Self {
        self.follow_pause = pause;
        self
    }

    /// Sets the limits of questions and of changes.
    #[must_use]
    pub fn with_limits(mut self, read: Duration, change: Duration) -> Self {
        (self.read_limit, self.change_limit) = (read, change);
        self
    }

    /// Sets how old lists and addresses may be.
    #[must_use]
    pub fn with_freshness(mut self, list: Duration, addresses: Duration) -> Self {
        (self.list_fresh, self.addresses_fresh) = (list, addresses);
        self
    }

    /// Sets how long a list waits for a busy daemon.
    #[must_use]
    pub fn with_list_patience(mut self, patience: Duration) -> Self {
        self.list_patience = patience;
        self
    }

    /// Confines mounts to these directories of the host.
    #[must_use]
    pub fn with_mount_roots<P: Into<PathBuf>>(mut self, roots: impl IntoIterator<Item = P>) -> Self {
        self.mount_roots = roots.into_iter().map(Into::into).collect();
        self
    }

    /// Where the program is: as configured, or found in `PATH`.
    pub fn find_program(&self) -> Option<PathBuf> {
        use std::os::unix::fs::PermissionsExt as _;
        let runs =
            |p: &PathBuf| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        if self.program.components().count() > 1 {
            return Some(self.program.clone()).filter(runs);
        }
        std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(&self.program)).find(runs)
    }
}
