//! The Multipass backend over a stand-in for its program: life, failures, and what must never happen.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{sync::Arc, time::Duration};

use fleetcore::{
    CommandSpec, ErrorKind, ExitKind, Fleet, Json, MachineFilter, MachineId, MachineSpec, MachineState,
    Offset, OpContext, Provider as _, PtySize, StopMode,
    backends::multipass::{Abandoned, Multipass, MultipassConfig},
};
use fleetcore_testkit::{
    contract,
    multipass::{StandIn, main_if_called},
    read_until,
};
use libtest_mimic::{Arguments, Trial};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(120);

macro_rules! trials {
    ($($name:ident),* $(,)?) => { vec![$(trial(stringify!($name), || Box::pin($name()))),*] };
}

type Work = std::pin::Pin<Box<dyn Future<Output = ()>>>;

fn trial(name: &str, work: fn() -> Work) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let done = runtime.block_on(async { tokio::time::timeout(LIMIT, work()).await });
        // Not by dropping it, which would wait for blocking work for ever.
        runtime.shutdown_background();
        Ok(done?)
    })
}

fn main() -> std::process::ExitCode {
    if let Some(code) = main_if_called() {
        return code;
    }
    let trials = trials![
        a_launch_tells_its_progress_and_keeps_labels,
        bad_input_starts_no_process,
        a_thousand_questions_are_one_process,
        a_change_of_ours_shows_at_once,
        a_change_of_others_shows_after_a_refresh,
        a_daemon_that_is_down_hides_no_other_target,
        nonsense_is_a_clear_error_and_passes,
        a_daemon_that_hangs_is_a_timeout,
        a_busy_daemon_does_not_delay_the_list,
        a_program_that_is_missing_says_what_to_do,
        a_launch_past_its_limit_that_comes_up_is_adopted,
        a_launch_that_never_comes_up_is_purged_or_kept,
        a_launch_whose_daemon_died_is_found_again,
        a_launch_is_followed_by_the_next_process,
        a_launch_that_was_refused_touches_nothing,
        a_caller_that_leaves_during_the_download_leaves_nothing,
        a_caller_that_leaves_later_leaves_nothing_either,
        cloud_init_that_failed_is_told,
        every_action_works,
        one_silent_machine_does_not_spoil_the_details,
        status_four_is_a_status_like_any_other,
        much_input_goes_through_files,
        commands_end_with_their_connection,
        a_machine_without_python_runs_commands_and_takes_files,
        every_release_is_driven,
        the_stand_in_speaks_as_recorded,
        the_stand_in_relays_a_terminal,
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

struct World {
    stand_in: StandIn,
    multipass: Multipass,
}

impl World {
    fn new() -> Self {
        Self::with(|c| c)
    }

    fn with(change: impl FnOnce(MultipassConfig) -> MultipassConfig) -> Self {
        let stand_in = StandIn::new().unwrap();
        let multipass = Multipass::new(change(stand_in.config()));
        Self { stand_in, multipass }
    }

    async fn launch(&self, name: &str) -> MachineId {
        self.multipass.create(&cx(), spec(name)).await.unwrap().id
    }

    async fn names(&self) -> Vec<String> {
        let mut filter = MachineFilter::default();
        filter.include_deleted = true;
        let all = self.multipass.list(&cx(), filter).await.unwrap();
        all.into_iter().map(|m| m.id.to_string()).collect()
    }

    async fn act(&self, machine: Option<&MachineId>, action: &str, args: Value) -> fleetcore::Result<Value> {
        let args: Json = args.as_object().unwrap().clone();
        self.multipass.act(&cx(), machine, action, args).await
    }

    fn fleet(&self) -> Fleet {
        Fleet::builder().with_provider(Arc::new(self.multipass.clone())).build()
    }

    /// Waits until no launch is under way and nothing is listed.
    async fn until_empty(&self) {
        loop {
            let launches = self.act(None, "launches", json!({})).await.unwrap();
            if launches.as_array().unwrap().is_empty() && self.names().await.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn cx() -> OpContext {
    OpContext::default()
}

fn spec(name: &str) -> MachineSpec {
    let mut spec = MachineSpec::default();
    name.clone_into(&mut spec.name);
    spec
}

fn option(mut spec: MachineSpec, key: &str, value: impl Into<Value>) -> MachineSpec {
    spec.options.insert(key.to_owned(), value.into());
    spec
}

async fn a_launch_tells_its_progress_and_keeps_labels() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("records.json");
    let world = World::with(|c| c.with_records(&file));
    let (report, mut lines) = mpsc::channel(100);
    let mut spec = spec("dev1");
    spec.labels.insert("role".into(), "web".into());
    spec.user_data = Some(SecretString::from("#cloud-config\npackages: [htop]\n"));
    (spec.cpus, spec.memory_bytes) = (Some(2), Some(2 << 30));
    let made = world.multipass.create(&cx().with_progress(report), spec).await.unwrap();
    assert_eq!((made.state, made.native_state.as_str()), (MachineState::Running, "Running"));
    assert!(made.created_at.is_some() && made.addresses.len() == 1, "{made:?}");
    let mut seen = Vec::new();
    while let Ok(line) = lines.try_recv() {
        seen.push(line);
    }
    for want in ["Creating dev1", "Retrieving image: 100%", "Starting dev1", "Launched: dev1"] {
        assert!(seen.iter().any(|l| l == want), "{want} is not in {seen:?}");
    }
    let launch = world.stand_in.calls().into_iter().find(|c| c[0] == "launch").unwrap();
    assert!(!launch.iter().any(|a| a.contains("htop")), "user data is in nobody's process list: {launch:?}");
    let state = std::fs::read_to_string(world.stand_in.state().join("state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    let instance = &state["instances"]["dev1"];
    assert!(instance["cloud_init"].as_str().unwrap().contains("htop"));
    assert_eq!((&instance["cpus"], &instance["memory"]), (&json!(2), &json!(2u64 << 30)));
    // Another process sees the labels.
    let again = Multipass::new(world.stand_in.config().with_records(&file));
    assert_eq!(again.list(&cx(), MachineFilter::default()).await.unwrap()[0].labels["role"], "web");
}

async fn a_change_of_others_shows_after_a_refresh() {
    let hour = Duration::from_secs(3600);
    let world = World::with(|c| c.with_freshness(hour, hour));
    assert!(world.names().await.is_empty());
    Multipass::new(world.stand_in.config()).create(&cx(), spec("theirs")).await.unwrap();
    assert!(world.names().await.is_empty(), "the list is kept for an hour");
    world.act(None, "refresh", json!({})).await.unwrap();
    assert_eq!(world.names().await, ["theirs"]);
}

async fn bad_input_starts_no_process() {
    let world = World::new();
    let long = "a".repeat(300);
    for name in
        ["--all", "../x", "-n", "", "a b", "ünïcode", "日本", "a.b", "1a", "a-", "primary", long.as_str()]
    {
        let error = world.multipass.create(&cx(), spec(name)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}: {error}");
    }
    let odd = ["1a", "a.b", "a_b"].map(|n| MachineId::new(n).unwrap());
    for id in &odd {
        for error in [
            world.multipass.info(&cx(), id).await.unwrap_err(),
            world.multipass.start(&cx(), id).await.unwrap_err(),
            world.multipass.stop(&cx(), id, StopMode::Force).await.unwrap_err(),
            world.multipass.connect(&cx(), id).await.unwrap_err(),
            world.act(Some(id), "snapshot", json!({})).await.unwrap_err(),
        ] {
            assert!(matches!(error.kind(), ErrorKind::NotFound), "{id}: {error}");
        }
        world.multipass.delete(&cx(), id, true).await.unwrap();
    }
    // One is allowed to ask what release it is.
    let calls = world.stand_in.calls();
    assert!(calls.iter().all(|c| c[0] == "version"), "{calls:?}");
    let mut image = spec("ok");
    image.image = Some("--help".into());
    for bad in [
        image,
        option(spec("ok"), "networks", json!(["-x"])),
        option(spec("ok"), "mounts", json!(["../x:/y"])),
        option(spec("ok"), "timeout_secs", 0),
        option(spec("ok"), "nonsense", true),
    ] {
        assert_eq!(world.multipass.create(&cx(), bad).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(world.stand_in.called("launch"), 0);
}

async fn a_thousand_questions_are_one_process() {
    let world = World::with(|c| c.with_freshness(Duration::from_secs(60), Duration::from_secs(60)));
    world.launch("one").await;
    let before = world.stand_in.calls().len();
    let context = cx();
    let asked = (0..1000).map(|_| world.multipass.list(&context, MachineFilter::default()));
    for answer in futures::future::join_all(asked).await {
        assert_eq!(answer.unwrap().len(), 1);
    }
    let id = MachineId::new("one").unwrap();
    for _ in 0..100 {
        world.multipass.connect(&cx(), &id).await.unwrap();
        world.multipass.info(&cx(), &id).await.unwrap();
    }
    let more = world.stand_in.calls().len() - before;
    assert!(more <= 2, "{more} processes");
}

async fn a_change_of_ours_shows_at_once() {
    let world = World::with(|c| c.with_freshness(Duration::from_secs(3600), Duration::from_secs(3600)));
    let id = world.launch("one").await;
    for _ in 0..2 {
        world.multipass.stop(&cx(), &id, StopMode::Graceful).await.unwrap();
        assert_eq!(world.multipass.info(&cx(), &id).await.unwrap().state, MachineState::Stopped);
        world.multipass.start(&cx(), &id).await.unwrap();
        assert_eq!(world.multipass.info(&cx(), &id).await.unwrap().state, MachineState::Running);
    }
    world.multipass.delete(&cx(), &id, true).await.unwrap();
    assert!(world.names().await.is_empty());
}

async fn a_daemon_that_is_down_hides_no_other_target() {
    let world = World::with(|c| c.with_freshness(Duration::from_secs(60), Duration::from_secs(60)));
    world.stand_in.plan(json!([{"match": {"command": "*"}, "daemon": "down"}]));
    let error = world.multipass.list(&cx(), MachineFilter::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.context_value("hint").is_some(), "{error}");
    for _ in 0..50 {
        world.multipass.list(&cx(), MachineFilter::default()).await.unwrap_err();
    }
    assert!(world.stand_in.called("list") <= 2, "an outage is no reason for a process per request");
    let host = Arc::new(fleetcore::backends::local::Local::default());
    let fleet = Fleet::builder().with_host(host).with_provider(Arc::new(world.multipass.clone())).build();
    let targets = fleet.targets(&cx()).await.unwrap();
    assert_eq!(targets.len(), 1);
    assert_eq!(targets[0].target.to_string(), "local");
    world.stand_in.plan(json!([{"match": {"command": "*"}, "daemon": "unauthenticated"}]));
    let fresh = Multipass::new(world.stand_in.config());
    let error = fresh.list(&cx(), MachineFilter::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

async fn nonsense_is_a_clear_error_and_passes() {
    let world = World::new();
    world.launch("one").await;
    for rule in [
        json!({"match": {"command": "list"}, "garble_json": true}),
        json!({"match": {"command": "list"}, "truncate_stdout": 20}),
        json!({"match": {"command": "list"}, "truncate_stdout": 0}),
    ] {
        world.stand_in.plan(json!([rule]));
        let fresh = Multipass::new(world.stand_in.config());
        let error = fresh.list(&cx(), MachineFilter::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unexpected);
        assert_eq!(error.context_value("command"), Some("list"), "{error}");
    }
    world.stand_in.plan(json!([]));
    let fresh = Multipass::new(world.stand_in.config());
    assert_eq!(fresh.list(&cx(), MachineFilter::default()).await.unwrap().len(), 1);
}

async fn a_daemon_that_hangs_is_a_timeout() {
    let world = World::with(|c| c.with_limits(Duration::from_millis(300), Duration::from_millis(300)));
    world.stand_in.plan(json!([{"match": {"command": "list"}, "daemon": "hangs", "ignore_sigterm": true}]));
    let error = world.multipass.list(&cx(), MachineFilter::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

async fn a_busy_daemon_does_not_delay_the_list() {
    let world = World::with(|c| c.with_list_patience(Duration::from_millis(200)));
    world.launch("one").await;
    assert_eq!(world.names().await, ["one"]);
    world.stand_in.plan(json!([{"match": {"command": "list"}, "daemon": "hangs"}]));
    for _ in 0..3 {
        assert_eq!(world.names().await, ["one"], "what was known last");
    }
    let fresh = Multipass::new(world.stand_in.config().with_list_patience(Duration::from_millis(200)));
    let error = fresh.list(&cx(), MachineFilter::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

async fn a_program_that_is_missing_says_what_to_do() {
    let multipass = Multipass::new(MultipassConfig::default().with_program("/no/such/multipass"));
    let error = multipass.list(&cx(), MachineFilter::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.context_value("hint").unwrap().contains("install"), "{error}");
    // It is among the providers, with the reason, and is no failure of every list of machines.
    let fleet = Fleet::builder().with_provider(Arc::new(multipass)).build();
    let error = fleet.provider("multipass").unwrap().check(&cx()).await.unwrap_err();
    assert!(error.message().contains("not installed"), "{error}");
    let listing = fleet.machines(&cx(), &MachineFilter::default()).await.unwrap();
    assert!(listing.machines.is_empty() && listing.failures.is_empty(), "{listing:?}");
}

async fn a_launch_past_its_limit_that_comes_up_is_adopted() {
    let world = World::new();
    world.stand_in.plan(json!([{"match": {"command": "launch"}, "boot_ms": 2000}]));
    let made = world.multipass.create(&cx(), option(spec("slow"), "timeout_secs", 1)).await.unwrap();
    assert_eq!(made.state, MachineState::Running);
    assert_eq!(world.stand_in.called("launch"), 1, "no second attempt, no duplicate");
}

async fn a_launch_that_never_comes_up_is_purged_or_kept() {
    for (policy, outcome, left) in [(Abandoned::Delete, "purged", 0), (Abandoned::Keep, "kept", 1)] {
        let world = World::with(|c| c.with_abandoned(policy));
        world.stand_in.plan(json!([{"match": {"command": "launch"}, "boot": "ssh-timeout"}]));
        let error = world.multipass.create(&cx(), spec("dead")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert_eq!(error.context_value("outcome"), Some(outcome), "{error}");
        assert_eq!(world.names().await.len(), left);
    }
}

async fn a_launch_whose_daemon_died_is_found_again() {
    let world = World::new();
    world.stand_in.plan(json!([{"match": {"command": "launch"}, "daemon": "dies", "late_ms": 300}]));
    let made = world.multipass.create(&cx(), spec("late")).await.unwrap();
    assert_eq!(made.state, MachineState::Running);
    let unseen = Duration::from_millis(200);
    let world = World::with(|c| c.with_launch_limits(LIMIT, LIMIT, unseen));
    world.stand_in.plan(json!([{"match": {"command": "launch"}, "stderr":
        "launch failed: cannot connect to the multipass socket\n"}]));
    let error = world.multipass.create(&cx(), spec("never")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(error.context_value("outcome"), Some("nothing was made"), "{error}");
}

async fn a_launch_is_followed_by_the_next_process() {
    let stand_in = StandIn::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("records.json");
    let config = stand_in.config().with_records(&file);
    stand_in.plan(json!([{"match": {"command": "launch"}, "boot_ms": 700}]));
    let first = config.clone();
    // A process that ends in the middle of a launch, as if by kill -9: what it began is not told.
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let multipass = Multipass::new(first);
        runtime.block_on(async {
            let (report, mut lines) = mpsc::channel(100);
            let mut spec = spec("orphan");
            spec.labels.insert("role".into(), "web".into());
            tokio::spawn(async move { multipass.create(&cx().with_progress(report), spec).await });
            while !lines.recv().await.unwrap().starts_with("Configuring") {}
        });
        runtime.shutdown_background();
    });
    ended.join().unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().contains("orphan"));

    let world = World { stand_in, multipass: Multipass::new(config.clone()) };
    let error = world.multipass.create(&cx(), spec("orphan")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let info = fleetcore_testkit::eventually("the machine is taken over", async || {
        let id = MachineId::new("orphan").unwrap();
        let info = world.multipass.info(&cx(), &id).await.ok()?;
        (info.state == MachineState::Running && !info.labels.is_empty()).then_some(info)
    })
    .await;
    assert_eq!(info.labels["role"], "web");
    let settled = async || (!std::fs::read_to_string(&file).unwrap().contains("wanted")).then_some(());
    fleetcore_testkit::eventually("its outcome is on record", settled).await;
    assert_eq!((world.stand_in.called("launch"), world.stand_in.called("delete")), (1, 0));

    // One whose caller had left is purged, but not long after: somebody may use it by then.
    world.launch("left").await;
    world.launch("old").await;
    // A launch is told before it is struck off the record; that must not strike off what is written below.
    fleetcore_testkit::eventually("their outcomes are on record", settled).await;
    let (now, before) = (jiff::Timestamp::now(), "2020-01-01T00:00:00Z");
    let launches = json!({
        "left": { "since": now.to_string(), "wanted": false },
        "old": { "since": before, "wanted": false },
        "never": { "since": now.to_string(), "wanted": true },
    });
    let document = json!({ "version": 1, "machines": {}, "launches": launches });
    std::fs::write(&file, document.to_string()).unwrap();
    let unseen = Duration::from_millis(100);
    let next = Multipass::new(config.with_launch_limits(LIMIT, LIMIT, unseen));
    next.resume();
    fleetcore_testkit::eventually("all outcomes are on record", settled).await;
    let world = World { multipass: next, stand_in: world.stand_in };
    let mut names = world.names().await;
    names.sort();
    assert_eq!(names, ["old", "orphan"]);
}

async fn a_launch_that_was_refused_touches_nothing() {
    let world = World::new();
    let id = world.launch("mine").await;
    let error = world.multipass.create(&cx(), spec("mine")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    world.multipass.delete(&cx(), &id, false).await.unwrap();
    let error = world.multipass.create(&cx(), spec("mine")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "a deleted machine keeps its name");
    assert_eq!(world.names().await, ["mine"]);
    // Somebody else was faster: the list did not show it yet.
    world.stand_in.plan(json!([{"match": {"command": "launch"}, "fail": "being_prepared"}]));
    let error = world.multipass.create(&cx(), spec("theirs")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(world.stand_in.called("delete"), 1, "only the one above");
    world.stand_in.plan(json!([]));
    let mut unknown = spec("other");
    unknown.image = Some("nosuch".into());
    let error = world.multipass.create(&cx(), unknown).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.message().contains("nosuch"));
}

/// Starts a launch and drops it when a line of progress begins with `at`.
async fn leave(world: &World, at: &str) {
    let (report, mut lines) = mpsc::channel(100);
    let context = cx().with_progress(report);
    let launch = world.multipass.create(&context, spec("left"));
    tokio::select! {
        made = launch => panic!("it ended: {made:?}"),
        () = async {
            while let Some(line) = lines.recv().await {
                if line.starts_with(at) {
                    return;
                }
            }
            panic!("no {at}");
        } => {}
    }
}

async fn a_caller_that_leaves_during_the_download_leaves_nothing() {
    let unseen = Duration::from_millis(300);
    let world = World::with(|c| c.with_launch_limits(LIMIT, LIMIT, unseen));
    leave(&world, "Creating").await;
    world.until_empty().await;
    world.stand_in.plan(json!([]));
    world.launch("left").await;
}

async fn a_caller_that_leaves_later_leaves_nothing_either() {
    let world = World::new();
    world.stand_in.plan(json!([{"match": {"command": "launch"}, "boot_ms": 700}]));
    leave(&world, "Configuring").await;
    world.until_empty().await;
    assert_eq!(world.stand_in.called("delete"), 1);
    let kept = World::with(|c| c.with_abandoned(Abandoned::Keep));
    leave(&kept, "Configuring").await;
    while kept.names().await.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(kept.stand_in.called("delete"), 0);
}

async fn cloud_init_that_failed_is_told() {
    let world = World::new();
    world.stand_in.plan(json!([{"match": {"command": "launch"}, "boot": "cloud-init-error"}]));
    let mut spec = spec("sick");
    spec.user_data = Some(SecretString::from("#cloud-config\n"));
    let made = world.multipass.create(&cx(), spec).await.unwrap();
    assert_eq!(made.labels.get("cloud-init").map(String::as_str), Some("error"));
}

async fn every_action_works() {
    let mounted = tempfile::tempdir().unwrap();
    let world = World::new();
    let id = world.launch("dev1").await;
    let on = Some(&id);
    let ok = |action: &'static str, args: Value| {
        let world = &world;
        let id = &id;
        async move { world.act(Some(id), action, args).await.unwrap_or_else(|e| panic!("{action}: {e:?}")) }
    };
    assert_eq!(world.act(None, "version", json!({})).await.unwrap()["daemon"], "1.16.3");
    assert_eq!(world.act(None, "networks", json!({})).await.unwrap()[0]["name"], "eth0");
    let images = world.act(None, "find", json!({"query": "noble"})).await.unwrap();
    assert_eq!(images[0]["release"], "24.04 LTS");
    assert_eq!(ok("details", json!({})).await["cpus"], 1);
    assert_eq!(world.act(None, "details", json!({})).await.unwrap()["dev1"]["state"], "Running");

    let refused = world.act(on, "snapshot", json!({})).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidState, "a running machine: {refused}");
    ok("restart", json!({})).await;
    world.multipass.stop(&cx(), &id, StopMode::Graceful).await.unwrap();
    assert_eq!(ok("snapshot", json!({})).await["snapshot"], "snapshot1");
    let named = ok("snapshot", json!({"name": "before", "comment": "--purge it?"})).await;
    assert_eq!(named["snapshot"], "before");
    let all = ok("snapshots", json!({})).await;
    assert!(all.as_array().unwrap().iter().any(|s| s["name"] == "before" && s["comment"] == "--purge it?"));
    ok("restore", json!({"snapshot": "before", "destructive": true})).await;
    ok("restore", json!({"snapshot": "before"})).await;
    assert_eq!(ok("snapshots", json!({})).await.as_array().unwrap().len(), 3, "the state before was kept");
    ok("delete_snapshot", json!({"snapshot": "before"})).await;
    let gone =
        world.act(on, "restore", json!({"snapshot": "before", "destructive": true})).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    let bad = world.act(on, "restore", json!({"snapshot": "../x"})).await.unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::InvalidInput);

    assert_eq!(ok("clone", json!({})).await["machine"], "dev1-clone1");
    assert_eq!(ok("clone", json!({"name": "copy"})).await["machine"], "copy");
    let source = mounted.path().to_str().unwrap();
    ok("mount", json!({"source": source, "target": "/mnt/x", "uid_maps": ["1000:1000"]})).await;
    assert_eq!(ok("details", json!({})).await["mounts"]["/mnt/x"]["source"], source);
    ok("umount", json!({"target": "/mnt/x"})).await;

    let limits =
        ok("set_limits", json!({"cpus": 4, "memory_bytes": 4u64 << 30, "disk_bytes": 10u64 << 30})).await;
    assert_eq!(limits, json!({"cpus": 4, "memory_bytes": 4u64 << 30, "disk_bytes": 10u64 << 30}));
    let shrunk = world.act(on, "set_limits", json!({"disk_bytes": 1 << 30})).await.unwrap_err();
    assert_eq!(shrunk.kind(), ErrorKind::InvalidInput, "{shrunk}");

    let alive = world.act(on, "purge", json!({})).await.unwrap_err();
    assert_eq!(alive.kind(), ErrorKind::InvalidState);
    world.multipass.delete(&cx(), &id, false).await.unwrap();
    ok("recover", json!({})).await;
    assert_eq!(world.multipass.info(&cx(), &id).await.unwrap().state, MachineState::Stopped);
    world.multipass.delete(&cx(), &id, false).await.unwrap();
    assert_eq!(world.act(None, "purge", json!({})).await.unwrap()["purged"], json!(["dev1"]));
    assert_eq!(world.names().await, ["copy", "dev1-clone1"]);
    assert_eq!(world.stand_in.called("purge"), 0, "the program's own purge is never used");
}

async fn one_silent_machine_does_not_spoil_the_details() {
    let world = World::new();
    world.launch("good").await;
    world.launch("silent").await;
    world.stand_in.plan(json!([{"match": {"command": "info", "name": "silent"}, "fail": "ssh"}]));
    let all = world.act(None, "details", json!({})).await.unwrap();
    assert_eq!(all["good"]["state"], "Running");
    assert!(all["silent"]["error"].as_str().unwrap().contains("ssh"));
}

async fn status_four_is_a_status_like_any_other() {
    let world = World::new();
    let id = world.launch("dev1").await;
    let machine = world.fleet().machine(&format!("multipass/{id}")).unwrap();
    let before = world.stand_in.called("exec");
    let out = machine.spawn(CommandSpec::shell("echo once; exit 4")).await.unwrap().output().await.unwrap();
    assert_eq!((out.status.kind, out.text().as_str()), (ExitKind::Code(4), "once\n"));
    assert_eq!(world.stand_in.called("exec"), before + 1);
}

async fn much_input_goes_through_files() {
    let world = World::new();
    let id = world.launch("dev1").await;
    let machine = world.fleet().machine(&format!("multipass/{id}")).unwrap();
    let command = machine.spawn(CommandSpec::argv(["sha256sum"]).with_stdin()).await.unwrap();
    let data: Vec<u8> = (0..5u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for piece in data.chunks(1 << 16) {
        command.write_stdin(bytes::Bytes::copy_from_slice(piece)).await.unwrap();
    }
    command.close_stdin().await;
    let seen = command.output().await.unwrap().check().unwrap().text();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &data).unwrap();
    let want = std::process::Command::new("sha256sum").arg(file.path()).output().unwrap().stdout;
    assert_eq!(seen.split(' ').next(), String::from_utf8(want).unwrap().split(' ').next());
    assert!(world.stand_in.called("transfer") > 0);
    let home = std::fs::read_dir(world.stand_in.state().join("guests/dev1")).unwrap();
    assert_eq!(home.count(), 0, "nothing is left on the machine");
}

async fn commands_end_with_their_connection() {
    let world = World::new();
    let id = world.launch("dev1").await;
    let machine = world.fleet().machine(&format!("multipass/{id}")).unwrap();
    let fifo = world.stand_in.state().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let path = fifo.to_str().unwrap().to_owned();
    let script = "exec 3>\"$1\"; setsid sleep 1000 & echo up; sleep 1000";
    let command = machine.spawn(CommandSpec::argv(["sh", "-c", script, "sh", &path])).await.unwrap();
    let handle = command.handle();
    // The machine goes down under it: an end without a word.
    let reader = tokio::task::spawn_blocking(move || std::fs::read(fifo).unwrap());
    read_until(&mut command.stream(Offset(0)), "up").await;
    drop(command);
    handle.wait().await.unwrap();
    assert!(reader.await.unwrap().is_empty(), "nobody holds it open any more");
}

async fn a_machine_without_python_runs_commands_and_takes_files() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    world.launch("bare").await;
    // Before all others in the guest's PATH.
    let bin = std::path::Path::new(&world.stand_in.config().env["FAKE_MULTIPASS_STATE"]).join("guest-bin");
    std::fs::create_dir_all(&bin).unwrap();
    let missing = "#!/bin/sh\necho 'bash: line 1: python3: command not found' >&2\nexit 127\n";
    std::fs::write(bin.join("python3"), missing).unwrap();
    std::fs::set_permissions(bin.join("python3"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let machine = world.fleet().machine("multipass/bare").unwrap();
    let run = async |spec: CommandSpec| machine.spawn(spec).await.unwrap().output().await.unwrap();

    let out =
        run(CommandSpec::shell("echo out; echo err >&2; echo \"$A\"; exit 4").with_env("A", "it's $(x)"))
            .await;
    assert_eq!((out.text().as_ref(), &*out.stderr), ("out\nit's $(x)\n", &b"err\n"[..]));
    assert_eq!(out.status.kind, ExitKind::Code(4));
    let out = run(CommandSpec::argv(["printf", "%s.", "a b", "", "'", "\n"]).with_cwd("/tmp")).await;
    assert_eq!(out.text(), "a b..'.\n.");
    let out = run(CommandSpec::shell("kill -9 $$")).await;
    assert_eq!(out.status.kind, ExitKind::Signal(9));
    let error = machine.spawn(CommandSpec::argv(["nosuch"])).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context_value("program")),
        (ErrorKind::NotFound, Some("nosuch")),
        "{error}"
    );
    let error = machine.spawn(CommandSpec::argv(["true"]).with_cwd("/no/such")).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("field")), (ErrorKind::NotFound, Some("cwd")), "{error}");

    let much: String = (0..30_000).map(|n| format!("{n}\n")).collect();
    let command = machine.spawn(CommandSpec::argv(["cat"]).with_stdin()).await.unwrap();
    command.write_stdin(much.clone()).await.unwrap();
    command.close_stdin().await;
    assert!(command.output().await.unwrap().text() == much);

    // A terminal, its size, and its end.
    let script = "stty size; read x; echo got $x; exec sleep 1000";
    let command =
        machine.spawn(CommandSpec::shell(script).with_pty(PtySize { cols: 101, rows: 37 })).await.unwrap();
    let mut stream = command.stream(Offset(0));
    fleetcore_testkit::read_until(&mut stream, "37 101").await;
    command.write_stdin("hello\n").await.unwrap();
    fleetcore_testkit::read_until(&mut stream, "got hello").await;
    command.cancel();
    command.wait().await.unwrap();

    let files = machine.files().await.unwrap();
    files.write("note", much.clone(), fleetcore::WriteOptions::default()).await.unwrap();
    assert!(files.read("note").await.unwrap() == much.as_bytes());
}

async fn every_release_is_driven() {
    for release in ["1.8.1", "1.12.2", "1.13.1", "1.17.0"] {
        let stand_in = StandIn::new().unwrap();
        let multipass = Multipass::new(stand_in.config_as(release));
        let world = World { stand_in, multipass };
        let id = world.launch("dev1").await;
        let machine = world.fleet().machine(&format!("multipass/{id}")).unwrap();
        let out =
            machine.spawn(CommandSpec::shell("echo \"$0\"; exit 4")).await.unwrap().output().await.unwrap();
        assert_eq!(out.status.kind, ExitKind::Code(4), "{release}");
        machine.stop(&cx(), StopMode::Force).await.unwrap();
        let snapshot = machine.act(&cx(), "snapshot", Json::new()).await;
        match release {
            "1.8.1" | "1.12.2" => {
                assert_eq!(snapshot.unwrap_err().kind(), ErrorKind::Unsupported, "{release}")
            }
            _ => assert_eq!(snapshot.unwrap()["snapshot"], "snapshot1", "{release}"),
        }
        machine.start(&cx()).await.unwrap();
        machine.act(&cx(), "details", Json::new()).await.unwrap();
        machine.delete(&cx(), true).await.unwrap();
        assert!(world.names().await.is_empty(), "{release}");
    }
}

/// What the real client of 1.16.3 said, where the contract's recordings are at hand.
async fn the_stand_in_speaks_as_recorded() {
    // What the stand-in does not have: help texts, aliases, prompts, client settings, documents of cloud-init.
    const LEFT_OUT: &[&str] = &[
        "alias",
        "unalias",
        "prefer",
        "aliases",
        "authenticate",
        "help",
        "get",
        "set",
        "shell",
        "--help",
        "-h",
    ];
    let Some(dir) = contract("multipass").map(|d| d.join("cli-1.16.3")) else { return };
    let stand_in = StandIn::new().unwrap();
    stand_in.plan(json!([{"match": {"command": "*"}, "daemon": "down"}]));
    let (mut compared, mut differences) = (0, Vec::new());
    for file in ["usage_errors.json", "daemon_unreachable.json"] {
        let records: Vec<Value> = serde_json::from_slice(&std::fs::read(dir.join(file)).unwrap()).unwrap();
        for record in records {
            let argv: Vec<String> = serde_json::from_value(record["argv"].clone()).unwrap();
            let words = &argv[1..];
            let left_out = words.is_empty()
                || words.iter().any(|w| LEFT_OUT.contains(&w.as_str()))
                || words[0] == "exec" && file.starts_with("daemon") // says it twice, without -n
                || record.get("stdin").is_some()
                || record.get("env").is_some()
                || record["scenario"].as_str().is_some_and(|s| !s.contains("absent"));
            if left_out {
                continue;
            }
            let mut command = std::process::Command::new(stand_in.program());
            command.args(words).envs(&stand_in.config().env).stdin(std::process::Stdio::null());
            let out = command.output().unwrap();
            let said = String::from_utf8(out.stderr).unwrap();
            compared += 1;
            if (out.status.code().map(i64::from), said.as_str())
                != (record["exit"].as_i64(), record["stderr"].as_str().unwrap())
            {
                differences.push(format!(
                    "{words:?}: {:?} {said:?}, recorded {} {}",
                    out.status, record["exit"], record["stderr"]
                ));
            }
        }
    }
    assert!(compared > 80, "only {compared}");
    assert!(differences.is_empty(), "{} of {compared}:\n{}", differences.len(), differences.join("\n"));
}

/// As the client does: a terminal on the machine behind the one it runs on, in raw mode, with its size.
async fn the_stand_in_relays_a_terminal() {
    let world = World::new();
    world.launch("dev1").await;
    let script = "stty size; read x; echo got $x; until [ \"$(stty size)\" = '50 133' ]; do :; done; echo resized; exit 3";
    let program = world.stand_in.program().to_str().unwrap().to_owned();
    let argv = [program.as_str(), "exec", "-n", "dev1", "--", "sh", "-c", script];
    let mut spec = CommandSpec::argv(argv).with_pty(PtySize { cols: 101, rows: 37 });
    for (name, value) in &world.stand_in.config().env {
        spec = spec.with_env(name, value);
    }
    let command = Fleet::local().machine("local").unwrap().spawn(spec).await.unwrap();
    let mut stream = command.stream(Offset(0));
    fleetcore_testkit::read_until(&mut stream, "37 101").await;
    command.write_stdin("hello\r").await.unwrap();
    fleetcore_testkit::read_until(&mut stream, "got hello").await;
    command.resize(PtySize { cols: 133, rows: 50 }).await.unwrap();
    fleetcore_testkit::read_until(&mut stream, "resized").await;
    assert_eq!(command.wait().await.unwrap().kind, ExitKind::Code(3));
}
