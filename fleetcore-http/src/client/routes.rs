//! Targets and commands.

use std::time::Duration;

use fleetcore::{ByteStream, CommandId, PtySize, Result, Signal, Target};
use futures::StreamExt as _;
use reqwest::{Body, Method};
use serde_json::json;

use super::{
    Client, frames,
    wire::{self, Command, CommandQuery, Load, NewCommand, Page, Pong},
};

impl Client {
    /// All targets, local first.
    ///
    /// # Errors
    /// `Unauthenticated`, `PermissionDenied`, `Unavailable`, as every method here.
    pub async fn targets(&self) -> Result<Vec<wire::Target>> {
        let page: Page<wire::Target> = self.get("client.targets", &["api", "v1", "targets"], &[]).await?;
        Ok(page.items)
    }

    /// One target.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    pub async fn target(&self, target: &Target) -> Result<wire::Target> {
        self.get("client.target", &["api", "v1", "targets", &target.to_string()], &[]).await
    }

    /// Load of a target over the last minutes, oldest first.
    ///
    /// # Errors
    /// `NotFound` when there is no such target.
    pub async fn load(&self, target: &Target) -> Result<Vec<Load>> {
        let page: Page<Load> =
            self.get("client.load", &["api", "v1", "targets", &target.to_string(), "load"], &[]).await?;
        Ok(page.items)
    }

    /// Checks that a target can be reached.
    ///
    /// # Errors
    /// `Unavailable` when it cannot.
    pub async fn ping(&self, target: &Target) -> Result<Pong> {
        self.post("client.ping", &["api", "v1", "targets", &target.to_string(), "ping"], &json!({})).await
    }

    /// Creates a command. With an id of your own, sending it twice creates it once.
    ///
    /// # Errors
    /// `InvalidInput`; `NotFound` or `PermissionDenied` when the program cannot be started; `AlreadyExists` when the
    /// id belongs to a different command.
    pub async fn create_command(&self, command: &NewCommand) -> Result<Command> {
        self.post("client.create_command", &["api", "v1", "commands"], command).await
    }

    /// One page of commands, newest first.
    ///
    /// # Errors
    /// `InvalidInput` for a bad filter.
    pub async fn commands(&self, query: &CommandQuery) -> Result<Page<Command>> {
        self.get("client.commands", &["api", "v1", "commands"], &query.pairs()).await
    }

    /// One command.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn command(&self, id: CommandId) -> Result<Command> {
        self.get("client.command", &["api", "v1", "commands", &id.to_string()], &[]).await
    }

    /// One command, as soon as it has settled or `limit` has passed.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn wait_command(&self, id: CommandId, limit: Duration) -> Result<Command> {
        let query = [("wait_ms", wire::millis(limit).to_string())];
        self.get("client.wait_command", &["api", "v1", "commands", &id.to_string()], &query).await
    }

    /// Signals a command.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` when it has ended.
    pub async fn signal(&self, id: CommandId, signal: Signal) -> Result<()> {
        let body = json!({ "signal": frames::signal_name(signal) });
        let request = self.request(Method::POST, &["api", "v1", "commands", &id.to_string(), "signal"]);
        self.no_answer("client.signal", request.json(&body)).await
    }

    /// Ends a command: the polite signal, its grace, then KILL. Answers at once.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` when it has ended.
    pub async fn cancel(&self, id: CommandId) -> Result<Command> {
        self.post("client.cancel", &["api", "v1", "commands", &id.to_string(), "cancel"], &json!({})).await
    }

    /// Changes the terminal size of a command.
    ///
    /// # Errors
    /// `InvalidState` when it has no terminal or has ended.
    pub async fn resize(&self, id: CommandId, size: PtySize) -> Result<()> {
        let request = self.request(Method::POST, &["api", "v1", "commands", &id.to_string(), "resize"]);
        self.no_answer("client.resize", request.json(&size)).await
    }

    /// Streams input to a command, as fast as it reads; `close` closes its input afterwards.
    ///
    /// # Errors
    /// `InvalidState` when it takes no input or has ended; errors of `data`.
    pub async fn write_stdin(&self, id: CommandId, data: ByteStream, close: bool) -> Result<()> {
        let request = self.request(Method::POST, &["api", "v1", "commands", &id.to_string(), "stdin"]);
        let body = Body::wrap_stream(data.boxed());
        self.no_answer("client.write_stdin", request.query(&[("close", close)]).body(body)).await
    }

    /// Closes the input of a command.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` when it takes no input.
    pub async fn close_stdin(&self, id: CommandId) -> Result<()> {
        let request = self.request(Method::DELETE, &["api", "v1", "commands", &id.to_string(), "stdin"]);
        self.no_answer("client.close_stdin", request).await
    }
}
