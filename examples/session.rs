//! A shell that remembers: directory and variables stay, a program that asks a question gets an answer.

use std::time::Duration;

use fleetcore::{Fleet, Key, Result, SessionId, SessionSpec, TurnStatus, WaitPolicy};

#[tokio::main]
async fn main() -> Result<()> {
    let fleet = Fleet::local();
    let spec = SessionSpec::new(SessionId::new("demo")?);
    let shell = fleet.machine("local")?.open_session(spec).await?;

    shell.run("cd /tmp; name=world", WaitPolicy::forever()).await?;
    let turn = shell.run("echo \"hello $name\"; pwd; false", WaitPolicy::forever()).await?;
    print!("{}", shell.text(turn.output.clone()).await?);
    println!("-- {:?} in {}", turn.status, turn.cwd.unwrap_or_default());

    // Control comes back when the question appears; the program goes on waiting for its answer.
    let wait = WaitPolicy::soft(Duration::from_secs(10)).with_expect("Sure? ");
    let turn = shell.run("read -p 'Sure? ' answer; echo \"you said $answer\"", wait).await?;
    if matches!(turn.status, TurnStatus::Running(_)) {
        shell.send_keys(&[Key::Text("yes".to_owned()), Key::Enter]).await?;
        shell.resume(WaitPolicy::forever()).await?;
    }

    println!("-- the screen:\n{}", shell.screen().await?.text());
    shell.close().await?;
    Ok(())
}
