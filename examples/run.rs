//! Runs one command and prints what it wrote: `cargo run -p fleetcore-examples --example run`.

use fleetcore::{CommandSpec, Fleet, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let fleet = Fleet::local();
    let command = fleet.machine("local")?.spawn(CommandSpec::argv(["uname", "-a"])).await?;
    // A command that fails is no error until `check` makes it one.
    let output = command.output().await?.check()?;
    print!("{}", output.text());
    Ok(())
}
