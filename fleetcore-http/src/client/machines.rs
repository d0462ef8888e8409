//! Providers, the life of machines, and one command on many targets.

use fleetcore::{CommandId, Error, Json, Result, StopMode, Target};
use serde_json::json;

use super::{
    Client, problem,
    wire::{Acted, Command, Machine, MachineQuery, Machines, NewFanOut, NewMachine, Page, Provider},
};

/// The error in a problem document, e.g. in the last lines of an operation's output.
pub fn parse_problem(json: &[u8]) -> Error {
    problem::error("", None, json)
}

fn with_id(mut body: serde_json::Value, id: Option<CommandId>) -> serde_json::Value {
    if let (Some(id), Some(fields)) = (id, body.as_object_mut()) {
        fields.insert("id".to_owned(), id.to_string().into());
    }
    body
}

impl Client {
    /// All providers, and whether they work.
    ///
    /// # Errors
    /// `PermissionDenied`, `Unavailable`, as every method here.
    pub async fn providers(&self) -> Result<Vec<Provider>> {
        let page: Page<Provider> = self.get("client.providers", &["api", "v1", "providers"], &[]).await?;
        Ok(page.items)
    }

    /// Machines of all providers.
    ///
    /// # Errors
    /// `InvalidInput` for a bad filter. A provider that fails is in the answer.
    pub async fn machines(&self, query: &MachineQuery) -> Result<Machines> {
        self.get("client.machines", &["api", "v1", "machines"], &query.pairs()).await
    }

    /// One machine.
    ///
    /// # Errors
    /// `NotFound`; those of its provider.
    pub async fn machine(&self, target: &Target) -> Result<Machine> {
        self.get("client.machine", &["api", "v1", "targets", &target.to_string(), "machine"], &[]).await
    }

    /// Begins to make a machine; the command exits 0 when it is running, and its output is the progress.
    ///
    /// # Errors
    /// `InvalidInput`; `NotFound` for the provider; `Unsupported`.
    pub async fn create_machine(&self, machine: &NewMachine) -> Result<Command> {
        self.post("client.create_machine", &["api", "v1", "machines"], machine).await
    }

    /// Begins to start a machine.
    ///
    /// # Errors
    /// `NotFound` for the provider; `Unsupported`.
    pub async fn start_machine(&self, target: &Target, id: Option<CommandId>) -> Result<Command> {
        let path = ["api", "v1", "targets", &target.to_string(), "start"];
        self.post("client.start_machine", &path, &with_id(json!({}), id)).await
    }

    /// Begins to stop a machine.
    ///
    /// # Errors
    /// `NotFound` for the provider; `Unsupported`.
    pub async fn stop_machine(
        &self,
        target: &Target,
        id: Option<CommandId>,
        mode: StopMode,
    ) -> Result<Command> {
        let path = ["api", "v1", "targets", &target.to_string(), "stop"];
        self.post("client.stop_machine", &path, &with_id(json!({ "mode": mode }), id)).await
    }

    /// Begins to delete a machine, for good with `purge`.
    ///
    /// # Errors
    /// `NotFound` for the provider; `Unsupported`.
    pub async fn delete_machine(
        &self,
        target: &Target,
        id: Option<CommandId>,
        purge: bool,
    ) -> Result<Command> {
        let path = ["api", "v1", "targets", &target.to_string(), "delete"];
        self.post("client.delete_machine", &path, &with_id(json!({ "purge": purge }), id)).await
    }

    /// Does an action of a machine's provider to it.
    ///
    /// # Errors
    /// `NotFound` for the provider and the action; `InvalidInput` for bad arguments; those of a question.
    pub async fn act_machine(
        &self,
        target: &Target,
        id: Option<CommandId>,
        action: &str,
        args: &Json,
    ) -> Result<Acted> {
        let path = ["api", "v1", "targets", &target.to_string(), "actions", action];
        self.post("client.act_machine", &path, &with_id(json!({ "args": args }), id)).await
    }

    /// Does an action of a provider as a whole.
    ///
    /// # Errors
    /// As for [`act_machine`](Self::act_machine).
    pub async fn act_provider(
        &self,
        provider: &str,
        id: Option<CommandId>,
        action: &str,
        args: &Json,
    ) -> Result<Acted> {
        let path = ["api", "v1", "providers", provider, "actions", action];
        self.post("client.act_provider", &path, &with_id(json!({ "args": args }), id)).await
    }

    /// Begins to run one command on many targets. The answer is the parent; its output has one
    /// [`FanOutLine`](super::wire::FanOutLine) per line.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub async fn fan_out(&self, plan: &NewFanOut) -> Result<Command> {
        self.post("client.fan_out", &["api", "v1", "fanout"], plan).await
    }
}
