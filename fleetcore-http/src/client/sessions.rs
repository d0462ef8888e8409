//! Sessions of a server.

use std::ops::Range;

use fleetcore::{Key, Offset, PtySize, Result, SessionId, Target};
use reqwest::Method;
use serde_json::json;

use super::{
    Client,
    wire::{NewSession, Page, Screen, Session, SessionWait, Turn, TurnText},
};

impl Client {
    /// Opens a session. It belongs to the server and outlives the connection.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken; `InvalidInput`; `NotFound` for the target or the shell.
    pub async fn open_session(&self, session: &NewSession) -> Result<Session> {
        self.post("client.open_session", &["api", "v1", "sessions"], session).await
    }

    /// Open sessions, all or on one target.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub async fn sessions(&self, target: Option<&Target>) -> Result<Vec<Session>> {
        let query: Vec<_> = target.map(|t| ("target", t.to_string())).into_iter().collect();
        let page: Page<Session> = self.get("client.sessions", &["api", "v1", "sessions"], &query).await?;
        Ok(page.items)
    }

    /// One session.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn session(&self, id: &SessionId) -> Result<Session> {
        self.get("client.session", &["api", "v1", "sessions", id.as_str()], &[]).await
    }

    /// Ends a session and all its jobs; answers with its last state.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn close_session(&self, id: &SessionId) -> Result<Session> {
        let request = self.request(Method::DELETE, &["api", "v1", "sessions", id.as_str()]);
        self.json("client.close_session", request).await
    }

    /// Runs a command in a session.
    ///
    /// # Errors
    /// `Busy` while another runs; `InvalidState` once the shell has ended.
    pub async fn session_run(&self, id: &SessionId, command: &str, wait: &SessionWait) -> Result<Turn> {
        let body = json!({ "command": command, "wait": wait });
        self.post("client.session_run", &["api", "v1", "sessions", id.as_str(), "run"], &body).await
    }

    /// Waits on for the command that is still running.
    ///
    /// # Errors
    /// `InvalidState` when none is.
    pub async fn session_resume(&self, id: &SessionId, wait: &SessionWait) -> Result<Turn> {
        let body = json!({ "wait": wait });
        self.post("client.session_resume", &["api", "v1", "sessions", id.as_str(), "resume"], &body).await
    }

    /// Types Ctrl-C, then waits.
    ///
    /// # Errors
    /// `InvalidState` when nothing runs.
    pub async fn session_interrupt(&self, id: &SessionId, wait: &SessionWait) -> Result<Turn> {
        let body = json!({ "wait": wait });
        self.post("client.session_interrupt", &["api", "v1", "sessions", id.as_str(), "interrupt"], &body)
            .await
    }

    /// Types keys.
    ///
    /// # Errors
    /// `InvalidState` once the shell has ended.
    pub async fn session_keys(&self, id: &SessionId, keys: &[Key]) -> Result<()> {
        let request = self.request(Method::POST, &["api", "v1", "sessions", id.as_str(), "keys"]);
        self.no_answer("client.session_keys", request.json(&json!({ "keys": keys }))).await
    }

    /// Changes the terminal size for all viewers.
    ///
    /// # Errors
    /// `InvalidInput` for a size of 0.
    pub async fn session_resize(&self, id: &SessionId, size: PtySize) -> Result<()> {
        let request = self.request(Method::POST, &["api", "v1", "sessions", id.as_str(), "resize"]);
        self.no_answer("client.session_resize", request.json(&size)).await
    }

    /// Text of a part of its output, as commands wrote it: without the shell's own marks and echo.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` for a range that ends before it starts.
    pub async fn session_text(&self, id: &SessionId, range: Range<Offset>) -> Result<String> {
        let query = [("from", range.start.to_string()), ("to", range.end.to_string())];
        let text: TurnText =
            self.get("client.session_text", &["api", "v1", "sessions", id.as_str(), "text"], &query).await?;
        Ok(text.text)
    }

    /// What the terminal shows, as text.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn session_screen(&self, id: &SessionId, scrollback: bool) -> Result<Screen> {
        let query = [("scrollback", scrollback.to_string())];
        self.get("client.session_screen", &["api", "v1", "sessions", id.as_str(), "screen"], &query).await
    }
}
