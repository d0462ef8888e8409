//! Programs on guests.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd as _,
    process::{Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, getpid, kill_process};

use super::{
    cli::Call,
    state::{Store, pass, release, scaled},
    terminal, verbs,
};

/// What the client's library loses: everything behind this.
const STDIN_MAX_BYTES: usize = 2 << 20;

/// Set in everything that runs on a guest.
const MARK: &str = "FAKE_MULTIPASS_GUEST";

fn mark(store: &Store, name: &str) -> String {
    format!("{}:{name}", store.path("").display())
}

/// A word as the client escapes it for the guest's shell.
fn escape(word: &str) -> String {
    if word.is_empty() {
        return "''".to_owned();
    }
    let mut out = String::with_capacity(word.len() * 2);
    for c in word.chars() {
        match c {
            '\n' => out.push_str("'\n'"),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() && !"_-./=:@%+,".contains(c) => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// `exec` and `shell`.
pub(super) fn run(call: &Call) -> u8 {
    let line = &call.line;
    let Some((name, words)) = line.words.split_first() else {
        eprintln!("no name: the stand-in launches no primary");
        return 2;
    };
    let is_shell = line.command == "shell";
    if let Err(status) = up(call, name) {
        return status;
    }
    pass(scaled(160));
    let mut text = words.iter().map(|w| escape(w)).collect::<Vec<_>>().join(" ");
    if let Some(dir) = line.get("working-directory") {
        text = format!("cd {} && {text}", escape(dir));
    }
    loop {
        let command = command(&call.store, name, (!is_shell).then_some(text.as_str()));
        let ended = if terminal::both_ends() { terminal::relay(command) } else { on_pipes(command) };
        let status = match ended {
            Ok(status) => code(status),
            Err(e) => {
                eprintln!("{} failed: ssh connection failed: '{e}'", line.command);
                return if release() >= (1, 17) { 255 } else { 2 };
            }
        };
        if is_shell && release() <= (1, 16) {
            return 0;
        }
        // The client takes it for its own wish to try again, for ever.
        if status == 4 && ((1, 9)..=(1, 16)).contains(&release()) {
            continue;
        }
        return status;
    }
}

fn code(status: ExitStatus) -> u8 {
    status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(255)
}

/// The guest is up, or is started first.
fn up(call: &Call, name: &str) -> Result<(), u8> {
    let state = call.store.turn().load();
    let state = state.instances.get(name).map(|i| i.state.clone());
    match state.as_deref() {
        None => Err(call.failed(format_args!("instance \"{name}\" does not exist"))),
        Some("Deleted") => Err(call.failed(format_args!("instance \"{name}\" is deleted"))),
        Some("Unknown") => Err(call.failed("Cannot retrieve credentials in unknown state")),
        Some("Running" | "Delayed Shutdown") => Ok(()),
        Some(_) if release() < (1, 9) => Err(call.failed(format_args!("instance \"{name}\" is not running"))),
        Some(_) => match verbs::start(call, &[name.to_owned()]) {
            0 => Ok(()),
            status => Err(status),
        },
    }
}

/// The guest's shell with a line to run, or to log in. In a session of its own, and with nothing of our environment.
fn command(store: &Store, name: &str, line: Option<&str>) -> Command {
    let home = store.home(name);
    let mut command = if terminal::both_ends() { Command::new("bash") } else { Command::new("setsid") };
    if !terminal::both_ends() {
        command.arg("bash");
    }
    match line {
        Some(line) => command.args(["-c", line]),
        None => command.arg("-l"),
    };
    command.env_clear().current_dir(&home);
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", store.path("guest-bin").display());
    command.env("PATH", path).env("HOME", &home).env("USER", "ubuntu").env("LOGNAME", "ubuntu");
    command.env("SHELL", "/bin/bash").env(MARK, mark(store, name));
    if terminal::both_ends() {
        command.env("TERM", std::env::var_os("TERM").unwrap_or_else(|| "xterm".into()));
    }
    command
}

fn on_pipes(mut command: Command) -> io::Result<ExitStatus> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let own = |fd: io::Result<std::os::fd::OwnedFd>| fd.map(File::from);
    let from_user = own(io::stdin().as_fd().try_clone_to_owned())?;
    let to_user = own(io::stdout().as_fd().try_clone_to_owned())?;
    let complaints = own(io::stderr().as_fd().try_clone_to_owned())?;
    if let Some(to_guest) = child.stdin.take() {
        std::thread::spawn(move || copy(from_user, to_guest, STDIN_MAX_BYTES));
    }
    let outputs = [
        child.stdout.take().map(|from| std::thread::spawn(move || copy(from, to_user, usize::MAX))),
        child.stderr.take().map(|from| std::thread::spawn(move || copy(from, complaints, usize::MAX))),
    ];
    // Like the client, it returns when the guest closes the channel, not when the program ends.
    for output in outputs.into_iter().flatten() {
        let _ = output.join();
    }
    child.wait()
}

fn copy(mut from: impl Read, mut to: impl Write, most: usize) {
    let mut buffer = vec![0; 64 << 10];
    let mut left = most;
    while left > 0 {
        let size = buffer.len().min(left);
        let Ok(n @ 1..) = from.read(buffer.get_mut(..size).unwrap_or_default()) else { return };
        if to.write_all(buffer.get(..n).unwrap_or_default()).is_err() {
            return;
        }
        left -= n;
    }
}

/// Ends all that runs on a guest: its power is off.
pub(super) fn power_off(store: &Store, name: &str) {
    let wanted = format!("{MARK}={}", mark(store, name));
    kill_where(&|variable| variable == wanted.as_bytes());
}

/// Ends all that works on a state: clients, what goes on without them, and what runs on guests.
pub(super) fn end_all(state: &std::path::Path) {
    let state = state.display();
    let marks = [format!("FAKE_MULTIPASS_STATE={state}"), format!("{MARK}={state}")];
    kill_where(&|variable| marks.iter().any(|m| variable.starts_with(m.as_bytes())));
}

/// Kills every process that has such a variable, until there is none.
fn kill_where(wanted: &dyn Fn(&[u8]) -> bool) {
    loop {
        let mut found = false;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw)
            else {
                continue;
            };
            let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if pid != getpid() && environ.split(|b| *b == 0).any(wanted) {
                found |= kill_process(pid, Signal::KILL).is_ok();
            }
        }
        if !found {
            return;
        }
        pass(std::time::Duration::from_millis(2));
    }
}

/// From now on SIGTERM is not heard.
pub(super) fn block_sigterm() {
    let mut set = nix::sys::signal::SigSet::empty();
    set.add(nix::sys::signal::Signal::SIGTERM);
    let _ = set.thread_block();
}

pub(super) fn kill_self() {
    let _ = kill_process(getpid(), Signal::KILL);
}
