//! Launching: a client that waits, and work in the background that goes on without it.

use std::{
    collections::BTreeMap,
    io::Read as _,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    cli::Call,
    render::IMAGES,
    state::{Instance, Store, pass, release, scaled},
    terminal,
    verbs::{self, is_name, size},
};

/// What the background is told.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    name: String,
    instance: Instance,
    late_ms: u64,
    boot_ms: Option<u64>,
    boot: String,
}

fn image_is_known(image: &str) -> bool {
    image.starts_with("http")
        || IMAGES.iter().any(|(name, aliases, _)| {
            *name == image
                || aliases.contains(&image)
                || aliases.iter().any(|a| image == format!("daily:{a}"))
        })
}

fn alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// `launch`, as its caller sees it.
pub(super) fn client(call: &Call) -> u8 {
    let (store, line) = (&call.store, &call.line);
    let began = Instant::now();
    // What cannot be read was refused before.
    let limit = line.get("timeout").and_then(|t| t.parse().ok()).map(Duration::from_secs);
    let mut instance = Instance { cpus: 1, memory: 1 << 30, disk: 5 << 30, ..Instance::default() };
    if let Some(cpus) = line.get("cpus").and_then(|c| c.parse().ok()) {
        instance.cpus = cpus;
    }
    let (least_memory, least_disk) =
        if release() >= (1, 17) { (512 << 20, 1 << 30) } else { (128 << 20, 512 << 20) };
    let mut complaint = None;
    for (option, what, least) in
        [("memory", "memory", least_memory), ("mem", "memory", least_memory), ("disk", "disk", least_disk)]
    {
        let Some(text) = line.get(option) else { continue };
        let bytes = size(text).unwrap_or_default();
        if bytes < least {
            complaint =
                Some(format!("Invalid arguments supplied\nInvalid {what} size value supplied: {text}."));
        }
        *(if what == "memory" { &mut instance.memory } else { &mut instance.disk }) = bytes;
    }
    if line.get("cloud-init") == Some("-") {
        let mut text = String::new();
        let _ = std::io::stdin().read_to_string(&mut text);
        instance.cloud_init = Some(text);
    }
    let name = line.get("name").unwrap_or("fancy-otter").to_owned();
    if !is_name(&name) {
        complaint = Some(format!("Invalid arguments supplied\nInvalid instance name supplied: {name}"));
    }
    if line.all("network").any(|n| n == "nonet") {
        complaint = Some("Invalid arguments supplied\nInvalid network options supplied".to_owned());
    }
    terminal::clear();
    let fail = |text: &str| {
        terminal::clear();
        call.failed(text)
    };
    if let Some(text) = complaint {
        return fail(&text);
    }
    let image = line.words.first().map_or("default", String::as_str);
    if !image_is_known(image) {
        let (remote, name) = image.split_once(':').unwrap_or(("", image));
        return fail(&format!("Unable to find an image matching \"{name}\" in remote \"{remote}\"."));
    }
    instance.image = image.to_owned();
    for mount in line.all("mount") {
        let (source, target) = mount.split_once(':').unwrap_or((mount, mount));
        instance.mounts.insert(target.to_owned(), source.to_owned());
    }
    let taken = store.turn().update(|state| {
        if state.instances.contains_key(&name) {
            return Some(format!("instance \"{name}\" already exists"));
        }
        if state.preparing.get(&name).is_some_and(|pid| alive(*pid)) {
            return Some(format!("instance \"{name}\" is being prepared"));
        }
        state.preparing.insert(name.clone(), std::process::id());
        state.outcomes.remove(&name);
        None
    });
    if let Some(text) = taken {
        return fail(&text);
    }
    terminal::spin_for(&format!("Creating {name}"), scaled(1000));
    // Until here and through the download, ending the client ends the launch.
    if !store.turn().load().images.contains(&instance.image) {
        for percent in (0..=100).step_by(10) {
            terminal::put(&format!("\rRetrieving image: {percent}%"));
            pass(scaled(3000) / 11);
        }
        store.turn().update(|state| state.images.push(instance.image.clone()));
    }
    terminal::spin_for("Verifying image: ", scaled(10));
    let rule = &call.rule;
    let order = Order {
        name: name.clone(),
        instance,
        late_ms: rule.late_ms,
        boot_ms: rule.boot_ms,
        boot: rule.boot.clone().unwrap_or_default(),
    };
    order.send(store);
    match rule.daemon.as_deref() {
        Some("dies") => return fail("cannot connect to the multipass socket"),
        Some("hangs") => loop {
            pass(Duration::from_secs(3600));
        },
        _ => {}
    }
    terminal::spin_for(&format!("Configuring {name}"), scaled(10));
    terminal::spin_for(&format!("Starting {name}"), scaled(100));
    let mut outcome = None;
    let mut late = false;
    terminal::spin("Waiting for initialization to complete", || {
        late = limit.is_some_and(|l| began.elapsed() >= l);
        outcome = store.turn().update(|state| state.outcomes.remove(&name));
        late || outcome.is_some()
    });
    match outcome {
        Some((0, _)) if release() >= (1, 17) => terminal::put(&format!("Launched: {name} in zone1\n")),
        Some((0, _)) => terminal::put(&format!("Launched: {name}\n")),
        Some((_, text)) => return fail(&text),
        None => {
            eprintln!("Timed out waiting for instance launch.");
            return 5;
        }
    }
    terminal::clear();
    0
}

impl Order {
    /// Starts the work, out of reach of whoever ends us.
    fn send(&self, store: &Store) {
        let program = std::env::args_os().next().unwrap_or_default();
        let text = serde_json::to_string(self).unwrap_or_default();
        let started = Command::new("setsid")
            .arg("--fork")
            .arg(program)
            .args(["--stand-in-daemon", "launch", &text])
            .env_remove("FLEETCORE_COMMAND_ID")
            .env("FAKE_MULTIPASS_STATE", store.path(""))
            // Before it has a session of its own, it is one of the caller's group for a moment otherwise.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !started.is_ok_and(|s| s.success()) {
            super::state::die("the background cannot be started");
        }
    }
}

/// The work in the background.
pub(super) fn daemon(store: &Store, args: &[String]) {
    let order = args.get(1).and_then(|text| serde_json::from_str::<Order>(text).ok());
    let Some(Order { name, mut instance, late_ms, boot_ms, boot }) = order else { return };
    store.turn().update(|state| {
        state.preparing.insert(name.clone(), std::process::id());
    });
    pass(Duration::from_millis(late_ms));
    verbs::make_home(store, &name);
    store.turn().update(|state| {
        state.preparing.remove(&name);
        state.addresses += 1;
        instance.ipv4 = format!("10.97.{}.{}", state.addresses / 250, 2 + state.addresses % 250);
        instance.state = "Starting".to_owned();
        state.instances.insert(name.clone(), instance);
    });
    pass(boot_ms.map_or_else(|| scaled(8000), Duration::from_millis));
    let finish = |status: u8, text: &str, change: &dyn Fn(&mut BTreeMap<String, Instance>)| {
        store.turn().update(|state| {
            let there = state.instances.contains_key(&name);
            change(&mut state.instances);
            let outcome =
                if there { (status, text.to_owned()) } else { (2, "instance was deleted".to_owned()) };
            state.outcomes.insert(name.clone(), outcome);
        });
    };
    let become_state = |word: &str| {
        let word = word.to_owned();
        let name = name.clone();
        move |all: &mut BTreeMap<String, Instance>| {
            if let Some(i) = all.get_mut(&name).filter(|i| i.state == "Starting") {
                i.state.clone_from(&word);
            }
        }
    };
    match boot.as_str() {
        "fails" => {
            let gone = name.clone();
            return finish(2, "The QEMU process did not start", &move |all| drop(all.remove(&gone)));
        }
        "ssh-timeout" => {
            let text = format!("The following errors occurred:\n{name}: timed out waiting for response");
            return finish(2, &text, &become_state("Unknown"));
        }
        _ => {}
    }
    store.turn().update(|state| become_state("Running")(&mut state.instances));
    pass(scaled(10_000));
    if boot == "cloud-init-timeout" {
        let text = "The following errors occurred:\ntimed out waiting for initialization to complete";
        return finish(2, text, &|_| {});
    }
    if boot == "cloud-init-error" {
        let _ = std::fs::write(store.home(&name).join(".cloud-status"), "status: error\n");
    }
    finish(0, "", &|_| {});
}
