//! What every [`AgentRegistry`] promises.
#![expect(clippy::unwrap_used, clippy::panic, reason = "cases fail by panicking")]

use std::{sync::Arc, time::Duration};

use fleetcore::{
    AgentId, AgentRegistration, AgentRegistry, AgentReport, CommandId, ErrorKind, Labels, RegistryEvent,
};
use futures::{StreamExt, future::join_all, stream::BoxStream};
use jiff::{SignedDuration, Timestamp};

use super::{Case, cases};

const TTL: Duration = Duration::from_secs(30);

/// All cases.
pub fn all() -> Vec<Case<dyn AgentRegistry>> {
    cases![
        an_agent_is_known_after_it_registered,
        a_new_registration_fences_out_the_old,
        epochs_never_go_back,
        of_many_registrations_all_differ,
        unknown_agents_are_not_found,
        expire_reports_each_agent_once,
        a_heartbeat_brings_an_agent_back,
        agents_are_listed_by_label,
        a_lease_needs_a_time,
        watch_gives_a_snapshot_then_changes,
        a_watcher_that_fell_behind_gets_a_new_snapshot,
    ]
}

fn agent(name: &str) -> AgentRegistration {
    AgentRegistration::new(AgentId::new(name).unwrap(), "1.0")
}

fn report(text: &str) -> AgentReport {
    let mut report = AgentReport::default();
    report.running = vec![CommandId::generate()];
    report.status.insert("note".to_owned(), text.into());
    report
}

fn later(seconds: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(seconds)
}

async fn an_agent_is_known_after_it_registered(registry: Arc<dyn AgentRegistry>) {
    let mut a = agent("a");
    a.endpoint = Some("https://a".to_owned());
    a.labels.insert("k".to_owned(), "v".to_owned());
    let lease = registry.register(a.clone(), TTL).await.unwrap();
    assert_eq!(lease.ttl, TTL);
    assert!(lease.expires_at > Timestamp::now());
    let info = registry.get(&a.id).await.unwrap();
    assert_eq!((&info.registration, &info.lease, info.online), (&a, &lease, true));
    let news = report("busy");
    let renewed = registry.heartbeat(&lease, news.clone()).await.unwrap();
    assert_eq!(renewed.epoch, lease.epoch);
    assert!(renewed.expires_at >= lease.expires_at);
    let after = registry.get(&a.id).await.unwrap();
    assert_eq!((after.report, after.lease), (news, renewed));
    assert!(after.revision > info.revision);
}

async fn a_new_registration_fences_out_the_old(registry: Arc<dyn AgentRegistry>) {
    let old = registry.register(agent("a"), TTL).await.unwrap();
    let new = registry.register(agent("a"), TTL).await.unwrap();
    assert!(new.epoch > old.epoch);
    let err = registry.heartbeat(&old, AgentReport::default()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Conflict);
    assert_eq!(registry.deregister(&old).await.unwrap_err().kind(), ErrorKind::Conflict);
    registry.heartbeat(&new, AgentReport::default()).await.unwrap();
    registry.deregister(&new).await.unwrap();
    assert_eq!(registry.get(&new.agent).await.unwrap_err().kind(), ErrorKind::NotFound);
}

async fn epochs_never_go_back(registry: Arc<dyn AgentRegistry>) {
    let mut last = 0;
    for _ in 0..5 {
        let lease = registry.register(agent("a"), TTL).await.unwrap();
        assert!(lease.epoch > last);
        last = lease.epoch;
        registry.deregister(&lease).await.unwrap();
    }
}

async fn of_many_registrations_all_differ(registry: Arc<dyn AgentRegistry>) {
    let leases = join_all((0..20).map(|_| registry.register(agent("a"), TTL))).await;
    let mut epochs: Vec<_> = leases.into_iter().map(|l| l.unwrap().epoch).collect();
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), 20);
    assert_eq!(Some(registry.get(&agent("a").id).await.unwrap().lease.epoch), epochs.last().copied());
}

async fn unknown_agents_are_not_found(registry: Arc<dyn AgentRegistry>) {
    let lease = registry.register(agent("a"), TTL).await.unwrap();
    registry.deregister(&lease).await.unwrap();
    let err = registry.heartbeat(&lease, AgentReport::default()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    assert_eq!(registry.deregister(&lease).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(registry.get(&lease.agent).await.unwrap_err().kind(), ErrorKind::NotFound);
}

async fn expire_reports_each_agent_once(registry: Arc<dyn AgentRegistry>) {
    let a = registry.register(agent("a"), TTL).await.unwrap();
    registry.register(agent("b"), Duration::from_secs(3600)).await.unwrap();
    assert_eq!(registry.expire(Timestamp::now()).await.unwrap(), []);
    assert_eq!(registry.expire(later(60)).await.unwrap(), [a.agent.clone()]);
    assert_eq!(registry.expire(later(60)).await.unwrap(), []);
    let info = registry.get(&a.agent).await.unwrap();
    assert!(!info.online);
    assert_eq!(registry.list(&Labels::new()).await.unwrap().len(), 2, "offline agents stay listed");
}

async fn a_heartbeat_brings_an_agent_back(registry: Arc<dyn AgentRegistry>) {
    let a = registry.register(agent("a"), TTL).await.unwrap();
    registry.expire(later(60)).await.unwrap();
    registry.heartbeat(&a, AgentReport::default()).await.unwrap();
    assert!(registry.get(&a.agent).await.unwrap().online);
    assert_eq!(registry.expire(later(60)).await.unwrap(), [a.agent]);
}

async fn agents_are_listed_by_label(registry: Arc<dyn AgentRegistry>) {
    for (name, zone, size) in [("c", "x", "1"), ("a", "x", "2"), ("b", "y", "1")] {
        let mut a = agent(name);
        a.labels.extend([("zone".to_owned(), zone.to_owned()), ("size".to_owned(), size.to_owned())]);
        registry.register(a, TTL).await.unwrap();
    }
    for (labels, want) in [
        (vec![], vec!["a", "b", "c"]),
        (vec![("zone", "x")], vec!["a", "c"]),
        (vec![("zone", "x"), ("size", "1")], vec!["c"]),
        (vec![("zone", "z")], vec![]),
    ] {
        let labels: Labels = labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let got = registry.list(&labels).await.unwrap();
        assert_eq!(got.iter().map(|a| a.registration.id.as_str()).collect::<Vec<_>>(), want, "{labels:?}");
    }
}

async fn a_lease_needs_a_time(registry: Arc<dyn AgentRegistry>) {
    for ttl in [Duration::ZERO, Duration::MAX] {
        let err = registry.register(agent("a"), ttl).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput);
        assert_eq!(err.context_value("field"), Some("ttl"));
    }
    assert_eq!(registry.get(&agent("a").id).await.unwrap_err().kind(), ErrorKind::NotFound);
}

type Events = BoxStream<'static, fleetcore::Result<RegistryEvent>>;

async fn next(events: &mut Events) -> RegistryEvent {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, events.next()).await.unwrap().unwrap().unwrap()
}

/// Reads a snapshot to its end; the names in it.
async fn snapshot(events: &mut Events) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        match next(events).await {
            RegistryEvent::Init => names.clear(),
            RegistryEvent::InitItem(a) => names.push(a.registration.id.to_string()),
            RegistryEvent::InitDone => return names,
            other => panic!("{other:?} within a snapshot"),
        }
    }
}

async fn watch_gives_a_snapshot_then_changes(registry: Arc<dyn AgentRegistry>) {
    registry.register(agent("a"), TTL).await.unwrap();
    let mut events = registry.watch().await.unwrap();
    assert_eq!(next(&mut events).await, RegistryEvent::Init);
    assert_eq!(snapshot(&mut events).await, ["a"]);
    let lease = registry.register(agent("b"), TTL).await.unwrap();
    registry.heartbeat(&lease, report("x")).await.unwrap();
    registry.expire(later(60)).await.unwrap();
    registry.heartbeat(&lease, AgentReport::default()).await.unwrap();
    registry.deregister(&lease).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(match next(&mut events).await {
            RegistryEvent::Online(a) => format!("online {}", a.registration.id),
            RegistryEvent::Updated(a) => format!("updated {}", a.registration.id),
            RegistryEvent::Offline(id) => format!("offline {id}"),
            RegistryEvent::Removed(id) => format!("removed {id}"),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, ["online b", "updated b", "offline a", "offline b", "online b", "removed b"]);
}

async fn a_watcher_that_fell_behind_gets_a_new_snapshot(registry: Arc<dyn AgentRegistry>) {
    let mut events = registry.watch().await.unwrap();
    assert_eq!(snapshot(&mut events).await, Vec::<String>::new());
    let lease = registry.register(agent("a"), TTL).await.unwrap();
    // More than any store should hold back for one watcher.
    for i in 0..3000 {
        registry.heartbeat(&lease, report(&i.to_string())).await.unwrap();
    }
    registry.register(agent("b"), TTL).await.unwrap();
    let mut known = Vec::new();
    let mut news = 0;
    // However the store catches up, the watcher ends with the truth, without one event per change.
    while known != ["a", "b"] {
        match next(&mut events).await {
            RegistryEvent::Init => known = snapshot(&mut events).await,
            RegistryEvent::Online(a) => known.push(a.registration.id.to_string()),
            RegistryEvent::Updated(_) => news += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(news < 3000, "the queue of a watcher is bounded");
}
