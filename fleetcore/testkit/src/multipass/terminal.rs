//! The spinner, and terminals.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _, Write as _},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use super::state::{pass, release};

/// Writes to standard output at once.
pub(super) fn put(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Clears the line, as this release does it.
pub(super) fn clear() {
    if release() >= (1, 12) {
        put("\x1b[2K\x1b[0A\x1b[0E");
    } else {
        put(&format!("\r{}\r", " ".repeat(80)));
    }
}

/// Turns the spinner behind `message` until `done`.
pub(super) fn spin(message: &str, mut done: impl FnMut() -> bool) {
    clear();
    put(&format!("{message}  "));
    for frame in ["|", "/", "-", "\\"].iter().cycle() {
        if done() {
            break;
        }
        put(&format!("\x08{frame}"));
        pass(Duration::from_millis(5));
    }
    put("\x08 ");
    clear();
}

/// Turns it for so long.
pub(super) fn spin_for(message: &str, time: Duration) {
    let until = Instant::now() + time;
    spin(message, || Instant::now() >= until);
}

/// Whether a guest's program gets a terminal: both ends of ours must be one.
pub(super) fn both_ends() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Runs a guest's program on a terminal of its own, with ours in raw mode.
pub(super) fn relay(command: std::process::Command) -> io::Result<std::process::ExitStatus> {
    use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};
    let other = |e: pty_process::Error| io::Error::other(e.to_string());
    let (stdin, stdout) =
        (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
    let (pty, pts) = pty_process::blocking::open().map_err(other)?;
    let size = tcgetwinsize(&stdin)?;
    pty.resize(pty_process::Size::new(size.ws_row, size.ws_col)).map_err(other)?;
    let before = tcgetattr(&stdin)?;
    let mut raw = before.clone();
    raw.make_raw();
    tcsetattr(&stdin, OptionalActions::Now, &raw)?;
    let mut child = pty_process::blocking::Command::from(command).spawn(pts).map_err(other)?;
    let mut to_guest = File::from(pty.as_fd().try_clone_to_owned()?);
    let mut from_user = File::from(stdin.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut from_user, &mut to_guest);
    });
    // The client polls for changes of size too, in the loop that moves bytes.
    let sizes = pty.as_fd().try_clone_to_owned()?;
    let watched = stdin.try_clone()?;
    std::thread::spawn(move || {
        let mut last = (size.ws_row, size.ws_col);
        while let Ok(now) = tcgetwinsize(&watched) {
            if (now.ws_row, now.ws_col) != last {
                last = (now.ws_row, now.ws_col);
                let _ = rustix::termios::tcsetwinsize(&sizes, now);
            }
            pass(Duration::from_millis(20));
        }
    });
    let mut from_guest = File::from(pty.as_fd().try_clone_to_owned()?);
    let mut to_user = File::from(stdout);
    let mut buffer = vec![0; 64 << 10];
    // It ends with an error when the last process has closed the terminal.
    while let Ok(n) = from_guest.read(&mut buffer) {
        if n == 0 || to_user.write_all(buffer.get(..n).unwrap_or_default()).is_err() {
            break;
        }
    }
    let status = child.wait();
    tcsetattr(&stdin, OptionalActions::Now, &before)?;
    status
}
