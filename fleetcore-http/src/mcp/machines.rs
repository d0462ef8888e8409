//! Tools for targets and machines.

use fleetcore::{CommandId, Error, ErrorKind, MachineSpec, Pattern, Result, StopMode, Target};
use serde_json::{Value, json};

use super::{answer::json_of, args, call::Call, follow::follow};
use crate::client::{
    parse_problem,
    wire::{Command, MachineQuery, NewMachine},
};

/// Progress of an operation that is read for its last line, which says why it failed.
const LOG_BYTES: usize = 64 << 10;

/// `targets_list`
pub(super) async fn targets(call: &Call, args: args::ListTargets) -> Result<Value> {
    let pattern: Option<Pattern> = args.pattern.as_deref().map(str::parse).transpose()?;
    let mut items = Vec::new();
    for target in call.client.targets().await? {
        let Ok(name) = target.target.parse::<Target>() else { continue };
        if !call.options.covers(&name) || pattern.as_ref().is_some_and(|p| !p.matches(&name)) {
            continue;
        }
        let mut item = json_of(&target)?;
        if let Some(fields) = item.as_object_mut() {
            // Figures that change all the time, and facts nobody knows.
            fields.remove("load");
            fields.retain(|_, value| !value.is_null());
        }
        items.push(item);
    }
    Ok(json!({ "targets": items }))
}

/// `provider_list`
pub(super) async fn providers(call: &Call, _: args::Nothing) -> Result<Value> {
    Ok(json!({ "providers": json_of(&call.client.providers().await?)? }))
}

/// `machine_list`
pub(super) async fn list(call: &Call, args: args::ListMachines) -> Result<Value> {
    let query = MachineQuery {
        provider: args.provider,
        include_deleted: args.include_deleted,
        ..MachineQuery::default()
    };
    let mut all = call.client.machines(&query).await?;
    all.items.retain(|m| m.target.parse().is_ok_and(|t| call.options.covers(&t)));
    Ok(json!({ "machines": json_of(&all.items)?, "errors": json_of(&all.errors)? }))
}

/// `machine_create`
pub(super) async fn create(call: &Call, args: args::CreateMachine) -> Result<Value> {
    let target = call.target(&args.target)?;
    let mut spec = MachineSpec::default();
    if let Some(name) = target.machine_id() {
        name.as_str().clone_into(&mut spec.name);
    }
    spec.image = args.image;
    spec.cpus = args.cpus;
    spec.memory_bytes = args.memory_bytes;
    spec.disk_bytes = args.disk_bytes;
    spec.labels = args.labels;
    spec.options = args.options;
    let mut machine = NewMachine::from_spec(&target, &spec)?;
    machine.id = Some(CommandId::generate().to_string());
    finish(call, &call.client.create_machine(&machine).await?).await?;
    now(call, &target).await
}

/// `machine_start`
pub(super) async fn start(call: &Call, args: args::TheMachine) -> Result<Value> {
    let target = call.target(&args.target)?;
    let id = Some(CommandId::generate());
    finish(call, &call.client.start_machine(&target, id).await?).await?;
    now(call, &target).await
}

/// `machine_stop`
pub(super) async fn stop(call: &Call, args: args::StopMachine) -> Result<Value> {
    let target = call.target(&args.target)?;
    let mode = match args.mode {
        args::HowToStop::Graceful => StopMode::Graceful,
        args::HowToStop::Force => StopMode::Force,
        args::HowToStop::Suspend => StopMode::Suspend,
    };
    let id = Some(CommandId::generate());
    finish(call, &call.client.stop_machine(&target, id, mode).await?).await?;
    now(call, &target).await
}

/// `machine_delete`
pub(super) async fn delete(call: &Call, args: args::DeleteMachine) -> Result<Value> {
    let target = call.target(&args.target)?;
    let id = Some(CommandId::generate());
    finish(call, &call.client.delete_machine(&target, id, args.purge).await?).await?;
    Ok(json!({ "target": target.to_string(), "deleted": true, "purged": args.purge }))
}

async fn now(call: &Call, target: &Target) -> Result<Value> {
    json_of(&call.client.machine(target).await?)
}

/// Waits for an operation; its last lines say why it failed.
async fn finish(call: &Call, command: &Command) -> Result<()> {
    let done = follow(call, command.id.parse()?, LOG_BYTES).await?;
    if done.status.success() {
        return Ok(());
    }
    let log = format!("{}\n{}", done.stdout.text(), done.stderr.text());
    let why = log.lines().rev().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        Some(parse_problem(line.get("problem")?.to_string().as_bytes()))
    });
    Err(why.unwrap_or_else(|| {
        Error::new(ErrorKind::Cancelled, "it was given up").with_context("command", &command.id)
    }))
}
