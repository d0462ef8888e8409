//! Watches output live, leaves in the middle and comes back without losing a byte.

use fleetcore::{CommandEvent, CommandSpec, Fleet, Offset, Result};
use futures::StreamExt;

#[tokio::main]
async fn main() -> Result<()> {
    let fleet = Fleet::local();
    let script = "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.2; done; exit 3";
    let command = fleet.machine("local")?.spawn(CommandSpec::shell(script)).await?;

    // A stream is a view: dropping it leaves the command alone.
    let mut first = command.stream(Offset(0));
    let mut lines = 0;
    while lines < 3 {
        match first.next().await {
            Some(event) => lines += show(event?),
            None => break,
        }
    }
    let position = first.position();
    drop(first);
    println!("-- left at byte {position}, coming back");

    // Any task may come back later, from any position that is still kept.
    let mut second = command.stream(position);
    while let Some(event) = second.next().await {
        show(event?);
    }
    Ok(())
}

/// Prints an event; returns the number of lines in it.
fn show(event: CommandEvent) -> usize {
    match event {
        CommandEvent::Output(chunk) => {
            print!("{:>4} {}", chunk.offset, String::from_utf8_lossy(&chunk.data));
            chunk.data.iter().filter(|byte| **byte == b'\n').count()
        }
        // Bytes that are no longer kept anywhere are told, never skipped in silence.
        CommandEvent::Gap { from, to } => {
            println!("-- {from} to {to} are gone");
            0
        }
        CommandEvent::Exited(status) => {
            println!("-- ended: {:?}", status.kind);
            0
        }
        _ => 0,
    }
}
