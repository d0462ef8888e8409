//! What SSH and SFTP say, in our words.

use std::time::Duration;

use russh::{ChannelOpenFailure, Disconnect};
use russh_sftp::{client::error::Error as SftpError, protocol::StatusCode};

use crate::{Error, ErrorKind, Retry};

/// What a handler's callbacks and the library itself may fail with.
#[derive(Debug)]
pub(super) enum Failure {
    Ssh(russh::Error),
    /// Ours, such as a host key that is not known.
    Ours(Error),
}

impl From<russh::Error> for Failure {
    fn from(err: russh::Error) -> Self {
        Self::Ssh(err)
    }
}

impl Failure {
    pub(super) fn into_error(self, operation: &'static str) -> Error {
        match self {
            Self::Ssh(e) => ssh(operation, e),
            Self::Ours(e) => e,
        }
    }
}

/// May succeed when tried again.
pub(super) fn temporary(error: Error) -> Error {
    error.with_retry(Retry::Temporary { after: Some(Duration::from_millis(200)) })
}

/// The connection is gone.
pub(super) fn lost(operation: &'static str) -> Error {
    temporary(Error::new(ErrorKind::Unavailable, "the SSH connection broke").with_operation(operation))
}

pub(super) fn ssh(operation: &'static str, err: russh::Error) -> Error {
    use russh::Error as E;
    let kind = match &err {
        E::IO(io) if io.kind() == std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        E::NotAuthenticated | E::UnknownKey | E::WrongServerSig => ErrorKind::PermissionDenied,
        E::ChannelOpenFailure(ChannelOpenFailure::AdministrativelyProhibited) => ErrorKind::PermissionDenied,
        E::ChannelOpenFailure(_) => ErrorKind::Unavailable,
        E::NoCommonAlgo { .. } | E::UnsupportedAuthMethod => ErrorKind::Unsupported,
        E::IO(_)
        | E::Disconnect
        | E::HUP
        | E::SendError
        | E::RecvError
        | E::ConnectionTimeout
        | E::KeepaliveTimeout
        | E::InactivityTimeout => ErrorKind::Unavailable,
        _ => ErrorKind::Unexpected,
    };
    let message = match &err {
        E::Disconnect | E::HUP | E::SendError | E::RecvError => "the SSH connection broke".to_owned(),
        other => other.to_string(),
    };
    let error = Error::new(kind, message).with_operation(operation).with_source(err);
    if kind == ErrorKind::Unavailable { temporary(error) } else { error }
}

/// Whether the connection itself is at fault, so that another one may do.
pub(super) fn is_broken(err: &russh::Error) -> bool {
    use russh::Error as E;
    matches!(
        err,
        E::IO(_)
            | E::Disconnect
            | E::HUP
            | E::SendError
            | E::RecvError
            | E::KeepaliveTimeout
            | E::InactivityTimeout
    )
}

/// Polite words at the end of a connection.
pub(super) const BYE: (Disconnect, &str, &str) = (Disconnect::ByApplication, "done", "en");

pub(super) fn sftp(operation: &'static str, path: &str, err: SftpError) -> Error {
    let (kind, message) = match &err {
        SftpError::Status(status) => {
            let kind = match status.status_code {
                StatusCode::NoSuchFile => ErrorKind::NotFound,
                StatusCode::PermissionDenied => ErrorKind::PermissionDenied,
                StatusCode::OpUnsupported => ErrorKind::Unsupported,
                StatusCode::NoConnection | StatusCode::ConnectionLost => ErrorKind::Unavailable,
                _ => ErrorKind::Unexpected,
            };
            let said = if status.error_message.is_empty() {
                status.status_code.to_string()
            } else {
                status.error_message.clone()
            };
            (kind, said)
        }
        SftpError::Timeout => (ErrorKind::Timeout, "the SFTP server did not answer in time".to_owned()),
        SftpError::Limited(what) => (ErrorKind::RateLimited, what.clone()),
        SftpError::IO(what) | SftpError::UnexpectedBehavior(what) => {
            (ErrorKind::Unavailable, format!("the SFTP channel broke: {what}"))
        }
        SftpError::UnexpectedPacket => {
            (ErrorKind::Unexpected, "the SFTP server answered with nonsense".to_owned())
        }
    };
    Error::new(kind, message)
        .with_operation(operation)
        .with_context("path", path.escape_debug())
        .with_source(err)
}

/// The server's word for "it did not work", without saying why.
pub(super) fn is_vague(err: &SftpError) -> bool {
    matches!(err, SftpError::Status(status) if status.status_code == StatusCode::Failure)
}
