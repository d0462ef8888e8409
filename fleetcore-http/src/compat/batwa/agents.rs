//! Which agents there are: order, keys, heartbeats, the offline rule; kept in one file.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use fleetcore::{Error, ErrorKind, Result};
use jiff::{SignedDuration, Timestamp};
use parking_lot::RwLock;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    map,
    wire::{AgentInfo, Heartbeat, Register},
};

/// An agent that was silent for longer is offline: twice the usual interval of heartbeats, as in the originals.
pub(super) const SILENCE: SignedDuration = SignedDuration::from_secs(60);
/// Agents at most: they are asked in parallel, and anybody with the enrolment key can add some.
const AGENTS_MAX: usize = 4096;
/// Version of the file. Another first number means that this program does not understand it.
const FORMAT: &str = "1.0";
/// Port of an agent that is only known from its heartbeats, as the Go master assumes.
const ASSUMED_PORT: u16 = 8001;

/// One agent.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) info: AgentInfo,
    pub(super) key: Option<SecretString>,
    /// Where its registration came from: all that tells agents without a key apart.
    peer: IpAddr,
    seen_at: Timestamp,
}

/// Who may register.
#[derive(Clone, Debug, Default)]
pub(super) struct Enrolment {
    /// Agents with this key may.
    pub(super) shared: Option<SecretString>,
    /// These agents may with their own key, and with no other.
    pub(super) own: BTreeMap<String, SecretString>,
    /// Anybody may under an id that is not taken.
    pub(super) open: bool,
}

/// What was presented with a registration or heartbeat.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim<'a> {
    pub(super) key: Option<&'a str>,
    pub(super) peer: IpAddr,
}

/// Refused: the key is wrong or missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrongKey;

/// What became of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Of an agent that is registered.
    Known,
    /// The agent was made of it, as the Go master does.
    Made,
    /// Nobody knows it.
    Unknown,
}

/// Compares in a time that says nothing about where the texts differ.
pub(super) fn same_secret(a: &str, b: &str) -> bool {
    let hash = |text: &str| -> [u8; 32] { Sha256::digest(text.as_bytes()).into() };
    hash(a).ct_eq(&hash(b)).into()
}

fn matches(key: Option<&str>, stored: &SecretString) -> bool {
    key.is_some_and(|key| same_secret(key, stored.expose_secret()))
}

impl Enrolment {
    fn admits(&self, id: &str, key: Option<&str>) -> bool {
        match (self.own.get(id), &self.shared) {
            (Some(own), _) => matches(key, own),
            (None, Some(shared)) => matches(key, shared),
            (None, None) => false,
        }
    }

    /// Whether this may register as `id`, or speak for it.
    fn allows(&self, id: &str, known: Option<&Agent>, claim: Claim<'_>) -> bool {
        if self.admits(id, claim.key) {
            return true;
        }
        if self.own.contains_key(id) {
            return false;
        }
        match known {
            None => self.open,
            Some(Agent { key: Some(stored), .. }) => matches(claim.key, stored),
            Some(Agent { key: None, peer, .. }) => *peer == claim.peer,
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    agents: Vec<Agent>,
    /// The list as JSON, until something changes.
    list: Option<Bytes>,
}

/// All agents.
#[derive(Debug)]
pub(super) struct Agents {
    inner: RwLock<Inner>,
    enrolment: Enrolment,
    /// Goes up when agents come, go or change their status, address or host name.
    pub(super) changes: Arc<AtomicU64>,
    /// Goes up with every change that is worth keeping.
    version: AtomicU64,
    path: PathBuf,
    saved: tokio::sync::Mutex<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    format: String,
    /// Made at the first start when no key was configured.
    #[serde(default)]
    enrolment_key: Option<String>,
    #[serde(default)]
    agents: Vec<Stored>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    agent_id: String,
    hostname: String,
    api_url: String,
    #[serde(default)]
    api_key: Option<String>,
    status: String,
    seen_at: Timestamp,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    vm_count: i64,
    peer: IpAddr,
}

impl Agents {
    /// Reads the file in `dir`. Without a configured shared key the one in the file counts, and at the first start one
    /// is made; the second value is it, to be shown once.
    ///
    /// # Errors
    /// `DataLoss` for a file of another version or one that is damaged: it is not overwritten.
    pub(super) fn open(
        dir: &Path,
        mut enrolment: Enrolment,
        now: Timestamp,
    ) -> Result<(Self, Option<SecretString>)> {
        let path = dir.join("agents.json");
        let at = |e: Error| e.with_context("path", path.display());
        let file = match fs::read(&path) {
            Ok(data) => Some(parse(&data).map_err(at)?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(at(Error::io("read the agents", e))),
        };
        let first_start = file.is_none();
        let file = file.unwrap_or(File { format: FORMAT.to_owned(), enrolment_key: None, agents: vec![] });
        let mut made = None;
        let mut kept_key = file.enrolment_key.map(SecretString::from);
        if enrolment.shared.is_none() {
            if kept_key.is_none() {
                let key = super::state::random_secret();
                made = Some(key.clone());
                kept_key = Some(key);
            }
            enrolment.shared = kept_key;
        }
        let mut agents = Vec::new();
        for stored in file.agents {
            agents.push(Agent {
                key: stored.api_key.map(SecretString::from),
                peer: stored.peer,
                seen_at: stored.seen_at,
                info: AgentInfo {
                    agent_id: stored.agent_id,
                    hostname: stored.hostname,
                    api_url: stored.api_url,
                    status: map::status_word(&stored.status),
                    last_seen: Some(map::zoned(stored.seen_at)),
                    tags: stored.tags,
                    vm_count: stored.vm_count,
                },
            });
        }
        let all = Self {
            inner: RwLock::new(Inner { agents, list: None }),
            enrolment,
            changes: Arc::default(),
            version: AtomicU64::new(u64::from(first_start || made.is_some())),
            path,
            saved: tokio::sync::Mutex::new(0),
        };
        all.expire(now);
        Ok((all, made))
    }

    /// Adds or replaces an agent; a known one keeps its place.
    pub(super) fn register(
        &self,
        wanted: Register,
        claim: Claim<'_>,
        now: Timestamp,
    ) -> std::result::Result<AgentInfo, Refusal> {
        let mut inner = self.inner.write();
        let at = inner.agents.iter().position(|a| a.info.agent_id == wanted.agent_id);
        let known = at.and_then(|at| inner.agents.get(at));
        if !self.enrolment.allows(&wanted.agent_id, known, claim) {
            return Err(Refusal::Key(WrongKey));
        }
        if known.is_none() && inner.agents.len() >= AGENTS_MAX {
            return Err(Refusal::Full);
        }
        // A key belongs to the address it was given for: never send it to another one.
        let kept = known.filter(|k| k.info.api_url == wanted.api_url).and_then(|k| k.key.clone());
        let key = wanted.api_key.or_else(|| claim.key.map(SecretString::from)).or(kept);
        let info = AgentInfo {
            agent_id: wanted.agent_id,
            hostname: wanted.hostname,
            api_url: wanted.api_url,
            status: "online",
            last_seen: Some(map::zoned(now)),
            tags: wanted.tags,
            vm_count: 0,
        };
        let agent = Agent { info: info.clone(), key, peer: claim.peer, seen_at: now };
        match at.and_then(|at| inner.agents.get_mut(at)) {
            Some(place) => *place = agent,
            None => inner.agents.push(agent),
        }
        self.changed(&mut inner, true);
        Ok(info)
    }

    /// Notes a sign of life. The agent's own clock does not count.
    pub(super) fn heartbeat(
        &self,
        beat: &Heartbeat,
        claim: Claim<'_>,
        now: Timestamp,
    ) -> std::result::Result<Beat, WrongKey> {
        let mut inner = self.inner.write();
        let at = inner.agents.iter().position(|a| a.info.agent_id == beat.agent_id);
        let known = at.and_then(|at| inner.agents.get(at));
        let allowed = self.enrolment.allows(&beat.agent_id, known, claim);
        let Some(agent) = at.and_then(|at| inner.agents.get_mut(at)) else {
            if !allowed
                || super::checks::word("agent_id", &beat.agent_id).is_err()
                || inner.agents.len() >= AGENTS_MAX
            {
                // The originals answer 200 here, and old agents would log an error for ever.
                return Ok(Beat::Unknown);
            }
            inner.agents.push(Agent {
                info: AgentInfo {
                    agent_id: beat.agent_id.clone(),
                    hostname: beat.agent_id.clone(),
                    api_url: format!("http://{}", std::net::SocketAddr::new(claim.peer, ASSUMED_PORT)),
                    status: map::status_word(&beat.status),
                    last_seen: Some(map::zoned(now)),
                    tags: BTreeMap::new(),
                    vm_count: beat.vm_count,
                },
                key: claim.key.map(SecretString::from),
                peer: claim.peer,
                seen_at: now,
            });
            self.changed(&mut inner, true);
            return Ok(Beat::Made);
        };
        if !allowed {
            return Err(WrongKey);
        }
        let status = map::status_word(&beat.status);
        let other_status = agent.info.status != status;
        agent.info.status = status;
        agent.info.last_seen = Some(map::zoned(now));
        agent.info.vm_count = beat.vm_count;
        agent.seen_at = now;
        self.changed(&mut inner, other_status);
        Ok(Beat::Known)
    }

    /// Sets those offline that were silent for too long; returns their ids.
    pub(super) fn expire(&self, now: Timestamp) -> Vec<String> {
        let mut inner = self.inner.write();
        let mut gone = Vec::new();
        for agent in &mut inner.agents {
            if agent.info.status != "offline" && now.duration_since(agent.seen_at) > SILENCE {
                agent.info.status = "offline";
                gone.push(agent.info.agent_id.clone());
            }
        }
        if !gone.is_empty() {
            self.changed(&mut inner, true);
        }
        gone
    }

    /// Forgets an agent; whether there was one.
    pub(super) fn unregister(&self, id: &str) -> bool {
        let mut inner = self.inner.write();
        let before = inner.agents.len();
        inner.agents.retain(|a| a.info.agent_id != id);
        let removed = inner.agents.len() < before;
        if removed {
            self.changed(&mut inner, true);
        }
        removed
    }

    fn changed(&self, inner: &mut Inner, visibly: bool) {
        inner.list = None;
        self.version.fetch_add(1, Ordering::AcqRel);
        if visibly {
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// One agent.
    pub(super) fn get(&self, id: &str) -> Option<Agent> {
        self.inner.read().agents.iter().find(|a| a.info.agent_id == id).cloned()
    }

    /// All of them, in the order of registration.
    pub(super) fn all(&self) -> Vec<Agent> {
        self.inner.read().agents.clone()
    }

    /// Those that are online, in the order of registration.
    pub(super) fn online(&self) -> Vec<Agent> {
        self.inner.read().agents.iter().filter(|a| a.info.status == "online").cloned().collect()
    }

    /// `GET /api/agent/list`
    pub(super) fn list_body(&self) -> Bytes {
        if let Some(list) = &self.inner.read().list {
            return list.clone();
        }
        let mut inner = self.inner.write();
        let infos: Vec<&AgentInfo> = inner.agents.iter().map(|a| &a.info).collect();
        let list = Bytes::from(serde_json::to_vec(&infos).unwrap_or_else(|_| b"[]".to_vec()));
        inner.list = Some(list.clone());
        list
    }

    /// Writes the file if something has changed since.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) async fn save(&self) -> Result<()> {
        let mut saved = self.saved.lock().await;
        let version = self.version.load(Ordering::Acquire);
        if *saved == version {
            return Ok(());
        }
        let failed = |e| Error::io("keep the agents", e);
        let data = serde_json::to_vec_pretty(&self.file())
            .map_err(|e| Error::new(ErrorKind::Unexpected, "agents cannot be written").with_source(e))?;
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || write_private(&path, &data))
            .await
            .map_err(|e| Error::new(ErrorKind::Unexpected, "the writer failed").with_source(e))?
            .map_err(failed)?;
        *saved = version;
        Ok(())
    }

    fn file(&self) -> File {
        let stored = |a: &Agent| Stored {
            agent_id: a.info.agent_id.clone(),
            hostname: a.info.hostname.clone(),
            api_url: a.info.api_url.clone(),
            api_key: a.key.as_ref().map(|k| k.expose_secret().to_owned()),
            status: a.info.status.to_owned(),
            seen_at: a.seen_at,
            tags: a.info.tags.clone(),
            vm_count: a.info.vm_count,
            peer: a.peer,
        };
        let key = self.enrolment.shared.as_ref().map(|k| k.expose_secret().to_owned());
        let agents = self.inner.read().agents.iter().map(stored).collect();
        File { format: FORMAT.to_owned(), enrolment_key: key, agents }
    }
}

/// Why a registration was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Key(WrongKey),
    /// There are enough.
    Full,
}

fn parse(data: &[u8]) -> Result<File> {
    let lost = |why: &'static str| {
        Error::new(ErrorKind::DataLoss, why)
            .with_operation("read the agents")
            .with_context("hint", "move the file away to start with no agents")
    };
    let file: File = serde_json::from_slice(data)
        .map_err(|e| lost("the list of agents is damaged").with_context("cause", e))?;
    let major = |text: &str| text.split('.').next().unwrap_or_default().to_owned();
    if major(&file.format) != major(FORMAT) {
        return Err(
            lost("the list of agents was written by another version").with_context("format", file.format)
        );
    }
    Ok(file)
}

/// Replaces a file in one step; only its owner can read it.
fn write_private(path: &Path, data: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let part = path.with_extension("json.part");
    match fs::remove_file(&part) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    file.write_all(data)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn wanted(id: &str, url: &str, key: Option<&str>) -> Register {
        Register {
            agent_id: id.to_owned(),
            hostname: "h".to_owned(),
            api_url: url.to_owned(),
            api_key: key.map(SecretString::from),
            tags: BTreeMap::new(),
        }
    }
    fn claim(key: Option<&str>) -> Claim<'_> {
        Claim { key, peer: HERE }
    }
    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }
    fn open(dir: &Path, enrolment: Enrolment) -> Agents {
        Agents::open(dir, enrolment, at(0)).unwrap().0
    }
    fn shared(key: &str) -> Enrolment {
        Enrolment { shared: Some(key.into()), ..Enrolment::default() }
    }
    fn beat(id: &str) -> Heartbeat {
        Heartbeat { agent_id: id.to_owned(), status: "online".to_owned(), vm_count: 3 }
    }

    #[test]
    fn strangers_register_only_with_the_key_or_when_enrolment_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let closed = open(dir.path(), shared("enrol"));
        for key in [None, Some(""), Some("wrong")] {
            let refused = closed.register(wanted("a", "http://a:1", key), claim(key), at(0));
            assert_eq!(refused, Err(Refusal::Key(WrongKey)), "{key:?}");
        }
        assert!(
            closed.register(wanted("a", "http://a:1", Some("enrol")), claim(Some("enrol")), at(0)).is_ok()
        );
        let anybody = open(dir.path(), Enrolment { open: true, ..shared("enrol") });
        assert!(anybody.register(wanted("b", "http://b:1", None), claim(None), at(0)).is_ok());
    }

    #[test]
    fn a_taken_id_cannot_be_moved_without_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let agents = open(dir.path(), Enrolment { open: true, ..Enrolment::default() });
        agents.register(wanted("a", "http://a:1", Some("k")), claim(Some("k")), at(0)).unwrap();
        for key in [None, Some("other")] {
            let moved = agents.register(wanted("a", "http://evil:1", key), claim(key), at(1));
            assert_eq!(moved, Err(Refusal::Key(WrongKey)));
        }
        assert_eq!(agents.get("a").unwrap().info.api_url, "http://a:1");
        // With it, it may move.
        agents.register(wanted("a", "http://b:1", None), claim(Some("k")), at(1)).unwrap();
        assert_eq!(agents.get("a").unwrap().key.unwrap().expose_secret(), "k");

        // Without any key only its own address speaks for it.
        agents.register(wanted("n", "http://n:1", None), claim(None), at(0)).unwrap();
        let from_there = Claim { key: None, peer: THERE };
        assert!(agents.register(wanted("n", "http://x:1", None), from_there, at(1)).is_err());
        assert!(agents.register(wanted("n", "http://n2:1", None), claim(None), at(1)).is_ok());
        assert!(agents.get("n").unwrap().key.is_none());
        assert_eq!(agents.heartbeat(&beat("n"), from_there, at(2)), Err(WrongKey));
    }

    #[test]
    fn a_key_is_never_carried_to_another_address() {
        let dir = tempfile::tempdir().unwrap();
        let own = BTreeMap::from([("a".to_owned(), SecretString::from("mine"))]);
        let agents = open(dir.path(), Enrolment { own, open: true, ..shared("enrol") });
        agents.register(wanted("a", "http://a:1", Some("agent-key")), claim(Some("mine")), at(0)).unwrap();
        assert_eq!(agents.get("a").unwrap().key.unwrap().expose_secret(), "agent-key");
        // An id with a key of its own takes no other, not even the shared one or the one it uses itself.
        for key in ["enrol", "agent-key"] {
            assert!(agents.register(wanted("a", "http://a:1", None), claim(Some(key)), at(0)).is_err());
        }
        agents.register(wanted("a", "http://elsewhere:1", None), claim(Some("mine")), at(0)).unwrap();
        assert_eq!(agents.get("a").unwrap().key.unwrap().expose_secret(), "mine");
    }

    #[test]
    fn heartbeats() {
        let dir = tempfile::tempdir().unwrap();
        let agents = open(dir.path(), shared("enrol"));
        assert_eq!(agents.heartbeat(&beat("ghost"), claim(None), at(0)), Ok(Beat::Unknown));
        assert!(agents.get("ghost").is_none());
        assert_eq!(agents.heartbeat(&beat("<b>"), claim(Some("enrol")), at(0)), Ok(Beat::Unknown));
        assert_eq!(agents.heartbeat(&beat("go"), claim(Some("enrol")), at(0)), Ok(Beat::Made));
        let made = agents.get("go").unwrap();
        assert_eq!((made.info.api_url.as_str(), made.info.vm_count), ("http://192.0.2.1:8001", 3));
        assert_eq!(agents.heartbeat(&beat("go"), claim(Some("x")), at(0)), Err(WrongKey));

        assert_eq!(agents.expire(at(60)), Vec::<String>::new());
        assert_eq!(agents.expire(at(61)), ["go"]);
        assert!(agents.expire(at(62)).is_empty() && agents.online().is_empty());
        assert_eq!(agents.heartbeat(&beat("go"), claim(Some("enrol")), at(90)), Ok(Beat::Known));
        assert_eq!(agents.online().len(), 1);
        let weird = Heartbeat { status: "<script>".to_owned(), ..beat("go") };
        agents.heartbeat(&weird, claim(Some("enrol")), at(91)).unwrap();
        assert_eq!(agents.get("go").unwrap().info.status, "error");
    }

    #[tokio::test]
    async fn a_restart_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (agents, made) = Agents::open(dir.path(), Enrolment::default(), at(0)).unwrap();
        let key = made.unwrap();
        for id in ["b", "a", "c"] {
            agents.register(wanted(id, "http://h:1", None), claim(Some(key.expose_secret())), at(0)).unwrap();
        }
        agents.register(wanted("b", "http://h2:1", None), claim(Some(key.expose_secret())), at(1)).unwrap();
        assert!(agents.unregister("c") && !agents.unregister("c"));
        agents.save().await.unwrap();

        let (again, made) = Agents::open(dir.path(), Enrolment::default(), at(30)).unwrap();
        assert!(made.is_none(), "the key stays");
        assert_eq!(again.list_body(), agents.list_body());
        assert_eq!(again.get("b").unwrap().key.unwrap().expose_secret(), key.expose_secret());
        let late = Agents::open(dir.path(), Enrolment::default(), at(100)).unwrap().0;
        assert!(late.online().is_empty(), "silent for too long");
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(dir.path().join("agents.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        for bad in ["{", r#"{"format":"2.0"}"#] {
            fs::write(dir.path().join("agents.json"), bad).unwrap();
            assert_eq!(
                Agents::open(dir.path(), Enrolment::default(), at(0)).unwrap_err().kind(),
                ErrorKind::DataLoss
            );
        }
    }
}
