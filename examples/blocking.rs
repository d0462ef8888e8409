//! The same without async: for scripts and for programs that have no runtime.

use fleetcore::{CommandEvent, CommandSpec, Offset, Result, WriteOptions, blocking::Fleet};

fn main() -> Result<()> {
    let fleet = Fleet::local()?;
    let output = fleet.run("local", CommandSpec::argv(["hostname"]))?.check()?;
    print!("this is {}", output.text());

    let command = fleet.spawn("local", CommandSpec::argv(["seq", "3"]))?;
    for event in command.events(Offset(0)) {
        if let CommandEvent::Output(chunk) = event? {
            print!("{}", String::from_utf8_lossy(&chunk.data));
        }
    }

    let files = fleet.files("local")?;
    let path = std::env::temp_dir().join(format!("fleetcore-example-{}", std::process::id()));
    let path = path.to_string_lossy();
    files.write(&path, "written in one step\n", WriteOptions::atomic())?;
    print!("{}", String::from_utf8_lossy(&files.read(&path)?));
    files.remove(&path, false)
}
