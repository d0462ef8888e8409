//! What every machine promises about commands.

mod end;
mod input;
mod output;
mod program;
mod replay;

use super::Case;
use crate::Env;

/// All cases.
pub fn all() -> Vec<Case<Env>> {
    [program::all(), output::all(), input::all(), end::all(), replay::all()].into_iter().flatten().collect()
}

/// Which case covers which field of [`ExecCapabilities`](fleetcore::ExecCapabilities), here and in the other areas.
pub const COVERS: &[(&str, &str)] = &[
    ("pty", "pty_runs_on_a_terminal_or_is_unsupported"),
    ("stdin", "stdin_arrives_or_is_unsupported"),
    ("split_output", "output_comes_on_two_channels_or_split_is_unsupported"),
    ("signals", "signals_arrive_or_are_unsupported"),
    ("run_as_user", "user_is_switched_or_unsupported"),
    ("native_files", "native_files_work_or_are_unsupported"),
    ("native_sessions", "native_sessions_open_or_are_unsupported"),
    ("connect", "connections_open_or_are_unsupported"),
    ("reattach", "reattach_adopts_or_is_unsupported"),
    ("actions", "an_action_that_is_not_listed_is_unsupported"),
];
