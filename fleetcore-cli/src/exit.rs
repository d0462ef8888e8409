//! Exit codes: one table for the program, its help and its man page.

use fleetcore::{EndReason, Error, ErrorKind, ExitKind, ExitStatus};

pub(crate) const OK: u8 = 0;
/// Bad input: `EX_USAGE` of sysexits(3), as are the other names.
pub(crate) const USAGE: u8 = 64;
pub(crate) const NO_INPUT: u8 = 66;
pub(crate) const UNAVAILABLE: u8 = 69;
pub(crate) const SOFTWARE: u8 = 70;
pub(crate) const CANT_CREATE: u8 = 73;
pub(crate) const TEMP_FAIL: u8 = 75;
pub(crate) const NO_PERMISSION: u8 = 77;
/// `run`, `shell`, `attach`: the time limit passed, as timeout(1).
pub(crate) const TIMED_OUT: u8 = 124;
/// `run`, `shell`, `attach`: fleetcore itself failed, as env(1).
pub(crate) const FLEETCORE_FAILED: u8 = 125;
pub(crate) const CANCELLED: u8 = 130;
/// Whoever read our output went away: 128 + SIGPIPE.
pub(crate) const BROKEN_PIPE: u8 = 141;

/// Shown at the end of `--help` and in the man page.
pub(crate) const HELP: &str = "\
Exit codes:
  0    success
  64   bad input: an argument, a setting, a file that is not understood
  66   not found: target, command, session, path, user
  69   unavailable or not supported there
  70   an error inside fleetcore, or damaged data
  73   exists already, is busy, or is in the wrong state
  75   try again: rate limit, timeout, or somebody else changed it meanwhile
  77   not logged in, or not allowed
  130  cancelled
  141  whoever read the output went away
  run, shell and attach pass on the exit code of the command, and use:
  124  the time limit of --timeout passed
  125  fleetcore itself failed; the command may not have run
  128+N  signal N ended the command";

/// Exit code of an error of a verb that is not like exec.
pub(crate) fn of_error(err: &Error) -> u8 {
    match err.kind() {
        ErrorKind::InvalidInput => USAGE,
        ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => NO_PERMISSION,
        ErrorKind::NotFound => NO_INPUT,
        ErrorKind::AlreadyExists | ErrorKind::Busy | ErrorKind::InvalidState => CANT_CREATE,
        ErrorKind::Conflict | ErrorKind::RateLimited | ErrorKind::Timeout => TEMP_FAIL,
        ErrorKind::Unsupported | ErrorKind::Unavailable => UNAVAILABLE,
        ErrorKind::Cancelled => CANCELLED,
        _ => SOFTWARE,
    }
}

/// Exit code that stands for how a command ended.
pub(crate) fn of_status(status: &ExitStatus) -> u8 {
    match (status.reason, status.kind) {
        (Some(EndReason::TimedOut), _) => TIMED_OUT,
        // The low eight bits are what a parent gets to see anyway.
        (_, ExitKind::Code(code)) => u8::try_from(code & 0xff).unwrap_or(FLEETCORE_FAILED),
        (_, ExitKind::Signal(n)) => {
            u8::try_from(n).ok().and_then(|n| n.checked_add(128)).unwrap_or(FLEETCORE_FAILED)
        }
        _ => FLEETCORE_FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_design() {
        use ErrorKind as K;
        let table = [
            (K::InvalidInput, 64),
            (K::Unauthenticated, 77),
            (K::PermissionDenied, 77),
            (K::NotFound, 66),
            (K::AlreadyExists, 73),
            (K::Busy, 73),
            (K::InvalidState, 73),
            (K::Conflict, 75),
            (K::RateLimited, 75),
            (K::Unsupported, 69),
            (K::Unavailable, 69),
            (K::Timeout, 75),
            (K::Cancelled, 130),
            (K::DataLoss, 70),
            (K::Unexpected, 70),
        ];
        for (kind, code) in table {
            assert_eq!(of_error(&Error::new(kind, "x")), code, "{}", kind.code());
            assert!(HELP.contains(&format!("\n  {code} ")), "{code} is documented");
        }
    }

    #[test]
    fn ends_of_commands() {
        let code = |c| of_status(&ExitStatus::new(ExitKind::Code(c)));
        assert_eq!((code(0), code(7), code(255), code(256)), (0, 7, 255, 0));
        assert_eq!(of_status(&ExitStatus::new(ExitKind::Signal(9))), 137);
        let timed_out = ExitStatus::new(ExitKind::Signal(15)).with_reason(Some(EndReason::TimedOut));
        assert_eq!(of_status(&timed_out), 124);
        assert_eq!(of_status(&ExitStatus::new(ExitKind::Unknown)), 125);
    }
}
