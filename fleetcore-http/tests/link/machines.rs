//! Machines of an agent's providers: their life from here.

use std::sync::Arc;

use fleetcore::{
    CommandId, CommandSpec, ErrorKind, FanOut, Fleet, Json, MachineFilter, MachineSpec, MachineState,
    OpContext, Operation, StopMode,
};
use fleetcore_testkit::standin::TableProvider;

use super::common::*;

async fn with_machines(home: &Home, name: &str) -> Host {
    let fleet = Fleet::builder().with_provider(Arc::new(TableProvider::default()));
    let host = Host::start_on(fleet, &home.url(), home.tokens.issue(id(name)), |c| c);
    home.up(name).await;
    host
}

async fn operate(home: &Home, target: &str, operation: Operation) -> (bool, String) {
    let command = home.machine(target).operate(operation).await.unwrap();
    let handle = command.handle();
    let mut events = handle.stream(fleetcore::Offset(0));
    let mut text = Vec::new();
    while let Some(event) = limited(futures::StreamExt::next(&mut events)).await {
        if let fleetcore::CommandEvent::Output(chunk) = event.unwrap() {
            text.extend_from_slice(&chunk.data);
        }
    }
    let status = limited(handle.wait()).await.unwrap();
    (status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn machines_of_an_agent_live_and_die_from_here() {
    let home = home().await;
    let _host = with_machines(&home, "office-1").await;
    let target = "office-1/table/dev1";
    let mut spec = MachineSpec::default();
    spec.labels.insert("role".to_owned(), "web".to_owned());
    let (made, output) = operate(&home, target, Operation::Create(Box::new(spec))).await;
    assert!(made, "{output}");
    assert!(output.ends_with("office-1/table/dev1 is running\n"), "{output}");
    assert_eq!(home.run(target, "echo there").await, "there\n");

    let cx = OpContext::default();
    let listing = home.fleet.machines(&cx, &MachineFilter::default()).await.unwrap();
    let names: Vec<String> = listing.machines.iter().map(|m| m.target.to_string()).collect();
    assert_eq!(names, [target]);
    assert_eq!(listing.machines[0].info.labels["role"], "web");

    assert!(operate(&home, target, Operation::Stop(StopMode::Suspend)).await.0);
    assert_eq!(home.machine(target).info(&cx).await.unwrap().state, MachineState::Suspended);
    assert!(operate(&home, target, Operation::Start).await.0);
    assert!(operate(&home, target, Operation::Delete { purge: false }).await.0);
    let recover = Operation::Act { action: "recover".to_owned(), args: Json::new() };
    assert!(operate(&home, target, recover).await.0);
    assert!(operate(&home, target, Operation::Delete { purge: true }).await.0);
    assert_eq!(home.machine(target).info(&cx).await.unwrap_err().kind(), ErrorKind::NotFound);

    let (made, output) = operate(&home, "office-1/table/none", Operation::Start).await;
    assert!(!made && output.contains("\"code\":\"not_found\""), "the agent's own error: {output}");
    let missing = home.machine("office-1/none/dev1").operate(Operation::Start).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn providers_of_agents_are_listed_and_asked() {
    let home = home().await;
    let _host = with_machines(&home, "office-1").await;
    let providers = home.fleet.agent_providers();
    assert_eq!(providers.len(), 1);
    let table = &providers[0];
    assert_eq!((table.scheme(), table.agent().unwrap().as_str()), ("table", "office-1"));
    assert!(table.capabilities().create);
    assert_eq!(table.actions().len(), 2);
    let cx = OpContext::default();
    limited(table.check(&cx)).await.unwrap();
    assert_eq!(limited(table.act(&cx, "count", Json::new())).await.unwrap(), 0);
}

#[tokio::test]
async fn one_command_on_hosts_of_agents_and_their_machines() {
    let home = home().await;
    let _one = with_machines(&home, "office-1").await;
    let _two = with_machines(&home, "office-2").await;
    let spec = Box::new(MachineSpec::default());
    assert!(operate(&home, "office-2/table/a", Operation::Create(spec)).await.0);
    let patterns = ["office-*", "*/table/*"].map(|p| p.parse().unwrap()).to_vec();
    let plan = FanOut::new(patterns, CommandSpec::argv(["true"]));
    let parent = CommandId::generate();
    let command = home.fleet.fan_out(&OpContext::default(), parent, plan).await.unwrap();
    let output = limited(command.output()).await.unwrap().check().unwrap().text();
    let summary = output.lines().last().unwrap();
    assert!(summary.contains("\"succeeded\":3") && summary.contains("\"targets\":3"), "{output}");
    // One that is away fails alone.
    let patterns = ["office-*", "nobody"].map(|p| p.parse().unwrap()).to_vec();
    let plan = FanOut::new(patterns, CommandSpec::argv(["true"]));
    let command = home.fleet.fan_out(&OpContext::default(), CommandId::generate(), plan).await.unwrap();
    let output = limited(command.output()).await.unwrap();
    assert!(!output.status.success());
    assert!(
        output.text().contains("\"failed\":1") && output.text().contains("\"succeeded\":2"),
        "{output:?}"
    );
}
