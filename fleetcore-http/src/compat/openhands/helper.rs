//! Programs that run beside the shell: kernels, editors, tool servers. Each has a process group of its own, which ends
//! when it is dropped: nothing is left behind (DEFECT 15).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::user::User;

/// How long a helper has to end when it is asked to.
const GRACE: Duration = Duration::from_secs(2);
/// Longest line of a log.
const LINE: u64 = 4096;
/// Last lines that are kept for those who ask why it ended.
const LAST: usize = 20;

/// What to run.
#[derive(Clone, Debug)]
pub(super) struct Start {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    /// All of its environment.
    pub(super) env: BTreeMap<String, String>,
    pub(super) dir: PathBuf,
    /// Somebody else, which only root can start things as.
    pub(super) user: Option<User>,
}

/// What its standard output is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Text for people.
    Log,
    /// A protocol, spoken with whoever takes both ends.
    Protocol,
}

/// One that runs.
#[derive(Debug)]
pub(super) struct Helper {
    name: String,
    child: Child,
    group: Option<Pid>,
    last: Arc<Mutex<Vec<String>>>,
}

impl Helper {
    /// Starts it. What it says is logged; `seen` is called with every line.
    pub(super) fn start(
        start: &Start,
        output: Output,
        seen: impl Fn(&str) + Send + Sync + Clone + 'static,
    ) -> std::io::Result<Self> {
        let mut command = match &start.user {
            // `initgroups` is nothing the standard library does.
            Some(user) if !rustix::process::geteuid().is_root() || user.uid == 0 => plain(start),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", &user.uid.to_string(), "--regid", &user.gid.to_string()]);
                command.args(["--init-groups", "--"]).arg(&start.program).args(&start.args);
                command
            }
            None => plain(start),
        };
        command.env_clear().envs(&start.env).current_dir(&start.dir);
        if let Some(user) = &start.user {
            command.env("HOME", &user.home).env("USER", &user.name).env("LOGNAME", &user.name);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        command.stdin(if output == Output::Protocol { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let last = Arc::new(Mutex::new(Vec::new()));
        if let Some(err) = child.stderr.take() {
            tokio::spawn(log(start.name.clone(), err, last.clone(), seen.clone()));
        }
        if output == Output::Log
            && let Some(out) = child.stdout.take()
        {
            tokio::spawn(log(start.name.clone(), out, last.clone(), seen));
        }
        Ok(Self { name: start.name.clone(), child, group, last })
    }

    /// Both ends of its protocol; once.
    pub(super) fn protocol(&mut self) -> Option<(ChildStdout, ChildStdin)> {
        Some((self.child.stdout.take()?, self.child.stdin.take()?))
    }

    /// Waits for its end. Cancel-safe.
    pub(super) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.forget();
        status
    }

    /// Whether it has ended, and how.
    pub(super) fn status(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        if status.is_some() {
            self.forget();
        }
        status
    }

    /// The leader is gone: ends whoever is left of its group, whose number then means nothing any more.
    fn forget(&mut self) {
        self.signal(Signal::KILL);
        self.group = None;
    }

    /// Its last words.
    pub(super) fn last_words(&self) -> String {
        self.last.lock().join("\n")
    }

    /// Asks all of its processes to end, then makes them.
    pub(super) async fn stop(mut self) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(GRACE, self.ended()).await.is_err() {
            tracing::debug!(helper = self.name, "it does not end by itself");
        }
        // Those it has started are ended by dropping it.
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group
            && let Err(error) = kill_process_group(group, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(helper = self.name, %error, "cannot end it");
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // The number of a group cannot be given away as long as one of its processes lives; `ended` and `status`
        // end whoever is left when they find the leader gone, so that nobody else is hit later.
        self.signal(Signal::KILL);
    }
}

fn plain(start: &Start) -> Command {
    let mut command = Command::new(&start.program);
    command.args(&start.args);
    command
}

async fn log(name: String, from: impl AsyncRead + Unpin, last: Arc<Mutex<Vec<String>>>, seen: impl Fn(&str)) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut from).take(LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        tracing::debug!(helper = name, "{text}");
        seen(text);
        let mut last = last.lock();
        if last.len() == LAST {
            last.remove(0);
        }
        last.push(text.to_owned());
    }
}

/// A program by its name or path, as `PATH` of this environment has it.
pub(super) fn find(program: &str, env: &BTreeMap<String, String>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let good =
        |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|p| good(p));
    }
    let path = env.get("PATH").map_or("/usr/local/bin:/usr/bin:/bin", String::as_str);
    std::env::split_paths(path).map(|dir| dir.join(program)).find(|p| good(p))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn sh(script: &str) -> Start {
        Start {
            name: "test".into(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]),
            dir: "/".into(),
            user: None,
        }
    }

    #[tokio::test]
    async fn its_children_end_with_it() {
        let (tell, mut told) = mpsc::unbounded_channel();
        let seen = move |line: &str| drop(tell.send(line.to_owned()));
        // The second keeps the pipe open; it closes when that one is gone.
        let helper = Helper::start(&sh("sleep 1000 & echo ready; wait"), Output::Log, seen).unwrap();
        assert_eq!(told.recv().await.as_deref(), Some("ready"));
        drop(helper);
        let end = tokio::time::timeout(Duration::from_secs(30), told.recv()).await;
        assert_eq!(end.expect("the child lives on"), None);
    }

    #[tokio::test]
    async fn its_end_and_its_last_words_are_known() {
        let mut helper = Helper::start(&sh("echo out; echo err >&2; exit 3"), Output::Log, |_| {}).unwrap();
        assert_eq!(helper.ended().await.unwrap().code(), Some(3));
        assert_eq!(helper.status().and_then(|s| s.code()), Some(3));
        helper.stop().await;
        assert!(find("sh", &sh("").env).is_some() && find("no-such-program", &BTreeMap::new()).is_none());
    }
}
