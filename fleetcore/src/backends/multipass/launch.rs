//! Launching, and following a launch until its outcome is known.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Abandoned,
    client::Call,
    error::{Class, Failure},
    names,
    parse::Version,
    progress::Progress,
    provider::Inner,
    records::Record,
};
use crate::{
    Error, ErrorKind, Labels, MachineId, MachineInfo, MachineSpec, MachineState, Result, raw::OpContext,
};

/// How much longer than told to the client we wait for it.
const CLIENT_GRACE: Duration = Duration::from_secs(30);
/// Launches with unknown outcome that are remembered.
const LOST_MAX: usize = 100;
/// Longest user data.
const USER_DATA_MAX_BYTES: usize = 1 << 20;
/// Smallest memory and disk any release accepts; newer ones ask for more and say so.
const MEMORY_MIN_BYTES: u64 = 128 << 20;
const DISK_MIN_BYTES: u64 = 512 << 20;

/// Launches under way, and those that got lost.
#[derive(Debug)]
pub(super) struct Launches {
    places: Arc<Semaphore>,
    known: Arc<Mutex<BTreeMap<String, Launch>>>,
}

#[derive(Clone, Debug)]
struct Launch {
    since: Timestamp,
    /// Last line of progress.
    said: String,
    state: &'static str,
}

impl Launches {
    pub(super) fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places.max(1))), known: Arc::default() }
    }

    /// Takes a name until the reservation is dropped.
    pub(super) fn reserve(&self, name: &str) -> Result<Reservation> {
        let mut known = self.known.lock();
        match known.get(name) {
            Some(launch) if launch.state != LOST => {
                Err(Error::new(ErrorKind::AlreadyExists, "a machine of this name is being launched")
                    .with_context("machine", name))
            }
            _ => {
                let launch = Launch { since: Timestamp::now(), said: String::new(), state: "waiting" };
                known.insert(name.to_owned(), launch);
                Ok(Reservation { name: name.to_owned(), known: Arc::clone(&self.known), lost: false })
            }
        }
    }

    /// All of them, for people.
    pub(super) fn describe(&self) -> Value {
        let known = self.known.lock();
        known
            .iter()
            .map(|(name, l)| {
                json!({"machine": name, "since": l.since.to_string(), "state": l.state, "progress": l.said})
            })
            .collect()
    }
}

const LOST: &str = "lost";

#[derive(Debug)]
pub(super) struct Reservation {
    name: String,
    known: Arc<Mutex<BTreeMap<String, Launch>>>,
    pub(super) lost: bool,
}

impl Reservation {
    pub(super) fn note(&self, state: &'static str) {
        if let Some(launch) = self.known.lock().get_mut(&self.name) {
            launch.state = state;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut known = self.known.lock();
        let lost = known.values().filter(|l| l.state == LOST).count();
        if self.lost && lost < LOST_MAX {
            if let Some(launch) = known.get_mut(&self.name) {
                launch.state = LOST;
            }
        } else {
            known.remove(&self.name);
        }
    }
}

/// A launch, checked.
pub(super) struct Plan {
    pub(super) name: MachineId,
    args: Vec<String>,
    pub(super) user_data: Option<SecretString>,
    pub(super) labels: Labels,
    limit: Duration,
}

fn bad_option(option: &str, rule: &'static str) -> Error {
    Error::invalid("options", rule).with_context("option", option.escape_debug())
}

fn strings(option: &str, value: &Value) -> Result<Vec<String>> {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let all = value.as_array().and_then(|all| all.iter().map(text).collect::<Option<Vec<_>>>());
    all.ok_or_else(|| bad_option(option, "given as a list of strings"))
}

impl Plan {
    fn new(inner: &Inner, version: &Version, spec: MachineSpec) -> Result<Self> {
        names::check_new("name", &spec.name)?;
        if spec.name.eq_ignore_ascii_case(&inner.config.primary_name) {
            return Err(Error::invalid(
                "name",
                "another one: this one makes Multipass mount the home directory",
            )
            .with_context("value", &spec.name));
        }
        let mut args = vec!["-n".to_owned(), spec.name.clone()];
        let mut put = |option: &str, value: String| args.extend([option.to_owned(), value]);
        if let Some(cpus) = spec.cpus {
            if cpus == 0 {
                return Err(Error::invalid("cpus", "at least 1"));
            }
            put("-c", cpus.to_string());
        }
        let sizes = [
            ("memory_bytes", "-m", spec.memory_bytes, MEMORY_MIN_BYTES),
            ("disk_bytes", "-d", spec.disk_bytes, DISK_MIN_BYTES),
        ];
        for (field, option, size, least) in sizes {
            let Some(size) = size else { continue };
            if size < least {
                return Err(Error::invalid(field, format!("at least {least}")).with_context("value", size));
            }
            put(option, size.to_string());
        }
        if let Some(zone) = &spec.region {
            names::check_new("region", zone)?;
            if !version.at_least(1, 17) {
                return Err(Error::unsupported("machine.create").with_context("field", "region"));
            }
            put("--zone", zone.clone());
        }
        let mut limit = inner.config.launch_limit;
        for (option, value) in &spec.options {
            match option.as_str() {
                "networks" => {
                    for network in strings(option, value)? {
                        names::check_network(&network)?;
                        put("--network", network);
                    }
                }
                "mounts" => {
                    if !version.at_least(1, 10) {
                        return Err(Error::unsupported("machine.create").with_context("option", option));
                    }
                    for mount in strings(option, value)? {
                        let rule = "SOURCE:TARGET, two absolute paths";
                        let (from, to) = mount.split_once(':').ok_or_else(|| bad_option(option, rule))?;
                        names::check_mount_source(from, &inner.config.mount_roots)?;
                        names::check_mount_target(to)?;
                        put("--mount", mount);
                    }
                }
                "bridged" => match value.as_bool() {
                    Some(true) => put("--network", "bridged".to_owned()),
                    Some(false) => {}
                    None => return Err(bad_option(option, "true or false")),
                },
                "timeout_secs" => {
                    let seconds = value.as_u64().filter(|s| (1..=86_400).contains(s));
                    let seconds = seconds.ok_or_else(|| bad_option(option, "1 to 86400"))?;
                    limit = Duration::from_secs(seconds);
                }
                _ => return Err(bad_option(option, "one of networks, mounts, bridged, timeout_secs")),
            }
        }
        let user_data = spec.user_data.filter(|d| !d.expose_secret().trim().is_empty());
        if let Some(data) = &user_data {
            check_user_data(data.expose_secret())?;
            put("--cloud-init", "-".to_owned());
        }
        put("--timeout", limit.as_secs().max(1).to_string());
        if let Some(image) = &spec.image {
            names::check_image(image)?;
            args.push(image.clone());
        }
        Ok(Self { name: MachineId::new(&spec.name)?, args, user_data, labels: spec.labels, limit })
    }

    fn call(&self) -> Call {
        let call = Call::new("launch", self.limit + CLIENT_GRACE).args(self.args.iter().cloned());
        match &self.user_data {
            Some(data) => call.stdin(Bytes::copy_from_slice(data.expose_secret().as_bytes())),
            None => call,
        }
    }
}

/// The client reads the document as YAML and sends what it understood.
fn check_user_data(data: &str) -> Result<()> {
    let rule = "a #cloud-config document (YAML) of at most 1 MiB: Multipass takes no scripts, MIME parts or templates";
    let first = data.lines().next().unwrap_or_default();
    let other = [
        "#!",
        "Content-Type:",
        "MIME-Version:",
        "## template:",
        "#include",
        "#cloud-boothook",
        "#part-handler",
    ];
    if data.len() > USER_DATA_MAX_BYTES || data.contains('\0') || other.iter().any(|o| first.starts_with(o)) {
        return Err(Error::invalid("user_data", rule));
    }
    Ok(())
}

/// What came of a launch as far as the list tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Found {
    Running,
    /// It is there and will not come up by itself.
    Down,
    /// It is not there, and will not be.
    Absent,
    /// Nobody knows.
    Lost,
}

impl Inner {
    pub(super) async fn create(self: &Arc<Self>, cx: &OpContext, spec: MachineSpec) -> Result<MachineInfo> {
        // Before any process is started.
        names::check_new("name", &spec.name).map_err(|e| e.with_operation("machine.create"))?;
        let version = self.client.version().await?;
        let plan = Plan::new(self, &version, spec).map_err(|e| e.with_operation("machine.create"))?;
        // A process before this one may have begun the same.
        self.resumed().await;
        let reservation = self.launches.reserve(plan.name.as_str())?;
        // Only what was not there before is ours to remove.
        let before = self.inventory.states_now().await?;
        if let Some(item) = before.iter().find(|i| i.name == plan.name.as_str()) {
            return Err(Error::new(ErrorKind::AlreadyExists, "the name is taken")
                .with_context("machine", &plan.name)
                .with_context("state", &item.native_state));
        }
        let gone = CancellationToken::new();
        let waiting = gone.clone().drop_guard();
        let (tell, told) = oneshot::channel();
        let (thank, thanked) = oneshot::channel::<()>();
        let progress = cx.progress.clone();
        let inner = Arc::clone(self);
        // A task of its own: what the daemon has begun goes on whether we look or not.
        tokio::spawn(async move {
            let name = plan.name.clone();
            let (made, known) = inner.launch(plan, reservation, gone, progress).await;
            let was_made = made.is_ok();
            let heard = tell.send(made).is_ok() && thanked.await.is_ok();
            let known = if was_made && !heard { inner.abandon(&name).await } else { known };
            if known {
                inner.settled(&name).await;
            }
        });
        let made = told.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Cancelled, "the launch was given up").with_operation("machine.create"))
        });
        let _ = thank.send(());
        drop(waiting.disarm());
        made
    }

    /// A machine came up and nobody wants it any more. Whether its fate is known now.
    pub(super) async fn abandon(self: &Arc<Self>, name: &MachineId) -> bool {
        if self.config.abandoned == Abandoned::Keep {
            tracing::warn!(machine = %name, "a machine was launched for somebody who is gone; it stays");
            return true;
        }
        match self.purge_for_sure(name.as_str(), self.config.follow_limit).await {
            Ok(()) => tracing::info!(machine = %name, "a machine nobody waits for any more was purged"),
            Err(failure) => {
                tracing::error!(machine = %name, %failure, "a machine nobody knows of may be left");
                return false;
            }
        }
        true
    }

    /// The outcome of a launch, and whether it is known for sure what is there now.
    async fn launch(
        self: &Arc<Self>,
        plan: Plan,
        mut reservation: Reservation,
        gone: CancellationToken,
        progress: Option<tokio::sync::mpsc::Sender<String>>,
    ) -> (Result<MachineInfo>, bool) {
        let made = self.launch_and_follow(plan, &mut reservation, gone, progress).await;
        (made, !reservation.lost)
    }

    async fn launch_and_follow(
        self: &Arc<Self>,
        plan: Plan,
        reservation: &mut Reservation,
        gone: CancellationToken,
        progress: Option<tokio::sync::mpsc::Sender<String>>,
    ) -> Result<MachineInfo> {
        let name = plan.name.clone();
        let cancelled = || {
            Error::new(ErrorKind::Cancelled, "the caller cancelled")
                .with_operation("machine.create")
                .with_context("machine", &name)
        };
        let report = |line: &str| {
            if let Some(progress) = &progress {
                let _ = progress.try_send(line.to_owned());
            }
        };
        let places = Arc::clone(&self.launches.places);
        let _place = match gone.run_until_cancelled(places.acquire_owned()).await {
            Some(Ok(place)) => place,
            // Nothing was begun.
            _ => return Err(cancelled()),
        };
        reservation.note("launching");
        self.begun(&plan).await;
        // While the image is fetched, ending the client ends the launch; later it only ends the news.
        let fetched = AtomicBool::new(false);
        let mut lines = Progress::default();
        let mut seen = |line: String| {
            let early = ["Creating", "Retrieving", "Verifying"].iter().any(|p| line.starts_with(p));
            fetched.fetch_or(!early, Ordering::Relaxed);
            report(&line);
            if let Some(launch) = reservation.known.lock().get_mut(name.as_str()) {
                launch.said = line;
            }
        };
        let client = Arc::clone(&self.client);
        let outcome = {
            let call =
                client.call_watched(plan.call(), |data| lines.push(data).into_iter().for_each(&mut seen));
            let mut call = std::pin::pin!(call);
            tokio::select! {
                biased;
                done = &mut call => Some(done),
                () = gone.cancelled() => {
                    self.unwanted(&name).await;
                    if self.config.abandoned == Abandoned::Keep || fetched.load(Ordering::Relaxed) {
                        Some(call.await)
                    } else {
                        None
                    }
                }
            }
        };
        lines.finish().into_iter().for_each(&mut seen);
        self.inventory.forget();
        let failure = match outcome {
            Some(Ok(_)) => None,
            // It is somebody else's.
            Some(Err(f)) if matches!(f.class, Class::Exists | Class::BeingPrepared) => {
                return Err(f.into_error().with_context("machine", &name));
            }
            Some(Err(failure)) => Some(failure),
            None => Some(Failure::new(Class::Killed, "launch", "the caller cancelled")),
        };
        let found = match &failure {
            None => Found::Running,
            Some(failure) => {
                reservation.note("following");
                report("the launch broke off; looking for what came of it");
                self.follow(&name, failure, &gone).await
            }
        };
        // A launch the daemon calls failed has failed, even if the machine is up, e.g. without its mounts.
        let adopt = failure.as_ref().is_none_or(Failure::is_outcome_unknown) && !gone.is_cancelled();
        let failure = failure.unwrap_or_else(|| Failure::new(Class::Failed, "launch", ""));
        let delete = self.config.abandoned == Abandoned::Delete;
        match found {
            Found::Running if adopt => self.welcome(&plan, report).await,
            Found::Running | Found::Down if delete => {
                reservation.note("deleting");
                let purged = self.purge_for_sure(name.as_str(), self.config.follow_limit).await;
                reservation.lost = purged.is_err();
                let outcome = if purged.is_ok() { "purged" } else { "unknown" };
                tracing::info!(machine = %name, outcome, "the machine of a launch that broke off");
                let error = if gone.is_cancelled() { cancelled() } else { self.broke_off(failure, &name) };
                Err(error.with_context("outcome", outcome))
            }
            Found::Running | Found::Down => {
                tracing::warn!(machine = %name, "the machine of a launch that broke off is kept");
                self.remember(&plan, None).await;
                let error = if gone.is_cancelled() { cancelled() } else { self.broke_off(failure, &name) };
                Err(error.with_context("outcome", "kept"))
            }
            Found::Absent => {
                let error = if gone.is_cancelled() { cancelled() } else { self.broke_off(failure, &name) };
                Err(error.with_context("outcome", "nothing was made"))
            }
            Found::Lost => {
                reservation.lost = true;
                tracing::error!(machine = %name, "nobody knows what came of a launch");
                Err(self.broke_off(failure, &name).with_context("outcome", "unknown"))
            }
        }
    }

    fn broke_off(&self, failure: Failure, name: &MachineId) -> Error {
        failure.into_error().with_operation("machine.create").with_context("machine", name)
    }

    /// Looks until it is clear what came of a launch that broke off.
    pub(super) async fn follow(
        &self,
        name: &MachineId,
        failure: &Failure,
        gone: &CancellationToken,
    ) -> Found {
        let began = Instant::now();
        let mut pause = self.config.follow_pause;
        let mut seen = false;
        // A daemon that said no means it; one that said nothing may be on its way.
        let unseen_limit =
            if failure.is_outcome_unknown() { self.config.unseen_limit } else { Duration::ZERO };
        let mut answered = None;
        loop {
            if let Ok(states) = self.inventory.states_now().await {
                let since = *answered.get_or_insert_with(Instant::now);
                match states.iter().find(|i| i.name == name.as_str()).map(|i| i.state()) {
                    Some(MachineState::Running) => return Found::Running,
                    // Nobody waits for it to come up.
                    Some(_) if gone.is_cancelled() && self.config.abandoned == Abandoned::Delete => {
                        return Found::Down;
                    }
                    Some(MachineState::Pending) => seen = true,
                    Some(_) => return Found::Down,
                    None if seen || since.elapsed() >= unseen_limit => return Found::Absent,
                    None => {}
                }
            }
            if began.elapsed() >= self.config.follow_limit {
                return if seen { Found::Down } else { Found::Lost };
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.config.follow_pause * 8);
        }
    }

    /// The machine is up.
    async fn welcome(self: &Arc<Self>, plan: &Plan, report: impl Fn(&str)) -> Result<MachineInfo> {
        let mut health = None;
        if plan.user_data.is_some() {
            health = self.cloud_init(&plan.name).await;
            if let Some(word) = &health {
                report(&format!(
                    "cloud-init says: {word}; see /var/log/cloud-init-output.log on the machine"
                ));
                tracing::warn!(machine = %plan.name, status = word, "cloud-init did not end well");
            }
        }
        self.remember(plan, health).await;
        let asking = self.inventory.ask_addresses();
        // Addresses are nice to have.
        let _ = tokio::time::timeout(self.config.read_limit, asking).await;
        self.report(&plan.name).await
    }

    async fn remember(&self, plan: &Plan, health: Option<String>) {
        let mut labels = plan.labels.clone();
        if let Some(word) = health {
            labels.insert("cloud-init".to_owned(), word);
        }
        let record = Record { labels, created_at: Some(Timestamp::now()) };
        if let Err(error) = self.records.set(plan.name.as_str(), Some(record)).await {
            tracing::warn!(machine = %plan.name, %error, "labels of a machine are kept in memory only");
        }
    }

    /// What cloud-init has to complain about: a launch succeeds whatever came of it.
    pub(super) async fn cloud_init(&self, name: &MachineId) -> Option<String> {
        let mut call = Call::new("exec", self.config.exec_limit);
        if self.client.version().await.is_ok_and(|v| v.at_least(1, 10)) {
            call = call.arg("-n");
        }
        // Its status would be taken for the client's.
        let call = call.args([name.as_str(), "--", "sh", "-c", "cloud-init status; exit 0"]);
        let said = self.client.call(call).await.ok()?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let word = said.lines().find_map(|l| l.trim().strip_prefix("status: "))?.trim();
        (word != "done" && word != "disabled").then(|| word.chars().take(64).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cloud_config_is_user_data() {
        for bad in ["#!/bin/sh\n", "Content-Type: multipart/mixed\n", "## template: jinja\n"] {
            assert_eq!(check_user_data(bad).unwrap_err().context_value("field"), Some("user_data"));
        }
        check_user_data("#cloud-config\npackages: [htop]\n").unwrap();
        check_user_data(&"#".repeat(USER_DATA_MAX_BYTES + 1)).unwrap_err();
    }
}
