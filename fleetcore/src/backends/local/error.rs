//! Why a process could not be started.

use std::{io, path::Path, time::Duration};

use crate::{Error, ErrorKind, Retry};

/// Failures of a spawn, told apart by who can do something about them.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpawnError {
    #[error("working directory cannot be used: {0}")]
    Cwd(#[source] io::Error),
    #[error("program not found")]
    NoProgram(#[source] io::Error),
    #[error("program exists, but the interpreter or loader it names does not")]
    NoInterpreter(#[source] io::Error),
    #[error("program may not be executed")]
    NotAllowed(#[source] io::Error),
    #[error("file is not something the system can execute")]
    NotExecutable(#[source] io::Error),
    #[error("arguments and variables are together longer than the system accepts")]
    TooLong(#[source] io::Error),
    #[error("the system is out of {0} for now")]
    Exhausted(&'static str, #[source] io::Error),
    #[error("no such user")]
    NoUser,
    #[error("commands may not run as another user here")]
    UserSwitchOff,
    #[error("running as another user takes being root")]
    NotRoot,
    #[error("{0}")]
    Other(#[source] io::Error),
}

impl SpawnError {
    /// Sorts what the system said. The working directory is looked at only now: checking it beforehand would
    /// cost every spawn and still be a race.
    pub(super) fn from_io(err: io::Error, program: &str, cwd: &Path) -> Self {
        use rustix::io::Errno;
        match Errno::from_io_error(&err) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) if !cwd.is_dir() => {
                match std::fs::metadata(cwd) {
                    Err(e) => Self::Cwd(e),
                    Ok(_) => Self::Cwd(io::ErrorKind::NotADirectory.into()),
                }
            }
            Some(Errno::NOENT) if program.contains('/') && cwd.join(program).exists() => {
                Self::NoInterpreter(err)
            }
            Some(Errno::NOENT | Errno::NOTDIR) => Self::NoProgram(err),
            Some(Errno::ACCESS | Errno::PERM) => Self::NotAllowed(err),
            Some(Errno::NOEXEC) => Self::NotExecutable(err),
            Some(Errno::TOOBIG) => Self::TooLong(err),
            Some(Errno::AGAIN) => Self::Exhausted("processes", err),
            Some(Errno::MFILE | Errno::NFILE) => Self::Exhausted("file descriptors", err),
            Some(Errno::NOMEM) => Self::Exhausted("memory", err),
            Some(Errno::NOSPC | Errno::NODEV) => Self::Exhausted("terminals", err),
            _ => Self::Other(err),
        }
    }

    /// The public error, which names what it is about.
    pub(super) fn into_error(self, program: &str, cwd: &Path, user: Option<&str>) -> Error {
        let io_kind = |e: &io::Error| match e.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            io::ErrorKind::NotADirectory => ErrorKind::InvalidState,
            _ => ErrorKind::NotFound,
        };
        let kind = match &self {
            Self::Cwd(e) => io_kind(e),
            Self::NoProgram(_) | Self::NoInterpreter(_) | Self::NoUser => ErrorKind::NotFound,
            Self::NotAllowed(_) | Self::UserSwitchOff | Self::NotRoot => ErrorKind::PermissionDenied,
            Self::NotExecutable(_) | Self::TooLong(_) => ErrorKind::InvalidInput,
            Self::Exhausted(..) => ErrorKind::Unavailable,
            Self::Other(_) => ErrorKind::Unexpected,
        };
        let mut error = Error::new(kind, self.to_string()).with_operation("spawn");
        error = match &self {
            Self::Cwd(_) => error.with_context("field", "cwd").with_context("cwd", cwd.display()),
            Self::NoUser | Self::UserSwitchOff | Self::NotRoot => {
                error.with_context("field", "user").with_context("user", user.unwrap_or_default())
            }
            Self::TooLong(_) => error.with_context("field", "argv").with_context(
                "rule",
                "together with env within the limit of the system, see getconf ARG_MAX",
            ),
            _ => error.with_context("program", program),
        };
        if let Self::Exhausted(..) = self {
            error = error.with_retry(Retry::Temporary { after: Some(Duration::from_millis(100)) });
        }
        error.with_source(self)
    }
}
