//! `fleetcore completions`

use clap::CommandFactory as _;

use crate::{cli::Cli, error::Outcome, exit, render};

/// Prints a completion script.
pub(crate) fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fleetcore", &mut script);
    render::print(&String::from_utf8_lossy(&script))?;
    Ok(exit::OK)
}
