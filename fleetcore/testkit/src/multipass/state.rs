//! What all processes of the stand-in share.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Everything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub(super) instances: BTreeMap<String, Instance>,
    /// Names taken by launches that are not listed yet, with the process that works on them.
    pub(super) preparing: BTreeMap<String, u32>,
    /// Outcomes of launches for clients that wait: status and complaint.
    pub(super) outcomes: BTreeMap<String, (u8, String)>,
    /// Images on this host.
    pub(super) images: Vec<String>,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) addresses: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Instance {
    pub(super) state: String,
    pub(super) image: String,
    pub(super) cpus: u64,
    pub(super) memory: u64,
    pub(super) disk: u64,
    pub(super) ipv4: String,
    pub(super) mounts: BTreeMap<String, String>,
    pub(super) snapshots: BTreeMap<String, Snapshot>,
    /// Ever taken.
    pub(super) snapshots_taken: u64,
    pub(super) clones_made: u64,
    /// What cloud-init was given.
    pub(super) cloud_init: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Snapshot {
    pub(super) parent: String,
    pub(super) comment: String,
}

/// Where it is kept.
#[derive(Clone, Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

/// The daemon's one thread: held for as long as a command takes there.
pub(super) struct Turn {
    store: Store,
    _lock: File,
}

impl Store {
    pub(super) fn open() -> Result<Self, String> {
        let dir = std::env::var_os("FAKE_MULTIPASS_STATE").ok_or("FAKE_MULTIPASS_STATE is not set")?;
        let store = Self { dir: PathBuf::from(dir) };
        fs::create_dir_all(store.path("guests")).map_err(|e| e.to_string())?;
        Ok(store)
    }

    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn home(&self, name: &str) -> PathBuf {
        self.path("guests").join(name)
    }

    fn locked(&self, name: &str) -> File {
        let open = || -> std::io::Result<File> {
            let file =
                File::options().create(true).read(true).write(true).truncate(false).open(self.path(name))?;
            file.lock()?;
            Ok(file)
        };
        open().unwrap_or_else(|e| die(&format!("{name}: {e}")))
    }

    /// Waits for the daemon's thread.
    pub(super) fn turn(&self) -> Turn {
        Turn { store: self.clone(), _lock: self.locked("lock") }
    }

    /// Counts up; gives the new count.
    pub(super) fn count(&self, key: &str) -> u64 {
        let mut file = self.locked("plan-counts.json");
        let mut text = String::new();
        let _ = file.read_to_string(&mut text);
        let mut counts: BTreeMap<String, u64> = serde_json::from_str(&text).unwrap_or_default();
        let count = counts.entry(key.to_owned()).or_default();
        *count += 1;
        let now = *count;
        let text = serde_json::to_string(&counts).unwrap_or_default();
        let written =
            file.rewind().and_then(|()| file.set_len(0)).and_then(|()| file.write_all(text.as_bytes()));
        written.unwrap_or_else(|e| die(&e.to_string()));
        now
    }

    /// Writes a line to the journal.
    pub(super) fn journal(&self, argv: &[String]) {
        let line = serde_json::json!({"argv": argv, "pid": std::process::id()}).to_string() + "\n";
        let file = File::options().create(true).append(true).open(self.path("journal.jsonl"));
        let _ = file.and_then(|mut f| f.write_all(line.as_bytes()));
    }
}

impl Turn {
    pub(super) fn load(&self) -> State {
        match fs::read_to_string(self.store.path("state.json")) {
            Ok(text) => serde_json::from_str(&text).unwrap_or_else(|e| die(&e.to_string())),
            Err(_) => State::default(),
        }
    }

    pub(super) fn save(&self, state: &State) {
        let temporary = self.store.path("state.json.new");
        let text = serde_json::to_string_pretty(state).unwrap_or_default();
        let written =
            fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, self.store.path("state.json")));
        written.unwrap_or_else(|e| die(&e.to_string()));
    }

    /// Changes the state.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.load();
        let done = change(&mut state);
        self.save(&state);
        done
    }
}

/// The stand-in itself cannot go on.
pub(super) fn die(why: &str) -> ! {
    eprintln!("stand-in: {why}");
    std::process::exit(70)
}

/// Scaled time.
pub(super) fn scaled(ms: u64) -> Duration {
    let scale = std::env::var("FAKE_MULTIPASS_SCALE").ok().and_then(|s| s.parse::<f64>().ok()).unwrap_or(1.0);
    Duration::from_secs_f64((ms as f64 / 1000.0 * scale).max(0.0))
}

/// The release it is.
pub(super) fn release() -> (u32, u32) {
    let text = version();
    let mut parts = text.split('.').map(|p| p.parse().unwrap_or(0));
    (parts.next().unwrap_or(1), parts.next().unwrap_or(16))
}

pub(super) fn version() -> String {
    std::env::var("FAKE_MULTIPASS_VERSION").unwrap_or_else(|_| "1.16.3".to_owned())
}

/// Lets time pass, as the daemon does when it works.
#[expect(clippy::disallowed_methods, reason = "what takes time in life takes time here")]
pub(super) fn pass(time: Duration) {
    std::thread::sleep(time);
}
