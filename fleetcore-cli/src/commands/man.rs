//! `fleetcore man`

use std::path::Path;

use clap::CommandFactory as _;
use fleetcore::Error;

use crate::{cli::Cli, error::Outcome, exit, render};

/// Prints the page of the program, or writes all pages.
pub(crate) fn man(dir: Option<&Path>) -> Outcome {
    let mut command = Cli::command();
    command.build();
    if let Some(dir) = dir {
        let failed = |e| Error::io("write manual pages", e).with_context("path", dir.display());
        std::fs::create_dir_all(dir).map_err(failed)?;
        clap_mangen::generate_to(command, dir).map_err(failed)?;
        return Ok(exit::OK);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(|e| Error::io("render the manual page", e))?;
    render::print(&String::from_utf8_lossy(&page))?;
    Ok(exit::OK)
}
