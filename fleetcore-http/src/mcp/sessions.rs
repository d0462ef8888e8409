//! Tools for shells.

use fleetcore::{Error, Key, PtySize, Result, SessionId};
use serde_json::{Value, json};

use super::{
    answer::json_of,
    args,
    call::{Call, bytes, given_up, millis},
};
use crate::client::wire::{NewSession, Session, SessionWait, Turn, TurnState};

/// Output of a turn unless the call says otherwise, and most of it.
const TURN_BYTES: (usize, usize) = (16 << 10, 1 << 20);
/// Time a turn is waited for unless the call says otherwise, and most of it.
const TURN_MS: (u64, u64) = (60_000, 600_000);
/// A model forgets to close what it opened.
const IDLE_S: u64 = 3600;
/// Most lines of scrollback in one answer.
const SCROLLBACK: usize = 10_000;

fn describe(session: &Session) -> Value {
    json!({
        "session": session.id,
        "target": session.target,
        "shell": session.shell,
        "cwd": session.cwd,
        "busy": session.busy,
        "cols": session.cols,
        "rows": session.rows,
        "ended": session.ended.is_some(),
    })
}

/// `session_open`
pub(super) async fn open(call: &Call, args: args::OpenSession) -> Result<Value> {
    let target = call.target(&args.target)?;
    let size = PtySize { cols: args.cols.unwrap_or(120), rows: args.rows.unwrap_or(40) };
    let mut session = NewSession::new(&target, size);
    session.id = args.session;
    session.cwd = args.cwd;
    session.env = args.env.into_iter().map(|(k, v)| (k, v.into())).collect();
    session.user = args.user;
    session.idle_timeout_s = Some(args.idle_timeout_s.unwrap_or(IDLE_S));
    session.labels.insert("via".to_owned(), "mcp".to_owned());
    Ok(describe(&call.client.open_session(&session).await?))
}

fn patience(
    timeout_ms: Option<u64>,
    quiet_ms: Option<u64>,
    expect: Vec<String>,
    output_bytes: Option<usize>,
) -> Result<SessionWait> {
    let mut wait = SessionWait::default();
    let soft = millis("timeout_ms", timeout_ms, TURN_MS.0, TURN_MS.1)?;
    wait.soft_timeout_ms = u64::try_from(soft.as_millis()).ok();
    wait.quiet_timeout_ms = quiet_ms;
    wait.expect = expect;
    wait.output_bytes = Some(bytes("output_bytes", output_bytes, TURN_BYTES.0, TURN_BYTES.1)?);
    Ok(wait)
}

fn turn(id: &SessionId, turn: &Turn) -> Result<Value> {
    let mut answer = json!({
        "session": id.as_str(),
        "status": json_of(&turn.status)?,
        "output": turn.output,
        "cwd": turn.cwd,
    });
    if let Some(fields) = answer.as_object_mut() {
        if turn.status == TurnState::Completed {
            fields.insert("exit_code".to_owned(), turn.exit_code.into());
        }
        if let Some(why) = &turn.handed_back {
            fields.insert("handed_back".to_owned(), json_of(why)?);
            let note =
                "It runs on. session_wait waits for it, session_keys types, session_interrupt ends it.";
            fields.insert("note".to_owned(), note.into());
        }
        if turn.truncated {
            fields.insert("truncated".to_owned(), true.into());
        }
        if let Some(index) = turn.expected_index {
            fields.insert("expected_index".to_owned(), index.into());
        }
    }
    Ok(answer)
}

/// `session_run`
pub(super) async fn run(call: &Call, args: args::RunInSession) -> Result<Value> {
    let id = call.session(&args.session).await?;
    let wait = patience(args.timeout_ms, args.quiet_ms, args.expect, args.output_bytes)?;
    if call.stop.is_cancelled() {
        return Err(given_up());
    }
    match call.wait(call.client.session_run(&id, &args.command, &wait)).await {
        Some(done) => turn(&id, &done?),
        None => {
            let at_once = SessionWait { soft_timeout_ms: Some(0), ..SessionWait::default() };
            // Nobody waits for what it began. If it has ended by now, there is nothing to interrupt.
            let _ = call.client.session_interrupt(&id, &at_once).await;
            Err(given_up())
        }
    }
}

/// `session_wait`
pub(super) async fn wait(call: &Call, args: args::WaitSession) -> Result<Value> {
    let id = call.session(&args.session).await?;
    let wait = patience(args.timeout_ms, args.quiet_ms, args.expect, args.output_bytes)?;
    match call.wait(call.client.session_resume(&id, &wait)).await {
        Some(done) => turn(&id, &done?),
        None => Err(given_up()),
    }
}

/// `session_interrupt`
pub(super) async fn interrupt(call: &Call, args: args::WaitSession) -> Result<Value> {
    let id = call.session(&args.session).await?;
    let wait = patience(args.timeout_ms, args.quiet_ms, args.expect, args.output_bytes)?;
    match call.wait(call.client.session_interrupt(&id, &wait)).await {
        Some(done) => turn(&id, &done?),
        None => Err(given_up()),
    }
}

/// `session_keys`
pub(super) async fn keys(call: &Call, args: args::SendKeys) -> Result<Value> {
    let id = call.session(&args.session).await?;
    let mut keys: Vec<Key> = args.text.filter(|t| !t.is_empty()).map(Key::Text).into_iter().collect();
    for name in &args.keys {
        keys.push(key(name)?);
    }
    if keys.is_empty() {
        return Err(Error::invalid("keys", "given, or text"));
    }
    call.client.session_keys(&id, &keys).await?;
    Ok(json!({ "session": id.as_str(), "typed": keys.len() }))
}

/// A key by its name.
fn key(name: &str) -> Result<Key> {
    let lower = name.to_ascii_lowercase();
    let control = lower.strip_prefix("ctrl-").or_else(|| lower.strip_prefix("ctrl+"));
    if let Some(letter) = control.or_else(|| lower.strip_prefix("c-")) {
        let mut letters = letter.chars();
        if let (Some(letter), None) = (letters.next(), letters.next()) {
            return Ok(Key::Ctrl(letter));
        }
    }
    if let Some(number) = lower.strip_prefix('f').and_then(|n| n.parse().ok()) {
        return Ok(Key::Function(number));
    }
    Ok(match lower.as_str() {
        "enter" | "return" => Key::Enter,
        "tab" => Key::Tab,
        "escape" | "esc" => Key::Escape,
        "backspace" => Key::Backspace,
        "delete" => Key::Delete,
        "up" => Key::Up,
        "down" => Key::Down,
        "left" => Key::Left,
        "right" => Key::Right,
        "home" => Key::Home,
        "end" => Key::End,
        "page_up" | "pageup" => Key::PageUp,
        "page_down" | "pagedown" => Key::PageDown,
        "space" => Key::Text(" ".to_owned()),
        _ => {
            let rule = "enter, tab, escape, backspace, delete, up, down, left, right, home, end, page_up, page_down, f1 to \
                        f12, or ctrl- and a letter; characters go into text";
            return Err(Error::invalid("keys", rule).with_context("value", name.escape_debug()));
        }
    })
}

/// `session_screen`
pub(super) async fn screen(call: &Call, args: args::SessionScreen) -> Result<Value> {
    let id = call.session(&args.session).await?;
    let wanted = bytes("scrollback", Some(args.scrollback), 0, SCROLLBACK)?;
    let screen = call.client.session_screen(&id, wanted > 0).await?;
    let above = screen.scrollback.get(screen.scrollback.len().saturating_sub(wanted)..).unwrap_or_default();
    let mut answer = json!({
        "session": id.as_str(),
        "screen": screen.lines.join("\n").trim_end(),
        "cursor": { "row": screen.cursor.row, "col": screen.cursor.col, "visible": screen.cursor.visible },
    });
    if let Some(fields) = answer.as_object_mut().filter(|_| wanted > 0) {
        fields.insert("scrollback".to_owned(), above.join("\n").into());
    }
    Ok(answer)
}

/// `session_close`
pub(super) async fn close(call: &Call, args: args::TheSession) -> Result<Value> {
    let id = call.session(&args.session).await?;
    let mut last = describe(&call.client.close_session(&id).await?);
    if let Some(fields) = last.as_object_mut() {
        fields.insert("closed".to_owned(), true.into());
    }
    Ok(last)
}

/// `session_list`
pub(super) async fn list(call: &Call, args: args::ListSessions) -> Result<Value> {
    let target = args.target.as_deref().map(|t| call.target(t)).transpose()?;
    let all = call.client.sessions(target.as_ref()).await?;
    let covered = |s: &&Session| s.target.parse().is_ok_and(|t| call.options.covers(&t));
    Ok(json!({ "sessions": all.iter().filter(covered).map(describe).collect::<Vec<_>>() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_by_name() {
        assert_eq!(key("ctrl-c").unwrap(), Key::Ctrl('c'));
        assert_eq!(key("C-d").unwrap(), Key::Ctrl('d'));
        assert_eq!(key("F5").unwrap(), Key::Function(5));
        assert_eq!(key("Enter").unwrap(), Key::Enter);
        assert_eq!(key("page_up").unwrap(), Key::PageUp);
        for bad in ["", "ctrl-", "x", "ctrl-cc", "foo"] {
            assert!(key(bad).is_err(), "{bad}");
        }
    }
}
