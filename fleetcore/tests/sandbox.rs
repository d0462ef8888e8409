//! What a sandbox must keep from its host, and what must be left of it when it is gone: nothing.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use fleetcore::{
    CommandSpec, ErrorKind, Fleet, Io, MachineFilter, MachineId, MachineSpec, OpContext, Output,
    Provider as _, PtySize, StopMode,
    backends::sandbox::{SandboxConfig, Sandboxes},
};
use fleetcore_testkit::{eventually, until};

struct World {
    dir: tempfile::TempDir,
    sandboxes: Arc<Sandboxes>,
}

fn cx() -> OpContext {
    OpContext::default()
}

fn id(name: &str) -> MachineId {
    MachineId::new(name).unwrap()
}

fn spec(name: &str) -> MachineSpec {
    let mut spec = MachineSpec::default();
    name.clone_into(&mut spec.name);
    spec
}

fn open(dir: &Path) -> Arc<Sandboxes> {
    Arc::new(Sandboxes::open(SandboxConfig::new(dir.join("sandboxes"))).unwrap())
}

impl World {
    /// `None` where sandboxes cannot be made, unless they must.
    async fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let sandboxes = open(dir.path());
        if let Err(why) = sandboxes.probe().await {
            assert!(std::env::var_os("FLEETCORE_REQUIRE_SANDBOX").is_none(), "{why}");
            eprintln!("skipped: {why}");
            return None;
        }
        Some(Self { dir, sandboxes })
    }

    /// A name that no other sandbox of this host has: the host's processes are looked at.
    async fn create(&self, change: impl FnOnce(&mut MachineSpec)) -> String {
        let name = format!("t-{}", uuid::Uuid::now_v7());
        let mut spec = spec(&name);
        change(&mut spec);
        self.sandboxes.create(&cx(), spec).await.unwrap();
        name
    }

    fn fleet(&self) -> Fleet {
        Fleet::builder().with_provider(self.sandboxes.clone()).build()
    }

    async fn sh(&self, name: &str, script: &str) -> Output {
        let machine = self.fleet().machine(&format!("sandbox/{name}")).unwrap();
        machine.spawn(CommandSpec::shell(script)).await.unwrap().output().await.unwrap()
    }
}

/// Processes of this host that keep the sandbox of this name.
fn holders(name: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|p| fs::read(p.path().join("cmdline")).ok());
    lines.filter(|l| l.split(|b| *b == 0).any(|word| word == name.as_bytes())).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_starts_nothing() {
    let Some(world) = World::new().await else { return };
    let name = world.create(|_| {}).await;
    let World { dir, sandboxes } = world;
    drop(sandboxes);
    until("its end", || holders(&name) == 0).await;
    // As after a restart: it is meant to run, and comes up when it is used.
    let world = World { sandboxes: open(dir.path()), dir };
    let targets = world.fleet().targets(&cx()).await.unwrap();
    assert!(targets[0].capabilities.as_ref().is_some_and(|c| c.pty && !c.native_files));
    world.fleet().machines(&cx(), &MachineFilter::default()).await.unwrap();
    let machine = world.fleet().machine(&format!("sandbox/{name}")).unwrap();
    machine.info(&cx()).await.unwrap();
    machine.executor(&cx()).await.unwrap();
    assert_eq!(holders(&name), 0);
    machine.ping(&cx()).await.unwrap();
    assert!(holders(&name) > 0);
    world.sandboxes.stop(&cx(), &id(&name), StopMode::Graceful).await.unwrap();
    let refused = machine.executor(&cx()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidState);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_host_can_be_changed_from_inside() {
    let Some(world) = World::new().await else { return };
    let name = world.create(|_| {}).await;
    let out = world
        .sh(
            &name,
            r#"
            id -u; id -G
            grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status | tr -d '[:blank:]'
            # Settings of the kernel that are of no namespace of its own, and what else only root may write.
            find /proc/sys -path /proc/sys/net -prune -o -path /proc/sys/fs/mqueue -prune -o -type f -writable -print |
                grep -vE '/kernel/(auto_msgmni|msgm[a-z]*|ns_last_pid|pid_max|sem|shm[a-z_]*)$' | sed 's/^/writable /'
            find /proc -maxdepth 1 -type f -writable | sed 's/^/writable /'
            find /etc /usr/bin -type f -writable | sed 's/^/writable /'
            cat /etc/shadow 2>/dev/null | sed 's/^/shadow /'
            for try in 'mount -t tmpfs none /tmp' 'mount -o remount,rw,bind /usr' 'touch /usr/x' 'touch /x' 'touch /run/x' \
                'unshare -Urm mount -o remount,rw,bind /usr' \
                'mknod /tmp/disk b 8 0' 'chroot /' 'hostname other' 'ls /sys/kernel'; do
                $try >/dev/null 2>&1 && echo "can $try"
            done
            ls -A / | sort | tr '\n' ' '
            "#,
        )
        .await;
    let text = out.text();
    let mut lines = text.lines();
    assert_eq!((lines.next(), lines.next()), (Some("1000"), Some("1000")), "{text}");
    for capabilities in ["Inh", "Prm", "Eff", "Bnd", "Amb"] {
        assert_eq!(lines.next(), Some(&*format!("Cap{capabilities}:0000000000000000")), "{text}");
    }
    assert_eq!(lines.next(), Some("NoNewPrivs:1"), "{text}");
    let rest: Vec<&str> = lines.collect();
    assert_eq!(rest.len(), 1, "{rest:#?}");
    assert!(!rest[0].contains("srv") && !rest[0].contains("sys"), "{rest:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_belong_to_nobody_of_the_host_when_the_server_is_root() {
    let Some(world) = World::new().await else { return };
    let name = world.create(|_| {}).await;
    let out = world.sh(&name, "touch ~/mine /tmp/mine; stat -c '%U %a' ~/mine ~; cat ~/mine").await;
    assert_eq!(out.text(), "sandbox 644\nsandbox 700\n", "{out:?}");
    let file = world.dir.path().join("sandboxes").join(&name).join("home/mine");
    let me = fs::metadata(world.dir.path()).unwrap().uid();
    let owner = fs::metadata(file).unwrap().uid();
    assert!(if me == 0 { owner != 0 } else { owner == me }, "{owner}");
    let spec = world.dir.path().join("sandboxes").join(&name).join("sandbox.json");
    assert_eq!(fs::metadata(spec).unwrap().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_can_be_opened_again() {
    let Some(world) = World::new().await else { return };
    let name = world.create(|_| {}).await;
    let out = world.sh(&name, "echo out >/dev/stdout; echo err >/dev/stderr; echo fd >/proc/self/fd/1").await;
    assert_eq!((out.text().as_ref(), &*out.stderr), ("out\nfd\n", &b"err\n"[..]));
    let machine = world.fleet().machine(&format!("sandbox/{name}")).unwrap();
    let spec =
        CommandSpec::shell("echo tty >/dev/tty; echo err >/dev/stderr").with_io(Io::Pty(PtySize::default()));
    let out = machine.spawn(spec).await.unwrap().output().await.unwrap();
    assert_eq!(out.text(), "tty\r\nerr\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_sandbox_that_is_deleted() {
    let Some(world) = World::new().await else { return };
    let name = world.create(|_| {}).await;
    let machine = world.fleet().machine(&format!("sandbox/{name}")).unwrap();
    let script = "mkdir -p a/b/c; ln -s / a/b/host; chmod 0 a/b/c a/b a; trap '' TERM HUP; setsid sleep 1000 & echo up; \
        kill -STOP 1 2; wait";
    let command = machine.spawn(CommandSpec::shell(script)).await.unwrap();
    fleetcore_testkit::read_until(&mut command.stream(fleetcore::Offset(0)), "up").await;
    machine.delete(&cx(), true).await.unwrap();
    command.wait().await.unwrap();
    until("the end of its processes", || holders(&name) == 0).await;
    assert_eq!(fs::read_dir(world.dir.path().join("sandboxes")).unwrap().count(), 0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&name));
    assert_eq!(machine.executor(&cx()).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_kills_itself_comes_up_again() {
    let Some(world) = World::new().await else { return };
    let name = world.create(|_| {}).await;
    world.sh(&name, "echo kept >note; kill -9 -1; kill -9 1").await;
    let machine = world.fleet().machine(&format!("sandbox/{name}")).unwrap();
    // What comes while it goes down is refused.
    let again = eventually("it is up again", async || {
        let command = machine.spawn(CommandSpec::argv(["cat", "note"])).await.ok()?;
        let out = command.output().await.ok()?;
        out.status.success().then(|| out.text())
    });
    assert_eq!(again.await, "kept\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stays_within_its_limits() {
    let Some(world) = World::new().await else { return };
    let limit = |s: &mut MachineSpec| {
        s.options.insert("processes".into(), 40.into());
        s.memory_bytes = Some(256 << 20);
    };
    let name = world.create(limit).await;
    // As many sleeping children as there may be, from a program that goes on when there may be no more.
    let script = "i=0; while [ $i -lt 100 ]; do (sleep 1000 >/dev/null 2>&1 &); i=$((i+1)); done; ls -d /proc/[0-9]* | wc -l";
    let out = world.sh(&name, script).await;
    let count = out.text().lines().last().and_then(|l| l.trim().parse::<u32>().ok());
    assert!(count.is_none_or(|n| n <= 45), "{out:?}");
    let other = world.create(|_| {}).await;
    assert_eq!(world.sh(&other, "(true); (echo fine)").await.text(), "fine\n", "others are not affected");
    world.sandboxes.stop(&cx(), &id(&name), StopMode::Force).await.unwrap();
    world.sandboxes.start(&cx(), &id(&name)).await.unwrap();
    assert_eq!(world.sh(&name, "(echo fine)").await.text(), "fine\n");
    let greedy = world.sh(&name, "head -c 600000000 /dev/zero | tail -c 500000000 >/dev/null").await;
    assert!(!greedy.status.success(), "{greedy:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_names_are_refused_and_one_name_is_given_once() {
    let Some(world) = World::new().await else { return };
    let long = "x".repeat(300);
    for bad in ["--all", "../x", "x/../y", "", ".", "..", "böse", "a b", "a\nb", ".trash-1", &long] {
        let error = world.sandboxes.create(&cx(), spec(bad)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:?}");
    }
    let context = cx();
    let both = [0; 8].map(|_| world.sandboxes.create(&context, spec("same")));
    let both = futures::future::join_all(both).await;
    assert_eq!(both.iter().filter(|r| r.is_ok()).count(), 1);
    for refused in both.iter().filter_map(|r| r.as_ref().err()) {
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    }
    assert_eq!(world.sh("same", "echo up").await.text(), "up\n", "the losers take nothing away");
    assert_eq!(fs::read_dir(world.dir.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_a_root_file_system_of_its_own() {
    let Some(world) = World::new().await else { return };
    let image = world.dir.path().join("images/tiny");
    for program in ["/bin/sh", "/bin/ls"] {
        let libraries = std::process::Command::new("ldd").arg(program).output().unwrap();
        let libraries = String::from_utf8(libraries.stdout).unwrap();
        let files = libraries.split_whitespace().filter(|w| w.starts_with('/')).chain([program]);
        for file in files {
            let to = image.join(file.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(file, to).unwrap();
        }
    }
    fs::create_dir_all(image.join("etc")).unwrap();
    fs::write(image.join("etc/os-release"), "tiny\n").unwrap();
    fs::write(image.join("etc/passwd"), "").unwrap();
    let name = world.create(|s| s.image = Some("tiny".into())).await;
    let out = world.sh(&name, "ls /; read x </etc/os-release; echo $x; echo no >/etc/os-release").await;
    let text = out.text();
    assert!(text.ends_with("tiny\n") && !text.contains("usr\n") && !text.contains("opt\n"), "{text}");
    assert!(!out.status.success(), "it is read-only");
    let missing = world
        .sandboxes
        .create(&cx(), {
            let mut s = spec("m");
            s.image = Some("none".into());
            s
        })
        .await;
    let missing = missing.unwrap_err();
    assert_eq!((missing.kind(), missing.context_value("field")), (ErrorKind::NotFound, Some("image")));
    assert!(missing.context_value("hint").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_bubblewrap_it_says_what_to_install_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = SandboxConfig::new(dir.path().join("s")).with_bwrap("/no/such/bwrap");
    let sandboxes = Sandboxes::open(config).unwrap();
    let error = sandboxes.create(&cx(), spec("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.context_value("hint").unwrap().contains("bubblewrap"), "{error}");
    assert_eq!(fs::read_dir(dir.path().join("s")).unwrap().count(), 0);
}
