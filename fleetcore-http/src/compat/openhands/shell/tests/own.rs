//! What the recordings do not show.

use std::time::{Duration, Instant};

use fleetcore::{CommandEvent, Offset};
use futures::StreamExt as _;
use serde_json::Value;

use super::{RunArgs, Shell, open, run, settled};

/// Short: what is waited for here is silence.
const SOFT: Duration = Duration::from_secs(1);
/// For commands that must end.
const PATIENT: f64 = 120.0;

struct Home {
    shell: Shell,
    dir: tempfile::TempDir,
}

async fn home() -> Home {
    let dir = tempfile::tempdir().unwrap();
    let shell = open(&dir.path().canonicalize().unwrap(), SOFT).await;
    Home { shell, dir }
}

fn args(command: &str) -> RunArgs {
    RunArgs { command: command.into(), blocking: true, ..RunArgs::default() }
}

fn input(text: &str) -> RunArgs {
    RunArgs { command: text.into(), is_input: true, ..RunArgs::default() }
}

fn code(answer: &Value) -> i64 {
    answer["extras"]["metadata"]["exit_code"].as_i64().unwrap_or_else(|| panic!("{answer}"))
}

fn field<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer["extras"]["metadata"][name].as_str().unwrap_or_else(|| panic!("{name} of {answer}"))
}

impl Home {
    fn path(&self) -> String {
        self.dir.path().canonicalize().unwrap().to_str().unwrap().to_owned()
    }

    /// Content and exit code of a command that ends.
    async fn ends(&self, command: &str) -> (String, i64) {
        let answer = run(&self.shell, &args(command), Some(PATIENT)).await;
        assert_eq!(answer["observation"], "run", "{command:?}: {answer}");
        (answer["content"].as_str().unwrap().to_owned(), code(&answer))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_that_ends_is_replaced_where_it_was() {
    let home = home().await;
    let sub = home.dir.path().canonicalize().unwrap().join("sub dir");
    assert_eq!(home.ends("mkdir 'sub dir'; cd 'sub dir'; gone=1").await.1, 0);
    for (end, expect) in
        [("exit 7", 7), ("kill -9 $$", 137), ("exec sh -c 'exit 5'", 5), ("set -e; false", 1)]
    {
        let answer = run(&home.shell, &args(end), Some(PATIENT)).await;
        assert_eq!(
            (code(&answer), field(&answer, "working_dir")),
            (expect, sub.to_str().unwrap()),
            "{end}: {answer}"
        );
        assert_eq!(field(&answer, "suffix"), format!("\n[The command completed with exit code {expect}.]"));
        assert_eq!(
            home.ends("pwd; echo \"[$gone]\"; alias git | wc -l").await,
            (format!("{}\n[]\n1", sub.display()), 0)
        );
    }
    let answer = run(&home.shell, &args("C-d"), None).await;
    assert_eq!((code(&answer), &answer["content"]), (0, &"exit".into()), "{answer}");
    // The directory may be gone by then.
    assert_eq!(home.ends("rmdir \"$PWD\"; exit 1").await.1, 1);
    assert_eq!(home.ends("pwd").await.0, home.dir.path().canonicalize().unwrap().display().to_string());
    assert_eq!(home.shell.cwd(), home.path());
    home.shell.close().await;
    assert_eq!(run(&home.shell, &args("echo no"), None).await["observation"], "error");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_as_they_are_written() {
    let home = home().await;
    for (command, expect) in [
        ("printf '%s|' a\\;b \\& \\> '\t' Up", "a;b|&|>|        |Up|"),
        ("printf '\u{1}\u{1b}[31m\\\\' | od -An -tx1", "01 1b 5b 33 31 6d 5c"),
        ("echo \"it's $((1+1)) 'q' !x !!\"", "it's 2 'q' !x !!"),
        ("echo a\r\n", "a"),
        ("echo é 日本 🎉", "é 日本 🎉"),
    ] {
        assert_eq!(home.ends(command).await, (expect.into(), 0), "{command:?}");
    }
    let body: String = (0..25_000).map(|n| format!("line {n}\t$x `y` \\z \\\\ 'é'\n")).collect();
    assert!(body.len() > 600_000);
    assert_eq!(home.ends(&format!("cat > big.txt <<'EOF'\n{body}EOF")).await, (String::new(), 0));
    assert!(std::fs::read_to_string(home.dir.path().join("big.txt")).unwrap() == body);
    let long = format!("echo {} | wc -c", "x".repeat(1_000_000));
    assert_eq!(home.ends(&long).await, ("1000001".into(), 0));
    assert_eq!(home.ends("false; echo $?").await.0, "1");
    let answer = run(&home.shell, &args(&"x".repeat(2 << 20)), None).await;
    assert_eq!(answer["observation"], "error", "{answer}");
    assert_eq!(home.ends("echo ok").await, ("ok".into(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_program_prints_is_shown() {
    let home = home().await;
    for (command, expect) in [
        (r"printf 'a\xff\xfeb\x00\n'", "ab"),
        (r"printf 'one\ntwo\n\033[2A\033[2K1\n\033[2K2\n'", "1\n2"),
        (r"printf '\033[?1049h\033[Hfull screen'; printf '\033[?1049l'; echo after", "after"),
        (r"stty raw -echo; printf 'raw\n'; echo x; stty sane", "raw\n   x"),
        ("stty size; echo ok", "1000 1000\nok"),
        (r"printf '\033]0;title\007\033P1\033\\x\n'", "x"),
        (r"printf '\033]133;D;7;k=0;/etc\007y\n'", "y"),
        ("echo '###PS1JSON###'; echo '###PS1END###'", "###PS1JSON###\n###PS1END###"),
        ("head -c 100000 /dev/urandom | tail -c 0; tput clear; echo left", "left"),
    ] {
        let (content, status) = home.ends(command).await;
        assert_eq!((content.as_str(), status), (expect, 0), "{command:?}");
    }
    assert_eq!(home.ends("head -c 300000 /dev/urandom").await.1, 0);
    // A program that leaves the terminal broken.
    assert_eq!(home.ends(r"stty -icanon -echo -icrnl; printf '\033(0\033[?25l\033[5;10r'; false").await.1, 1);
    assert_eq!(home.ends("echo fine; pwd").await.0.lines().next(), Some("fine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_answered_in_bounded_memory() {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let home = home().await;
    let before = resident();
    let (content, status) =
        home.ends("echo first; yes 'a line of a flood' | head -c 300M; echo; echo last").await;
    assert_eq!((status, content.lines().last()), (0, Some("last")));
    assert!(content.contains("[... Observation truncated due to length ...]") && content.len() < 40_000);
    let after = resident();
    assert!(after < before + (512 << 20), "{before} {after}");
    assert_eq!(home.ends("echo next").await, ("next".into(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_actions_leave_nothing_open() {
    let home = home().await;
    let shell_fds = || async { home.ends("ls /proc/$$/fd | wc -l; jobs -p | wc -l").await.0 };
    let before = shell_fds().await;
    let mut fast = Vec::new();
    for n in 0..2000 {
        let began = Instant::now();
        let (content, status) = home.ends(&format!("echo {n}; (exit {})", n % 100)).await;
        fast.push(began.elapsed());
        assert_eq!((content, status), (n.to_string(), n % 100));
    }
    assert_eq!(shell_fds().await, before);
    fast.sort();
    eprintln!("an action: p50 {:?}, p99 {:?}", fast[fast.len() / 2], fast[fast.len() * 99 / 100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_twice_and_nothing_is_lost() {
    let home = home().await;
    let wait = |command: &str| RunArgs { command: command.into(), ..RunArgs::default() };
    let one = run(&home.shell, &wait("echo one; read a; echo two $a; read b; echo three"), None).await;
    assert_eq!((one["content"].as_str().unwrap(), code(&one), field(&one, "prefix")), ("one", -1, ""));
    assert!(
        field(&one, "suffix").starts_with("\n[The command has no new output after 1 seconds. You may wait")
    );
    // A caller who goes away leaves the command running.
    drop(tokio::time::timeout(Duration::from_millis(50), home.shell.run(&wait(""), None)).await);
    let refused = run(&home.shell, &wait("ls"), None).await;
    assert_eq!((refused["content"].as_str().unwrap(), code(&refused)), ("", -1));
    let two = run(&home.shell, &input("Enter"), None).await;
    assert_eq!(two["content"], "two");
    assert_eq!(field(&two, "prefix"), "[Below is the output of the previous command.]\n");
    let three = run(&home.shell, &input("x"), None).await;
    assert_eq!((three["content"].as_str().unwrap(), code(&three), field(&three, "prefix")), ("three", 0, ""));
    // Input for a program that has just ended is not a command.
    let running = run(&home.shell, &wait("sleep 1.3; echo late"), None).await;
    assert_eq!(code(&running), -1);
    settled(&home.shell).await;
    let late = run(&home.shell, &input("touch typed"), None).await;
    assert_eq!((late["content"].as_str().unwrap(), code(&late)), ("late", 0));
    assert!(!home.dir.path().join("typed").exists());
    // A progress bar is repeated, as what was seen has changed.
    let bar = run(&home.shell, &wait("printf '10%%'; read x; printf '\\r100%%\\n'"), None).await;
    assert_eq!(bar["content"], "10%");
    let done = run(&home.shell, &input("Enter"), None).await;
    assert!(done["content"].as_str().unwrap().contains("100%"), "{done}");
    // A key that no keyboard has is text.
    let cat = run(&home.shell, &wait("read k; echo \"<$k>\""), None).await;
    assert_eq!(code(&cat), -1);
    let key = run(&home.shell, &input("C-1"), None).await;
    assert_eq!(key["content"], "<C-1>");
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_are_told_with_every_command() {
    let home = home().await;
    let bin = home.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let program = bin.join("python");
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("set -u; PATH={}:$PATH; sleep 300 & disown", bin.display());
    let answer = run(&home.shell, &args(&path), Some(PATIENT)).await;
    assert_eq!(field(&answer, "py_interpreter_path"), program.to_str().unwrap(), "{answer}");
    assert!(
        answer["extras"]["metadata"]["pid"].as_i64().unwrap() > 1 && !field(&answer, "username").is_empty()
    );
    let host = home.ends("hostname -s 2>/dev/null || uname -n").await.0;
    assert_eq!(field(&answer, "hostname"), host.split('.').next().unwrap());
    std::fs::remove_file(&program).unwrap();
    let answer = run(&home.shell, &args("PATH=/nowhere"), Some(PATIENT)).await;
    assert_eq!(field(&answer, "py_interpreter_path"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn static_commands_have_a_shell_of_their_own() {
    let home = home().await;
    let sleep = RunArgs { command: "sleep 1000".into(), ..RunArgs::default() };
    assert_eq!(code(&run(&home.shell, &sleep, None).await), -1);
    let fixed = |command: &str, cwd: Option<&str>| RunArgs {
        is_static: true,
        cwd: cwd.map(str::to_owned),
        ..args(command)
    };
    let answer = run(&home.shell, &fixed("pwd; cd /", Some("/tmp")), Some(PATIENT)).await;
    assert_eq!((answer["content"].as_str().unwrap(), field(&answer, "working_dir")), ("/tmp", "/"));
    let answer = run(&home.shell, &fixed("pwd", Some("/no/such/dir")), Some(PATIENT)).await;
    assert_eq!(answer["content"], std::env::var("HOME").unwrap(), "the home of whoever runs this");
    assert_eq!(run(&home.shell, &fixed("", None), None).await["extras"]["metadata"]["exit_code"], -1);
    // One that is late is killed.
    let late = run(&home.shell, &fixed("echo $$; exec sleep 1000", None), Some(0.5)).await;
    let pid = late["content"].as_str().unwrap().to_owned();
    assert!(field(&late, "suffix").contains("timed out after 0.5 seconds") && !pid.is_empty(), "{late}");
    let gone = format!("while [ -d /proc/{pid} ]; do sleep 0.05; done; echo gone");
    assert_eq!(run(&home.shell, &fixed(&gone, None), Some(PATIENT)).await["content"], "gone");
    assert_eq!(code(&run(&home.shell, &input("C-c"), None).await), 130);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_can_be_followed_as_it_comes() {
    let home = home().await;
    let mut feed = home.shell.feed(Offset(0)).await.unwrap();
    let wanted = args("echo early; read x; echo done");
    let answer = home.shell.run(&wanted, None);
    let follow = async {
        let mut seen = String::new();
        while !seen.contains("early\r\n") {
            if let CommandEvent::Output(chunk) = feed.next().await.unwrap().unwrap() {
                seen.push_str(&String::from_utf8_lossy(&chunk.data));
            }
        }
        // It runs on; only closing ends it.
        home.shell.close().await;
    };
    let (answer, ()) = tokio::join!(answer, follow);
    let answer = serde_json::to_value(answer).unwrap();
    assert_eq!(answer["content"].as_str().unwrap().lines().next(), Some("early"));
    assert_ne!(code(&answer), 0);
}
