//! The Rust side of `benches/compare.py`: for each number on standard input, runs `true` that often through the core and
//! prints the nanoseconds each took, in one line.
#![expect(clippy::print_stdout, reason = "a program of the terminal")]

use std::{
    error::Error,
    io::{BufRead as _, Write as _, stdin, stdout},
    time::Instant,
};

use fleetcore::{CommandSpec, Fleet};
use tokio::runtime::Builder;

fn main() -> Result<(), Box<dyn Error>> {
    // As the extension's own.
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _inside = runtime.enter();
    let machine = Fleet::local().machine("local")?;
    for line in stdin().lock().lines() {
        let mut took = Vec::new();
        for _ in 0..line?.trim().parse()? {
            let began = Instant::now();
            let output = runtime
                .block_on(async { machine.spawn(CommandSpec::argv(["true"])).await?.output().await })?;
            took.push(began.elapsed().as_nanos().to_string());
            if !output.status.success() {
                return Err("true was false".into());
            }
        }
        println!("{}", took.join(" "));
        stdout().flush()?;
    }
    Ok(())
}
