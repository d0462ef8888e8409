//! What the program's complaints mean.
//!
//! The texts are those of releases 1.8 to 1.16 and of what follows, in the order of the contract's list of classes: the
//! first that fits counts.

use std::time::Duration;

use crate::{Error, ErrorKind, Retry};

/// Longest part of a complaint that is kept.
const TEXT_MAX_CHARS: usize = 2000;

/// Kinds of failure, told apart by what can be done about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The program is not there.
    NoProgram,
    /// The client gave up; the daemon goes on.
    ClientTimeout,
    /// No daemon, or it died during the call: the outcome is unknown then.
    Unreachable,
    SocketDenied,
    NotAuthenticated,
    NotInstalled,
    BadAddress,
    BadHome,
    ConfirmationNeeded,
    /// The daemon gave up waiting for the machine, which exists.
    ServerTimeout,
    Deleted,
    NotFound,
    Exists,
    BeingPrepared,
    InvalidName,
    InvalidResources,
    Image,
    Network,
    HostDisk,
    NotRunning,
    MustBeStopped,
    State,
    SnapshotExists,
    SnapshotMissing,
    Mount,
    Setting,
    Ssh,
    Sftp,
    Hypervisor,
    NotOnThisBackend,
    ClientException,
    Usage,
    /// The program did not end in time and was killed.
    TooSlow,
    /// The program was ended by a signal that was not ours.
    Killed,
    /// The answer is not what it should be.
    Malformed,
    Failed,
}

/// `exit` of the client (`None`: any), texts of which one must be in its complaint.
type Rule = (Class, Option<i32>, &'static [&'static str]);

const RULES: &[Rule] = &[
    (
        Class::ClientTimeout,
        Some(5),
        &[
            "Timed out waiting for instance launch.",
            "Timed out waiting for instance to start.",
            "Timed out waiting for instance to restart.",
            "Timed out waiting for the Multipass daemon to be ready.",
        ],
    ),
    (Class::Unreachable, Some(2), &["cannot connect to the multipass socket"]),
    (Class::SocketDenied, Some(2), &["multipass socket access denied"]),
    (
        Class::NotAuthenticated,
        Some(2),
        &[
            "not authenticated with the Multipass service",
            "Passphrase is not correct",
            "Passphrase is not set",
            "No passphrase is set",
        ],
    ),
    (Class::NotInstalled, Some(1), &["multipass_root_cert.pem"]),
    (
        Class::BadAddress,
        Some(1),
        &["missing port number", "missing socket file", "invalid port number", "empty server address"],
    ),
    (Class::BadHome, Some(1), &["multipass-client-certificate"]),
    (
        Class::ConfirmationNeeded,
        None,
        &["Unable to query client for confirmation", "Cannot get confirmation from client"],
    ),
    (
        Class::ServerTimeout,
        Some(2),
        &["timed out waiting for response", "timed out waiting for initialization to complete"],
    ),
    (Class::Deleted, Some(2), &["\" is deleted", "' is deleted", "reason: Instance is deleted"]),
    (Class::NotFound, None, &["\" does not exist", "' does not exist", "reason: No such instance"]),
    (Class::Exists, Some(2), &["\" already exists"]),
    (Class::BeingPrepared, Some(2), &["\" is being prepared", "reason: instance is being prepared"]),
    (
        Class::InvalidName,
        Some(2),
        &["Invalid instance name supplied", "Invalid destination instance name", "Invalid snapshot name"],
    ),
    (
        Class::InvalidResources,
        None,
        &[
            "Invalid memory size value supplied",
            "Invalid disk size value supplied",
            "is not a valid memory size",
            "invalid CPU count",
        ],
    ),
    (
        Class::Image,
        Some(2),
        &[
            "Unable to find an image matching",
            "Too many images matching",
            "is no longer supported",
            "is unknown or unreachable",
        ],
    ),
    (Class::Network, Some(2), &["Invalid network options", "Missing bridges"]),
    (Class::HostDisk, Some(2), &["bytes) below minimum"]),
    (Class::NotRunning, Some(2), &["\" is not running", "' is not running"]),
    (
        Class::MustBeStopped,
        Some(2),
        &[
            "can only take snapshots of stopped instances",
            "can only restore snapshots of stopped instances",
            "can only clone stopped instances",
            "Instance must be stopped for modification",
        ],
    ),
    (
        Class::State,
        Some(2),
        &[
            "Cannot shut down",
            "Cannot start the instance",
            "unknown state",
            "scheduled to shut down in less than a minute",
        ],
    ),
    (Class::SnapshotExists, Some(2), &["Snapshot already exists: "]),
    (Class::SnapshotMissing, Some(2), &["No such snapshot: "]),
    (
        Class::Mount,
        Some(2),
        &[
            "is already mounted in",
            "is not mounted in",
            "unable to mount to",
            "Mounts are disabled",
            "Error enabling mount support",
            "error mounting",
        ],
    ),
    (Class::Setting, None, &["Unrecognized settings key", "Invalid setting '"]),
    (Class::Ssh, None, &["ssh connection failed", "ssh failed to authenticate"]),
    (
        Class::Sftp,
        Some(2),
        &[
            "[sftp]",
            "cannot open remote file",
            "cannot read from remote file",
            "cannot write to remote file",
            "is not a directory",
            "Cannot access ",
        ],
    ),
    (
        Class::Hypervisor,
        Some(2),
        &["KVM support is not enabled", "KVM device cannot be opened", "Another virtual machine manager"],
    ),
    (Class::NotOnThisBackend, Some(2), &["is not implemented on this backend"]),
    (Class::ClientException, Some(1), &["[client] Caught an unhandled exception: "]),
    (Class::Usage, Some(1), &[""]),
];

/// One failed call. Cheap to clone, so that all who share a call get it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("multipass {command} failed: {text}")]
pub(super) struct Failure {
    pub(super) class: Class,
    /// The program's command, e.g. `launch`.
    pub(super) command: &'static str,
    /// What it said, without the noise.
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(class: Class, command: &'static str, text: impl Into<String>) -> Self {
        let text: String = text.into();
        Self { class, command, text: text.trim().chars().take(TEXT_MAX_CHARS).collect() }
    }

    /// Sorts what the client said before it ended with `code`.
    pub(super) fn classify(command: &'static str, code: i32, stderr: &str) -> Self {
        let fits = |(_, exit, texts): &&Rule| {
            exit.is_none_or(|e| e == code || (e == 2 && code == 255))
                && texts.iter().any(|t| stderr.contains(t))
        };
        let class = RULES.iter().find(fits).map_or(Class::Failed, |(class, ..)| *class);
        Self::new(class, command, said(command, stderr, code))
    }

    /// Whether the daemon may have done what it was asked, or may still do it.
    pub(super) fn is_outcome_unknown(&self) -> bool {
        use Class as C;
        matches!(self.class, C::ClientTimeout | C::Unreachable | C::ServerTimeout | C::TooSlow | C::Killed)
    }

    fn kind(&self) -> ErrorKind {
        use Class as C;
        match self.class {
            C::NoProgram => ErrorKind::Unsupported,
            C::Unreachable | C::NotInstalled | C::Ssh | C::Killed | C::HostDisk => ErrorKind::Unavailable,
            C::BadAddress | C::BadHome | C::Hypervisor => ErrorKind::Unavailable,
            C::ClientTimeout | C::ServerTimeout | C::TooSlow => ErrorKind::Timeout,
            C::SocketDenied | C::NotAuthenticated => ErrorKind::PermissionDenied,
            C::NotFound | C::SnapshotMissing | C::Image => ErrorKind::NotFound,
            C::Exists | C::SnapshotExists => ErrorKind::AlreadyExists,
            C::BeingPrepared => ErrorKind::AlreadyExists,
            C::InvalidName | C::InvalidResources | C::Network | C::Setting | C::Usage => {
                ErrorKind::InvalidInput
            }
            C::Deleted | C::NotRunning | C::MustBeStopped | C::State | C::Mount | C::ConfirmationNeeded => {
                ErrorKind::InvalidState
            }
            C::NotOnThisBackend => ErrorKind::Unsupported,
            C::Sftp | C::ClientException | C::Malformed | C::Failed => ErrorKind::Unexpected,
        }
    }

    /// What to do about it.
    fn advice(&self) -> Option<&'static str> {
        use Class as C;
        Some(match self.class {
            C::NoProgram => {
                "install Multipass: `snap install multipass` on Linux, `brew install --cask multipass` on macOS"
            }
            C::Unreachable => {
                "check that the daemon runs (`snap services multipass`, `systemctl status multipassd`); it \
                 may be restarting"
            }
            C::SocketDenied => "run as a user of the group sudo, admin or wheel, or as root",
            C::NotAuthenticated => {
                "once, as this user: `multipass authenticate`, after a trusted user has run \
                 `multipass set local.passphrase`"
            }
            C::NotInstalled => "start the daemon once: its certificate is not there yet",
            C::BadAddress => "check the variable MULTIPASS_SERVER_ADDRESS",
            C::BadHome => "the program needs a home directory it can write to",
            C::ConfirmationNeeded => "say that losing the current state is meant: `destructive` or purge",
            C::ServerTimeout => "the machine exists; look at its console, or delete it",
            C::Deleted => "recover it first, or purge it",
            C::MustBeStopped => "stop the machine first",
            C::Image => "the action `find` lists images",
            C::Network => {
                "the action `networks` lists networks; one that needs a bridge must be prepared once by hand"
            }
            C::Hypervisor => "virtual machines cannot run on this host as it is",
            C::TooSlow => "the daemon may be busy stopping another machine; it answers when that is done",
            C::Ssh => "the machine does not answer on its SSH port",
            _ => return None,
        })
    }

    /// The public error.
    pub(super) fn into_error(self) -> Error {
        use Class as C;
        let retry = match self.class {
            C::Unreachable => Some(Duration::from_secs(2)),
            C::BeingPrepared | C::TooSlow | C::Killed | C::Ssh => Some(Duration::from_secs(5)),
            _ => None,
        };
        let message = match self.class {
            C::Unreachable => "the Multipass daemon cannot be reached".to_owned(),
            C::NoProgram => "Multipass is not installed: its program is not there".to_owned(),
            _ if self.text.is_empty() => format!("multipass {} failed", self.command),
            _ => self.text.clone(),
        };
        let mut error = Error::new(self.kind(), message)
            .with_operation("multipass")
            .with_context("command", self.command);
        if let Some(advice) = self.advice() {
            error = error.with_context("hint", advice);
        }
        if let Some(after) = retry {
            error = error.with_retry(Retry::Temporary { after: Some(after) });
        }
        error.with_source(self)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.into_error()
    }
}

/// The complaint without the prefixes that only repeat what is known.
fn said(command: &str, stderr: &str, code: i32) -> String {
    let prefix = format!("{command} failed: ");
    let lines: Vec<&str> = stderr
        .lines()
        .map(|line| {
            let line = line.strip_prefix(prefix.as_str()).unwrap_or(line);
            line.split_once("Caught an unhandled exception: ").map_or(line, |(_, what)| what).trim_end()
        })
        .filter(|line| !line.is_empty() && *line != "The following errors occurred:")
        .collect();
    if lines.is_empty() { format!("it ended with status {code} and said nothing") } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_of_several_releases_are_understood() {
        for (code, text, class) in [
            (2, "list failed: cannot connect to the multipass socket\n", Class::Unreachable),
            (
                2,
                "list failed: cannot connect to the multipass socket\nPlease ensure multipassd is running and \
                 '/run/multipass_socket' is accessible\n",
                Class::Unreachable,
            ),
            (5, "Timed out waiting for instance launch.\n", Class::ClientTimeout),
            (
                2,
                "start failed: The following errors occurred:\nInstance 'x' does not exist.\n",
                Class::NotFound,
            ),
            (255, "exec failed: ssh connection failed: 'Connection refused'\n", Class::Ssh),
            (2, "launch failed: instance \"x\" already exists\n", Class::Exists),
            (1, "Unknown option 'nope'.\n", Class::Usage),
            (2, "something new\n", Class::Failed),
            (
                2,
                "launch failed: The following errors occurred:\nx: timed out waiting for response\n",
                Class::ServerTimeout,
            ),
        ] {
            assert_eq!(Failure::classify("launch", code, text).class, class, "{text}");
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        let down = Failure::classify("list", 2, "list failed: cannot connect to the multipass socket\n");
        let error = down.into_error();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.context_value("hint").unwrap().contains("daemon"));
        assert!(matches!(error.retry(), Retry::Temporary { .. }));
        let start = "start failed: The following errors occurred:\nInstance 'x' does not exist.\n";
        assert_eq!(Failure::classify("start", 2, start).text, "Instance 'x' does not exist.");
    }
}
