//! Machines, here or on a server.

use async_trait::async_trait;
use fleetcore::{
    ActionInfo, CommandEvent, CommandId, Error, ErrorKind, FanOut, Json, MachineFilter, Offset, OnDrop,
    OpContext, Operation, Overflow, Result, StopMode, Target,
};
use fleetcore_http::client::{
    Transport,
    wire::{Acted, Machine, MachineQuery, Machines, NewFanOut, NewMachine, Provider},
};
use futures::{StreamExt as _, stream::BoxStream};

use super::{Control as _, Running, local::LocalControl, needs_server, remote::RemoteControl};

/// What became of an operation that was asked for.
pub(crate) enum Done {
    /// It is a command now. Without `Running` when nobody wants to wait for it.
    Begun(CommandId, Option<Running>),
    /// It was a question.
    Answered(serde_json::Value),
}

/// What is done to machines, and on many of them.
#[async_trait]
pub(crate) trait MachineControl: Send + Sync {
    /// Machines of all providers.
    async fn machines(&self, query: &MachineQuery) -> Result<Machines>;
    /// One machine.
    async fn machine(&self, target: &Target) -> Result<Machine>;
    /// All providers, and whether they work.
    async fn providers(&self) -> Result<Vec<Provider>>;
    /// What a provider can do besides the life of machines.
    async fn actions(&self, agent: Option<&str>, provider: &str) -> Result<Vec<ActionInfo>>;
    /// Does something to a machine; `wait` for a view of it.
    async fn operate(&self, id: CommandId, target: &Target, operation: Operation, wait: bool)
    -> Result<Done>;
    /// Does something with a provider as a whole.
    async fn act_provider(&self, id: CommandId, provider: &str, action: &str, args: Json) -> Result<Done>;
    /// Runs a command on many targets; what is given is the parent.
    async fn fan_out(&self, id: CommandId, plan: FanOut, wait: bool) -> Result<Option<Running>>;
    /// All output of a child of our own fan-out.
    async fn child(&self, id: CommandId) -> Result<BoxStream<'static, Result<CommandEvent>>>;
}

fn poisoned() -> Error {
    Error::new(ErrorKind::Unexpected, "a table of commands is in disorder")
}

#[async_trait]
impl MachineControl for LocalControl {
    async fn machines(&self, query: &MachineQuery) -> Result<Machines> {
        let mut filter = MachineFilter::default();
        filter.include_deleted = query.include_deleted;
        filter.labels = query.labels.clone();
        let listing = self.fleet.machines(&OpContext::default(), &filter).await?;
        let wanted = |provider: &str| query.provider.as_deref().is_none_or(|p| p == provider);
        let items = listing.machines.iter().filter(|m| wanted(&m.provider));
        let items = items.filter(|m| query.states.is_empty() || query.states.contains(&m.info.state));
        Ok(Machines::new(
            items.map(|m| Machine::from_info(&m.target, &m.info)).collect(),
            listing.failures.iter().filter(|f| wanted(&f.provider)).map(Into::into).collect(),
        ))
    }

    async fn machine(&self, target: &Target) -> Result<Machine> {
        let info = self.fleet.target(target)?.info(&OpContext::default()).await?;
        Ok(Machine::from_info(target, &info))
    }

    async fn providers(&self) -> Result<Vec<Provider>> {
        let mut all = Vec::new();
        for provider in self.fleet.providers() {
            let works = provider.check(&OpContext::default()).await;
            all.push(Provider::from_handle(&provider, works));
        }
        Ok(all)
    }

    async fn actions(&self, agent: Option<&str>, provider: &str) -> Result<Vec<ActionInfo>> {
        if agent.is_some() {
            return Err(needs_server("an agent"));
        }
        Ok(self.fleet.provider(provider)?.actions())
    }

    async fn operate(
        &self,
        id: CommandId,
        target: &Target,
        operation: Operation,
        wait: bool,
    ) -> Result<Done> {
        if !wait {
            return Err(needs_server("--no-wait"));
        }
        let machine = self.fleet.target(target)?;
        if let Operation::Act { action, args } = &operation
            && machine.actions().iter().any(|a| a.name == *action && !a.changes)
        {
            return Ok(Done::Answered(machine.act(&OpContext::default(), action, args.clone()).await?));
        }
        let handle = machine.operate_with(&OpContext::default(), id, operation).await?.detach();
        Ok(Done::Begun(id, Some(self.running(handle, Offset(0)))))
    }

    async fn act_provider(&self, id: CommandId, provider: &str, action: &str, args: Json) -> Result<Done> {
        let provider = self.fleet.provider(provider)?;
        let cx = OpContext::default();
        if provider.actions().iter().any(|a| a.name == action && !a.changes) {
            return Ok(Done::Answered(provider.act(&cx, action, args).await?));
        }
        let handle = provider.operate_with(&cx, id, action, args).await?.detach();
        Ok(Done::Begun(id, Some(self.running(handle, Offset(0)))))
    }

    async fn fan_out(&self, id: CommandId, mut plan: FanOut, wait: bool) -> Result<Option<Running>> {
        if !wait {
            return Err(needs_server("--detach"));
        }
        plan.command = plan.command.with_on_drop(OnDrop::Detach);
        // We read all of it, and nothing else keeps it for sure.
        plan.command.overflow = Overflow::Block;
        let children = self.children.clone();
        let plan = plan.with_on_start(move |handle| {
            if let Ok(mut children) = children.lock() {
                children.insert(handle.id(), handle.clone());
            }
        });
        let handle = self.fleet.fan_out(&OpContext::default(), id, plan).await?.detach();
        Ok(Some(self.running(handle, Offset(0))))
    }

    async fn child(&self, id: CommandId) -> Result<BoxStream<'static, Result<CommandEvent>>> {
        let handle = self.children.lock().map_err(|_| poisoned())?.remove(&id);
        let handle = handle
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such command").with_context("command", id))?;
        Ok(handle.stream(Offset(0)).boxed())
    }
}

#[async_trait]
impl MachineControl for RemoteControl {
    async fn machines(&self, query: &MachineQuery) -> Result<Machines> {
        self.client.machines(query).await
    }

    async fn machine(&self, target: &Target) -> Result<Machine> {
        self.client.machine(target).await
    }

    async fn providers(&self) -> Result<Vec<Provider>> {
        self.client.providers().await
    }

    async fn actions(&self, agent: Option<&str>, provider: &str) -> Result<Vec<ActionInfo>> {
        let all = self.client.providers().await?;
        let found = all.into_iter().find(|p| p.name == provider && p.agent.as_deref() == agent);
        found.map(|p| p.actions).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "no such provider").with_context("provider", provider)
        })
    }

    async fn operate(
        &self,
        id: CommandId,
        target: &Target,
        operation: Operation,
        wait: bool,
    ) -> Result<Done> {
        let client = &self.client;
        match &operation {
            Operation::Create(spec) => {
                let mut request = NewMachine::from_spec(target, spec)?;
                request.id = Some(id.to_string());
                client.create_machine(&request).await?;
            }
            Operation::Start => drop(client.start_machine(target, Some(id)).await?),
            Operation::Stop(mode) => {
                let mode: StopMode = *mode;
                client.stop_machine(target, Some(id), mode).await?;
            }
            Operation::Delete { purge } => drop(client.delete_machine(target, Some(id), *purge).await?),
            Operation::Act { action, args } => {
                if let Acted::Answer { result } = client.act_machine(target, Some(id), action, args).await? {
                    return Ok(Done::Answered(result));
                }
            }
            _ => return Err(Error::unsupported("operate")),
        }
        self.begun(id, wait).await
    }

    async fn act_provider(&self, id: CommandId, provider: &str, action: &str, args: Json) -> Result<Done> {
        match self.client.act_provider(provider, Some(id), action, &args).await? {
            Acted::Answer { result } => Ok(Done::Answered(result)),
            _ => self.begun(id, true).await,
        }
    }

    async fn fan_out(&self, id: CommandId, plan: FanOut, wait: bool) -> Result<Option<Running>> {
        let mut request = NewFanOut::from_plan(&plan)?;
        request.id = Some(id.to_string());
        self.client.fan_out(&request).await?;
        match self.begun(id, wait).await? {
            Done::Begun(_, running) => Ok(running),
            Done::Answered(_) => Ok(None),
        }
    }

    async fn child(&self, id: CommandId) -> Result<BoxStream<'static, Result<CommandEvent>>> {
        Ok(self.client.output(id, Offset(0), Transport::WebSocket).await?.boxed())
    }
}

impl RemoteControl {
    async fn begun(&self, id: CommandId, wait: bool) -> Result<Done> {
        let running = if wait { Some(self.attach(id, Offset(0), false).await?) } else { None };
        Ok(Done::Begun(id, running))
    }
}
