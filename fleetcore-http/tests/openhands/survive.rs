//! What it has to survive: commands that end or break their shell, clients that go away, archives that are traps.

use std::io::Write as _;

use fleetcore::backends::local::LocalConfig;
use fleetcore_testkit::until;
use serde_json::{Value, json};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::replay::Running;

const ROOT: [&str; 5] = ["--username", "root", "--user-id", "0", "--no-enable-browser"];

async fn start() -> Running {
    Running::start(&ROOT, &[("NO_CHANGE_TIMEOUT_SECONDS", "20")]).await
}

fn action(command: &str) -> Value {
    json!({ "action": "run", "args": { "command": command, "blocking": true }, "timeout": 100 })
}

/// Content and exit code of a command.
async fn run(running: &Running, command: &str) -> (String, i64) {
    let (status, body) = running.act(action(command)).await;
    assert_eq!((status, &body["observation"]), (200, &json!("run")), "{command:?}: {body}");
    let code = body["extras"]["metadata"]["exit_code"].as_i64().unwrap();
    (body["content"].as_str().unwrap().to_owned(), code)
}

/// The next command is answered as if nothing had been.
async fn is_well(running: &Running, after: &str) {
    let wide = "w".repeat(300);
    let (content, code) = run(running, &format!("echo one; echo {wide}; (exit 4)")).await;
    assert_eq!((content, code), (format!("one\n{wide}"), 4), "after {after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_that_is_ended_is_replaced() {
    let running = start().await;
    for (command, expected) in [
        ("exit", 0),
        ("exit 3", 3),
        ("exec true", 0),
        ("exec sh -c 'kill -9 $$'", 137),
        ("kill -9 $$", 137),
        ("kill -HUP $$", 129),
        ("trap 'exit 9' EXIT; exit 5", 9),
        ("set -e; false", 1),
        ("logout", 0),
        // Its prompt is drawn before it finds out; what comes next must not go with it.
        ("exec </dev/null", 0),
        ("exec </dev/null; echo x >/dev/null", 0),
    ] {
        let (content, code) = run(&running, command).await;
        // Not a login shell: that one says so and lives.
        assert!(code == expected || command == "logout", "{command}: {code} {content}");
        is_well(&running, command).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_shell_or_terminal_does_not_reach_the_next_action() {
    let running = start().await;
    for command in [
        "stty cols 20 rows 4",
        r"printf '\033c'",
        r"printf '\033[?1049h\033[?1000h\033[?2004h\033[?25l'",
        r"printf '\033[4h\033[?7l\033[20l\033[5;10r'",
        r"printf '\033(0\016\033#8'",
        r"printf '\033P unfinished'",
        r"printf '\033]0;unfinished'",
        r"printf '\033[8;2;10t'",
        "tput reset 2>/dev/null; true",
        "set -o vi",
        "bind 'set editing-mode vi'",
        "PS1='$(echo x)'; PS2=y; PS0=z; PROMPT_COMMAND='echo p'",
        "unset PS1",
        "unset PROMPT_COMMAND",
        "trap '' INT TERM HUP QUIT",
        "set -u; set -o pipefail; shopt -s extglob failglob",
        "set -x; set +x",
        "exec 7</dev/null 8>/dev/null 9>&1",
        "alias echo='echo '; unalias echo",
        "IFS=e; umask 777; umask 022; unset IFS",
        "true() { false; }; unset -f true",
        "cd /; cd - >/dev/null",
        "TERM=nonsense; COLUMNS=5; LINES=1",
        "ulimit -n 32",
    ] {
        run(&running, command).await;
        is_well(&running, command).await;
    }
    // Modes of the terminal stay as a command leaves them, as in the original; commands are read and run all the same.
    for command in ["stty raw -echo", "stty -icanon -icrnl -opost; stty -isig", "stty -onlcr -ixon"] {
        assert_eq!(run(&running, command).await.1, 0, "{command}");
        let (content, code) = run(&running, "echo still; (exit 6)").await;
        assert_eq!((content.trim(), code), ("still", 6), "after {command}");
        run(&running, "stty sane").await;
        is_well(&running, command).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_output_is_answered() {
    let running = start().await;
    for command in [
        "head -c 1000000 /dev/urandom",
        "cat /bin/sh",
        r"printf 'a\000b\377\376\n'",
        r"for i in $(seq 1 255); do printf \\$(printf %03o $i); done",
        "head -c 300000 /dev/zero",
        r"printf '\033]52;c;AAAA\007\033[6n\033[c\033[>q\033P$qm\033\\'",
    ] {
        let (content, code) = run(&running, command).await;
        assert!(code == 0 && content.chars().count() <= 31_000, "{command}: {code} {}", content.len());
        is_well(&running, command).await;
    }
    running.stop().await;
}

/// Ids of all processes of a user.
fn processes_of(uid: u32) -> usize {
    let owned = |entry: &std::fs::DirEntry| {
        use std::os::unix::fs::MetadataExt as _;
        entry.file_name().to_str().is_some_and(|n| n.parse::<u32>().is_ok())
            && entry.metadata().is_ok_and(|m| m.uid() == uid)
            && !std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default().contains(") Z ")
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(owned).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_bomb_within_limits_holds_nobody_up_and_ends_with_the_runtime() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: limits of a user's processes take another user than the one of the test");
        return;
    }
    // Nobody else has this id.
    let uid = 60_000 + std::process::id() % 5_000;
    let running = start().await;
    let bomb = format!(
        "setpriv --reuid {uid} --regid {uid} --clear-groups -- bash -c \
         'ulimit -u 60; bomb() {{ bomb | bomb & }}; bomb 2>/dev/null; sleep 1000' >/dev/null 2>&1 &"
    );
    run(&running, &bomb).await;
    until("it explodes", || processes_of(uid) >= 30).await;
    for _ in 0..5 {
        assert_eq!(running.http.get(format!("{}/alive", running.url)).send().await.unwrap().status(), 200);
        is_well(&running, "bomb").await;
    }
    running.stop().await;
    until("none of its processes is left", || processes_of(uid) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_outlives_its_client_and_its_result_can_be_fetched() {
    let running = start().await;
    let work = running.work.clone();
    let command = format!("echo x >> {work}/times; while [ ! -e {work}/go ]; do sleep 0.02; done; echo done");
    let mut wanted = action(&command);
    wanted["id"] = json!(17);
    let body = json!({ "action": wanted });
    let send = || running.http.post(format!("{}/execute_action", running.url)).json(&body);
    let times = || std::fs::read_to_string(format!("{work}/times")).unwrap_or_default();
    // A client whose connection breaks while the command runs.
    let first = tokio::spawn(send().send());
    until("the command runs", || !times().is_empty()).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    // It comes again, and gets the answer of the first one.
    let again = tokio::spawn(send().send());
    assert_eq!(running.http.get(format!("{}/alive", running.url)).send().await.unwrap().status(), 200);
    std::fs::write(format!("{work}/go"), "").unwrap();
    let answer: Value = again.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!((answer["content"].as_str(), times().as_str()), (Some("done"), "x\n"), "{answer}");
    // One that does not say who it is goes on too; what comes next waits for it.
    std::fs::remove_file(format!("{work}/go")).unwrap();
    let nameless = tokio::spawn(
        running
            .http
            .post(format!("{}/execute_action", running.url))
            .json(&json!({ "action": action(&command) }))
            .send(),
    );
    until("the command runs again", || times() == "x\nx\n").await;
    nameless.abort();
    let go = format!("{work}/go");
    let next = action("echo next");
    let ((status, body), ()) = tokio::join!(running.act(next), async { std::fs::write(go, "").unwrap() });
    assert_eq!((status, body["content"].as_str()), (200, Some("next")), "{body}");
    running.stop().await;
}

async fn upload(running: &Running, to: &str, archive: Vec<u8>) -> (u16, String) {
    let mut body =
        b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.zip\"\r\n\r\n".to_vec();
    body.extend(archive);
    body.extend(b"\r\n--b--\r\n");
    let response = running
        .http
        .post(format!("{}/upload_file", running.url))
        .query(&[("destination", to), ("recursive", "true")])
        .header("content-type", "multipart/form-data; boundary=b")
        .body(body);
    let response = response.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

fn archive(write: impl FnOnce(&mut ZipWriter<std::io::Cursor<Vec<u8>>>)) -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    write(&mut zip);
    zip.finish().unwrap().into_inner()
}

fn stored() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Stored)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_stay_where_they_are_unpacked() {
    let running = start().await;
    let to = format!("{}/in/deep", running.work);
    std::fs::create_dir_all(&to).unwrap();
    let outside = running.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, format!("{to}/there")).unwrap();
    let target = outside.display().to_string();
    let trap = archive(|zip| {
        for name in ["../up", "../../up2", "a/../../../up3", "/abs", "ok/file", "./dot"] {
            zip.start_file(name, stored()).unwrap();
            zip.write_all(b"x").unwrap();
        }
        // A link to elsewhere, and a file through it.
        zip.add_symlink("link", &target, stored()).unwrap();
        zip.start_file("link/through", stored()).unwrap();
        zip.write_all(b"x").unwrap();
    });
    let (status, said) = upload(&running, &to, trap).await;
    // The link is a file, through which nothing can be written.
    assert!(status == 500 && said.contains("Not a directory"), "{status} {said}");
    assert!(std::fs::symlink_metadata(format!("{to}/link")).unwrap().is_file());
    for escaped in ["in/up", "up2", "../up3", "in/deep/abs"] {
        assert!(!std::path::Path::new(&running.work).join(escaped).exists(), "{escaped}");
    }
    assert!(!std::path::Path::new("/abs").exists());
    // A link that was there before leads nobody out.
    let through = archive(|zip| {
        zip.start_file("there/file", stored()).unwrap();
        zip.write_all(b"x").unwrap();
    });
    let (status, said) = upload(&running, &to, through).await;
    let left: Vec<_> = std::fs::read_dir(&outside).unwrap().collect();
    assert!(left.is_empty(), "{status} {said} {left:?}");
    is_well(&running, "archives").await;
    running.stop().await;
}

/// The value of a field in every record of a kind, found by its signature.
fn patch(archive: &mut [u8], signature: &[u8; 4], at: usize, value: &[u8]) {
    let mut from = 0;
    while let Some(found) = archive[from..].windows(4).position(|w| w == signature) {
        let field = from + found + at;
        archive[field..field + value.len()].copy_from_slice(value);
        from = field;
    }
}

const LOCAL: &[u8; 4] = b"PK\x03\x04";
const CENTRAL: &[u8; 4] = b"PK\x01\x02";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_become_files_and_bombs_are_refused() {
    let running = start().await;
    let to = format!("{}/z", running.work);
    let one = |name: &str| {
        archive(|zip| {
            zip.start_file(name, SimpleFileOptions::default()).unwrap();
            zip.write_all(&[0; 100_000]).unwrap();
        })
    };
    // Device, socket and pipe by their modes, in the upper half of the external attributes.
    for (kind, name) in
        [(0o020_666_u32, "char"), (0o060_666, "block"), (0o010_666, "pipe"), (0o140_666, "socket")]
    {
        let mut device = one(name);
        patch(&mut device, CENTRAL, 5, &[3]);
        patch(&mut device, CENTRAL, 38, &(kind << 16).to_le_bytes());
        let (status, said) = upload(&running, &to, device).await;
        let is = std::fs::symlink_metadata(format!("{to}/{name}"));
        assert!(status != 200 || is.as_ref().is_ok_and(|m| m.is_file()), "{name}: {status} {said} {is:?}");
    }
    // It says it is a terabyte.
    let mut large = one("large");
    patch(&mut large, LOCAL, 22, &[0xfe, 0xff, 0xff, 0xff]);
    patch(&mut large, CENTRAL, 24, &[0xfe, 0xff, 0xff, 0xff]);
    let (status, said) = upload(&running, &to, large).await;
    assert!(status == 500 && said.contains("too much"), "{status} {said}");
    // It says it is small, and is not.
    let mut liar = one("liar");
    patch(&mut liar, LOCAL, 22, &10_u32.to_le_bytes());
    patch(&mut liar, CENTRAL, 24, &10_u32.to_le_bytes());
    let (status, said) = upload(&running, &to, liar).await;
    assert_eq!(status, 500, "{said}");
    assert!(std::fs::metadata(format!("{to}/liar")).map_or(0, |m| m.len()) <= 100_000);
    // Many of them in one.
    let many = archive(|zip| {
        zip.start_file("many", SimpleFileOptions::default()).unwrap();
        zip.write_all(&[0; 1_000]).unwrap();
        for i in 0..30 {
            zip.start_file(format!("many{i}"), SimpleFileOptions::default()).unwrap();
            zip.write_all(&[0; 1_000]).unwrap();
        }
    });
    let mut many = many;
    patch(&mut many, LOCAL, 22, &(1_u32 << 30).to_le_bytes());
    patch(&mut many, CENTRAL, 24, &(1_u32 << 30).to_le_bytes());
    let (status, said) = upload(&running, &to, many).await;
    assert_eq!(status, 500, "{said}");
    assert_eq!(upload(&running, &to, b"PK\x03\x04 and no more".to_vec()).await.0, 500);
    assert_eq!(upload(&running, &to, one("good")).await.0, 200);
    assert_eq!(std::fs::read(format!("{to}/good")).unwrap().len(), 100_000);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_path_leaves_a_root() {
    let running =
        Running::start_on(&ROOT, &[], |work| LocalConfig::default().with_file_root(work).with_home("/"))
            .await;
    let outside = running.dir.path().join("secret");
    std::fs::write(&outside, "secret\n").unwrap();
    let (work, outside) = (running.work.clone(), outside.display().to_string());
    std::os::unix::fs::symlink(&outside, format!("{work}/link")).unwrap();
    std::os::unix::fs::symlink(running.dir.path(), format!("{work}/dir")).unwrap();
    std::fs::write(format!("{work}/inside"), "inside\n").unwrap();
    let (status, body) = running.act(json!({ "action": "read", "args": { "path": "inside" } })).await;
    assert_eq!((status, body["content"].as_str()), (200, Some("inside\n")), "{body}");
    for path in
        [outside.clone(), "../secret".into(), "link".into(), "dir/secret".into(), format!("{work}/../secret")]
    {
        let absolute = if path.starts_with('/') { path.clone() } else { format!("{work}/{path}") };
        for action in [
            json!({ "action": "read", "args": { "path": path } }),
            json!({ "action": "read", "args": { "path": absolute, "impl_source": "oh_aci" } }),
            json!({ "action": "write", "args": { "path": path, "content": "no" } }),
            json!({ "action": "edit", "args": { "path": absolute, "command": "view" } }),
            json!({ "action": "edit", "args":
                { "path": absolute, "command": "str_replace", "old_str": "secret", "new_str": "no" } }),
        ] {
            let (status, body) = running.act(action.clone()).await;
            assert!(
                !body["content"].as_str().unwrap_or_default().contains("secret\n"),
                "{action}: {status} {body}"
            );
            assert_eq!(std::fs::read_to_string(&outside).unwrap(), "secret\n", "{action}: {body}");
        }
    }
    let top = running.dir.path().display().to_string();
    for path in [top.clone(), format!("{work}/.."), format!("{work}/dir")] {
        let url = format!("{}/download_files", running.url);
        let response = running.http.get(url).query(&[("path", &path)]).send().await.unwrap();
        let bytes = response.bytes().await.unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"secret"), "{path}");
        let url = format!("{}/list_files", running.url);
        let list = running.http.post(url).json(&json!({ "path": path })).send().await.unwrap();
        assert!(!list.text().await.unwrap().contains("secret"), "{path}");
        let good = archive(|zip| {
            zip.start_file("planted", stored()).unwrap();
            zip.write_all(b"x").unwrap();
        });
        upload(&running, &path, good).await;
        assert!(!std::path::Path::new(&top).join("planted").exists(), "{path}");
    }
    running.stop().await;
}
