//! A real sshd for one test: its own port, host key, keys and files, for the current user.

use std::{
    fs, io,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use tempfile::TempDir;

/// Where distributions put it; it must be started by its full path.
const PLACES: [&str; 3] = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/lib/ssh/sshd"];
/// Another process may take the port between our asking for a free one and sshd's use of it.
const ATTEMPTS: usize = 5;
/// Far longer than a start takes on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running sshd. Dropping it ends it and every connection.
#[derive(Debug)]
pub struct Sshd {
    dir: TempDir,
    child: Child,
    port: u16,
    user: String,
}

/// Why there is no sshd for tests here; `None` if there is one.
pub fn missing() -> Option<String> {
    let program = |name: &str| Command::new(name).arg("-?").stdin(Stdio::null()).output().is_ok();
    if !PLACES.iter().any(|p| Path::new(p).exists()) {
        return Some("there is no sshd; install openssh-server".to_owned());
    }
    (!program("ssh-keygen")).then(|| "there is no ssh-keygen; install openssh-client".to_owned())
}

/// Makes a key pair: `path` and `path.pub`.
///
/// # Errors
/// When ssh-keygen does not.
pub fn make_key(path: &Path, kind: &str, passphrase: &str) -> io::Result<()> {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-C", "fleetcore-test", "-t", kind, "-N", passphrase, "-f"]).arg(path);
    let made = command.stdin(Stdio::null()).output()?;
    if made.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()))
    }
}

fn account() -> io::Result<String> {
    let said = Command::new("id").arg("-un").output()?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

impl Sshd {
    /// Starts one with further lines for its settings.
    ///
    /// # Errors
    /// When it does not start; the error has its log.
    pub fn start(settings: &str) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("fleetcore-sshd.").tempdir()?;
        make_key(&dir.path().join("host_key"), "ed25519", "")?;
        make_key(&dir.path().join("user_key"), "ed25519", "")?;
        fs::copy(dir.path().join("user_key.pub"), dir.path().join("authorized_keys"))?;
        let user = account()?;
        let mut last = io::Error::other("no port is free");
        for _ in 0..ATTEMPTS {
            match Self::attempt(&dir, settings) {
                Ok((child, port)) => {
                    let sshd = Self { dir, child, port, user };
                    let key = fs::read_to_string(sshd.dir().join("host_key.pub"))?;
                    fs::write(sshd.known_hosts(), format!("[127.0.0.1]:{port} {key}"))?;
                    return Ok(sshd);
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn attempt(dir: &TempDir, settings: &str) -> io::Result<(Child, u16)> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let at = dir.path().display();
        let config = dir.path().join("sshd_config");
        // At shell level 1 bash does not read ~/.bashrc for every command, which on a developer's machine may start anything.
        // The first of several values counts, so the test's own settings come first.
        let text = format!(
            "{settings}\nListenAddress 127.0.0.1\nPort {port}\nHostKey {at}/host_key\n\
             AuthorizedKeysFile {at}/authorized_keys\nPidFile {at}/pid\nStrictModes no\nUsePAM no\n\
             PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\n\
             PrintLastLog no\nLogLevel INFO\nMaxStartups 200\nSubsystem sftp internal-sftp\n\
             SetEnv SHLVL=1\n"
        );
        fs::write(&config, text)?;
        // As root, sshd insists on the directory its unprivileged half locks itself into.
        let _ = fs::create_dir_all("/run/sshd");
        let program = PLACES.iter().find(|p| Path::new(p).exists()).ok_or(io::ErrorKind::NotFound)?;
        let mut command = Command::new(program);
        command.args(["-D", "-e", "-f"]).arg(&config);
        // A group of its own, so that a test can end all of it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let log = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (tell, told) = mpsc::channel();
        // Reads for as long as it writes: a full pipe would stop it.
        std::thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let mut said = String::new();
        while let Ok(line) = told.recv_timeout(START_LIMIT) {
            if line.contains("Server listening on") {
                return Ok((child, port));
            }
            said.push_str(&line);
            said.push('\n');
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(io::Error::other(format!("sshd did not start: {said}")))
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Who may log in: the user that runs the test.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Its directory, for further files of a test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A private key that it accepts.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("user_key")
    }

    /// Accepts one more key.
    ///
    /// # Errors
    /// Those of files.
    pub fn accept(&self, public: &Path) -> io::Result<()> {
        let all = self.dir.path().join("authorized_keys");
        let mut text = fs::read_to_string(&all)?;
        text.push_str(&fs::read_to_string(public)?);
        fs::write(all, text)
    }

    /// A `known_hosts` file with its host key.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("known_hosts")
    }

    /// Its processes: one or two for each connection.
    pub fn connections(&self) -> Vec<u32> {
        let own = self.child.id();
        let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
                let name = stat.split_once('(')?.1;
                let (name, rest) = name.rsplit_once(')')?;
                let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
                name.starts_with("sshd").then_some((pid, parent))
            })
            .collect();
        let mut found = vec![own];
        let mut at = 0;
        while let Some(parent) = found.get(at).copied() {
            found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
            at += 1;
        }
        found.retain(|pid| *pid != own);
        found
    }

    /// Cuts connections the hard way: kills these of its processes.
    ///
    /// # Errors
    /// When kill(1) cannot be run.
    pub fn cut(pids: &[u32]) -> io::Result<()> {
        for pid in pids {
            Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status()?;
        }
        Ok(())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let pids = self.connections();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = Self::cut(&pids);
    }
}
