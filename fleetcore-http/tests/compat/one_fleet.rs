//! The dialect on a full server: its machines are the fleet's machines.

use std::sync::Arc;

use fleetcore::{
    CommandState, ErrorKind, Fleet, FleetBuilder, FleetEvent, MachineFilter, MachineInfo, MachineState,
    OpContext, Operation, Program, StopMode,
    backends::multipass::{Multipass as Provider, MultipassConfig},
    store::memory::MemoryStore,
};
use serde_json::{Value, json};

use crate::common::*;

async fn full(local: &Multipass) -> (Running, String) {
    let program = local.program();
    let args = ["--host", "127.0.0.1", "--port", "0", "--multipass", &program, "--open-enrolment"];
    let provider = Provider::new(MultipassConfig::default().with_program(&program));
    let add = |fleet: FleetBuilder| fleet.with_provider(Arc::new(provider));
    let (dir, store) = (Arc::new(tempfile::tempdir().unwrap()), Arc::new(MemoryStore::new()));
    let master = Running::start_among("batwa-server", &args, dir, store, add).await;
    let cookie = master.login().await;
    (master, cookie)
}

async fn machines(fleet: &Fleet) -> Vec<MachineInfo> {
    let listing = fleet.machines(&OpContext::default(), &MachineFilter::default()).await.unwrap();
    assert!(listing.failures.is_empty(), "{:?}", listing.failures);
    listing.machines.into_iter().map(|m| m.info).collect()
}

async fn state(fleet: &Fleet, name: &str) -> Option<MachineState> {
    machines(fleet).await.into_iter().find(|m| m.id.as_str() == name).map(|m| m.state)
}

/// The state of a machine in Batwa's list.
async fn shown(master: &Running, cookie: &str, name: &str, agent: Option<&str>) -> Value {
    let list = master.get("/api/vm/list", &[("Cookie", cookie)]).await.json();
    let same = |v: &&Value| v["name"] == name && v["agent_id"] == json!(agent);
    list["vms"].as_array().unwrap().iter().find(same).map(|v| v["state"].clone()).unwrap_or_default()
}

#[tokio::test]
async fn machines_of_this_host_are_the_same_machines() {
    let local = Multipass::local();
    let (master, cookie) = full(&local).await;
    let fleet = master.fleet.clone();
    assert_eq!(state(&fleet, "db").await, Some(MachineState::Stopped));
    assert_eq!(shown(&master, &cookie, "db", None).await, "Stopped");

    // Done here, seen there at once, told to whoever listens, and recorded with its user.
    let mut events = fleet.events();
    let reply = master.post("/api/vm/start", &[("Cookie", &cookie)], &json!({"name": "db"})).await;
    assert_eq!(reply.json(), json!({"success": true, "message": "VM 'db' started"}));
    assert_eq!(state(&fleet, "db").await, Some(MachineState::Running));
    let (mut told, mut recorded) = (false, false);
    let both = async {
        while !(told && recorded) {
            match events.recv().await.unwrap() {
                FleetEvent::Machine(target, info) => {
                    told |= target.to_string() == "multipass/db" && info.state == MachineState::Running;
                }
                FleetEvent::Command(record) if record.state == CommandState::Succeeded => {
                    let Program::Argv(argv) = &record.program else { continue };
                    let argv: Vec<&str> = argv.iter().map(String::as_str).skip(1).collect();
                    assert_eq!((argv, record.actor.as_deref()), (vec!["start", "db"], Some("admin")));
                    assert_eq!(record.labels["vm"], "db");
                    recorded = true;
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(LIMIT, both).await.expect("events");

    // The other way round.
    assert_eq!(shown(&master, &cookie, "db", None).await, "Running");
    let machine = fleet.machine("multipass/db").unwrap();
    let stopped = machine.operate(Operation::Stop(StopMode::Graceful)).await.unwrap().output().await.unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    eventually("it is stopped there too", async || {
        (shown(&master, &cookie, "db", None).await == "Stopped").then_some(())
    })
    .await;
}

#[tokio::test]
async fn machines_of_agents_are_machines_of_the_fleet() {
    let (local, theirs) = (Multipass::local(), Multipass::agent());
    let (master, cookie) = full(&local).await;
    let agent = Running::agent(&theirs, &["--agent-id", "agent1", "--api-key", AGENT_KEY]).await;
    assert_eq!(master.register("agent1", &agent.url(), Some(AGENT_KEY)).await.status, 200);
    let fleet = master.fleet.clone();

    let all = machines(&fleet).await;
    let web = all.iter().find(|m| m.id.as_str() == "agent1.web").expect("batwa/agent1.web");
    assert_eq!(
        (web.state, web.labels["agent"].as_str(), web.labels["host"].as_str()),
        (MachineState::Running, "agent1", "h1")
    );
    assert_eq!(web.addresses, ["10.5.0.7".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(state(&fleet, "agent1.batch").await, Some(MachineState::Suspended));

    let operate = async |name: &str, operation: Operation| {
        fleet.machine(name).unwrap().operate(operation).await.unwrap().output().await.unwrap()
    };
    assert!(operate("batwa/agent1.batch", Operation::Start).await.status.success());
    assert_eq!(theirs.argv(), [["multipass", "start", "batch"]]);
    assert_eq!(shown(&master, &cookie, "batch", Some("agent1")).await, "Running");
    let body = json!({"name": "batch", "agent_id": "agent1"});
    assert_eq!(master.post("/api/vm/stop", &[("Cookie", &cookie)], &body).await.status, 200);
    assert_eq!(state(&fleet, "agent1.batch").await, Some(MachineState::Stopped));
    assert!(operate("batwa/agent1.batch", Operation::Delete { purge: true }).await.status.success());
    assert_eq!(state(&fleet, "agent1.batch").await, None);
    assert_eq!(shown(&master, &cookie, "batch", Some("agent1")).await, Value::Null);

    let failed = operate("batwa/agent1.nosuch", Operation::Start).await;
    assert!(!failed.status.success());
    assert!(failed.text().contains("does not exist"), "{failed:?}");
    let unknown = operate("batwa/ghost.web", Operation::Start).await;
    assert!(unknown.text().contains("Agent not found: ghost"), "{unknown:?}");
    let cx = OpContext::default();
    let error = fleet.machine("batwa/agent1.web").unwrap().executor(&cx).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let agents = fleet.provider("batwa").unwrap().act(&cx, "agents", Default::default()).await.unwrap();
    assert_eq!(agents[0]["agent_id"], "agent1");

    // An agent that is gone hides nothing: its machines are as they were, in a state nobody knows.
    agent.stop().await;
    eventually("nobody knows", async || {
        (state(&fleet, "agent1.web").await == Some(MachineState::Unknown)).then_some(())
    })
    .await;
    assert_eq!(state(&fleet, "primary").await, Some(MachineState::Running), "those of this host");
}
