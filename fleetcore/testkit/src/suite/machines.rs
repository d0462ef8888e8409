//! What every provider of machines promises.

use std::{fmt, sync::Arc};

use fleetcore::{
    ActionScope, CommandId, CommandSpec, ErrorKind, ExitKind, Json, MachineCapabilities, MachineFilter,
    MachineId, MachineSpec, MachineState, OpContext, Provider, StopMode,
};

use super::{Case, cases};
use crate::{fail, must, names_the_field, refused};

/// A provider under test.
pub struct Machines {
    /// The provider, behind all layers.
    pub provider: Arc<dyn Provider>,
    /// What to create; the name is the case's own.
    pub spec: MachineSpec,
}

impl fmt::Debug for Machines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machines").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// All cases.
pub fn all() -> Vec<Case<Machines>> {
    cases![
        a_machine_lives_from_create_to_delete_or_create_is_unsupported,
        start_and_stop_are_idempotent_or_unsupported,
        stop_means_stopped_or_is_unsupported,
        suspend_keeps_the_memory_or_is_unsupported,
        delete_is_idempotent_or_unsupported,
        deleted_machines_stay_until_purged_or_are_gone,
        names_are_unique,
        a_bad_name_is_refused_and_makes_nothing,
        unknown_options_are_refused,
        unknown_machines_are_not_found,
        lists_are_filtered_by_label,
        a_machine_that_is_down_cannot_be_connected,
        the_scheme_is_a_name,
        actions_are_checked_before_anything_is_done,
    ]
}

/// Which case covers which field of [`MachineCapabilities`].
pub const COVERS: &[(&str, &str)] = &[
    ("create", "a_machine_lives_from_create_to_delete_or_create_is_unsupported"),
    ("start", "start_and_stop_are_idempotent_or_unsupported"),
    ("stop", "stop_means_stopped_or_is_unsupported"),
    ("stop_with_suspend", "suspend_keeps_the_memory_or_is_unsupported"),
    ("delete", "delete_is_idempotent_or_unsupported"),
    ("delete_is_soft", "deleted_machines_stay_until_purged_or_are_gone"),
];

impl Machines {
    fn can(&self) -> MachineCapabilities {
        self.provider.capabilities()
    }

    fn spec(&self, name: &str) -> MachineSpec {
        let mut spec = self.spec.clone();
        name.clone_into(&mut spec.name);
        spec
    }

    /// A fresh machine that is up; `None` where none can be made.
    async fn make(&self, name: &str) -> Option<MachineId> {
        if !self.can().create {
            refused(self.provider.create(&cx(), self.spec(name)).await, ErrorKind::Unsupported);
            return None;
        }
        let id = must(self.provider.create(&cx(), self.spec(name)).await).id;
        self.wait_for(&id, MachineState::Running).await;
        Some(id)
    }

    async fn wait_for(&self, id: &MachineId, state: MachineState) {
        loop {
            let info = must(self.provider.info(&cx(), id).await);
            if info.state == state {
                return;
            }
            assert_ne!(info.state, MachineState::Failed, "{info:?}");
            // Between two questions, not instead of an answer: providers have no events.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    async fn delete(&self, id: &MachineId) {
        if self.can().delete {
            must(self.provider.delete(&cx(), id, true).await);
        }
    }

    async fn listed(&self, include_deleted: bool) -> Vec<MachineId> {
        let mut filter = MachineFilter::default();
        filter.include_deleted = include_deleted;
        must(self.provider.list(&cx(), filter).await).into_iter().map(|m| m.id).collect()
    }
}

fn cx() -> OpContext {
    OpContext::default().with_timeout(std::time::Duration::from_secs(600))
}

fn id(name: &str) -> MachineId {
    must(MachineId::new(name))
}

async fn a_machine_lives_from_create_to_delete_or_create_is_unsupported(env: Arc<Machines>) {
    let Some(id) = env.make("suite-life").await else { return };
    let info = must(env.provider.info(&cx(), &id).await);
    assert_eq!((&info.id, info.state), (&id, MachineState::Running));
    assert!(!info.native_state.is_empty(), "the backend's own word is kept");
    assert!(env.listed(false).await.contains(&id));
    let executor = must(env.provider.connect(&cx(), &id).await);
    must(executor.ping(&cx()).await);
    let spec = CommandSpec::argv(["true"]);
    let process = must(executor.spawn(&cx(), CommandId::generate(), &spec).await);
    assert_eq!(must(process.exit.await), ExitKind::Code(0));
    env.delete(&id).await;
    if env.can().delete {
        refused(env.provider.info(&cx(), &id).await, ErrorKind::NotFound);
        assert!(!env.listed(true).await.contains(&id));
    }
}

async fn start_and_stop_are_idempotent_or_unsupported(env: Arc<Machines>) {
    let can = env.can();
    if !can.start {
        refused(env.provider.start(&cx(), &id("any")).await, ErrorKind::Unsupported);
    }
    if !can.stop {
        refused(env.provider.stop(&cx(), &id("any"), StopMode::Graceful).await, ErrorKind::Unsupported);
    }
    let Some(id) = env.make("suite-twice").await else { return };
    if can.stop && can.start {
        for _ in 0..2 {
            must(env.provider.stop(&cx(), &id, StopMode::Graceful).await);
            env.wait_for(&id, MachineState::Stopped).await;
        }
        for _ in 0..2 {
            must(env.provider.start(&cx(), &id).await);
            env.wait_for(&id, MachineState::Running).await;
        }
    }
    env.delete(&id).await;
}

async fn stop_means_stopped_or_is_unsupported(env: Arc<Machines>) {
    if !env.can().stop {
        refused(env.provider.stop(&cx(), &id("any"), StopMode::Force).await, ErrorKind::Unsupported);
        return;
    }
    let Some(id) = env.make("suite-stop").await else { return };
    must(env.provider.stop(&cx(), &id, StopMode::Force).await);
    env.wait_for(&id, MachineState::Stopped).await;
    env.delete(&id).await;
}

async fn suspend_keeps_the_memory_or_is_unsupported(env: Arc<Machines>) {
    if !env.can().stop_with_suspend {
        refused(env.provider.stop(&cx(), &id("any"), StopMode::Suspend).await, ErrorKind::Unsupported);
        return;
    }
    let Some(id) = env.make("suite-suspend").await else { return };
    must(env.provider.stop(&cx(), &id, StopMode::Suspend).await);
    env.wait_for(&id, MachineState::Suspended).await;
    must(env.provider.start(&cx(), &id).await);
    env.wait_for(&id, MachineState::Running).await;
    env.delete(&id).await;
}

async fn delete_is_idempotent_or_unsupported(env: Arc<Machines>) {
    if !env.can().delete {
        refused(env.provider.delete(&cx(), &id("any"), true).await, ErrorKind::Unsupported);
        return;
    }
    let Some(id) = env.make("suite-delete").await else { return };
    for _ in 0..2 {
        must(env.provider.delete(&cx(), &id, true).await);
    }
    assert!(!env.listed(true).await.contains(&id));
}

async fn deleted_machines_stay_until_purged_or_are_gone(env: Arc<Machines>) {
    if !env.can().delete {
        return;
    }
    let Some(id) = env.make("suite-soft").await else { return };
    must(env.provider.delete(&cx(), &id, false).await);
    assert!(!env.listed(false).await.contains(&id), "a plain list has only what is there");
    assert_eq!(env.listed(true).await.contains(&id), env.can().delete_is_soft);
    if env.can().delete_is_soft {
        env.wait_for(&id, MachineState::Deleted).await;
        must(env.provider.delete(&cx(), &id, true).await);
    }
    assert!(!env.listed(true).await.contains(&id));
}

async fn names_are_unique(env: Arc<Machines>) {
    let Some(id) = env.make("suite-unique").await else { return };
    refused(env.provider.create(&cx(), env.spec("suite-unique")).await, ErrorKind::AlreadyExists);
    env.delete(&id).await;
}

async fn a_bad_name_is_refused_and_makes_nothing(env: Arc<Machines>) {
    if !env.can().create {
        return;
    }
    let before = env.listed(true).await.len();
    for name in ["", "-rf", "a b", "a/b", "..", "a\0"] {
        refused(env.provider.create(&cx(), env.spec(name)).await, ErrorKind::InvalidInput);
    }
    assert_eq!(env.listed(true).await.len(), before);
}

async fn unknown_options_are_refused(env: Arc<Machines>) {
    if !env.can().create {
        return;
    }
    let mut spec = env.spec("suite-options");
    spec.options.insert("fleetcore-no-such-option".to_owned(), true.into());
    let error = refused(env.provider.create(&cx(), spec).await, ErrorKind::InvalidInput);
    assert!(error.context_value("field").is_some(), "{error:?}");
}

async fn unknown_machines_are_not_found(env: Arc<Machines>) {
    let (can, missing) = (env.can(), id("suite-no-such-machine"));
    refused(env.provider.info(&cx(), &missing).await, ErrorKind::NotFound);
    if env.provider.connect(&cx(), &missing).await.is_ok() {
        fail("connected to nothing");
    }
    if can.start {
        refused(env.provider.start(&cx(), &missing).await, ErrorKind::NotFound);
    }
    if can.stop {
        refused(env.provider.stop(&cx(), &missing, StopMode::Force).await, ErrorKind::NotFound);
    }
    if can.delete {
        must(env.provider.delete(&cx(), &missing, true).await);
    }
}

async fn lists_are_filtered_by_label(env: Arc<Machines>) {
    if !env.can().create {
        must(env.provider.list(&cx(), MachineFilter::default()).await);
        return;
    }
    let mut spec = env.spec("suite-label");
    spec.labels.insert("suite".to_owned(), "yes".to_owned());
    let labelled = must(env.provider.create(&cx(), spec).await).id;
    let other = must(env.provider.create(&cx(), env.spec("suite-plain")).await).id;
    let mut filter = MachineFilter::default();
    filter.labels.insert("suite".to_owned(), "yes".to_owned());
    let found = must(env.provider.list(&cx(), filter.clone()).await);
    assert_eq!(found.iter().map(|m| &m.id).collect::<Vec<_>>(), [&labelled]);
    filter.labels.insert("suite".to_owned(), "no".to_owned());
    assert!(must(env.provider.list(&cx(), filter).await).is_empty());
    env.delete(&labelled).await;
    env.delete(&other).await;
}

async fn a_machine_that_is_down_cannot_be_connected(env: Arc<Machines>) {
    if !env.can().stop {
        return;
    }
    let Some(id) = env.make("suite-down").await else { return };
    must(env.provider.stop(&cx(), &id, StopMode::Force).await);
    env.wait_for(&id, MachineState::Stopped).await;
    refused(env.provider.connect(&cx(), &id).await, ErrorKind::InvalidState);
    env.delete(&id).await;
}

async fn the_scheme_is_a_name(env: Arc<Machines>) {
    must(MachineId::new(env.provider.scheme()));
    assert_ne!(env.provider.scheme(), fleetcore::LOCAL);
}

async fn actions_are_checked_before_anything_is_done(env: Arc<Machines>) {
    let (actions, machine) = (env.provider.actions(), id("suite-no-such-machine"));
    let mut names: Vec<&str> = actions.iter().map(|a| a.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), actions.len(), "an action is listed twice");
    for machine in [None, Some(&machine)] {
        let error = refused(
            env.provider.act(&cx(), machine, "fleetcore-no-such-action", Json::new()).await,
            ErrorKind::Unsupported,
        );
        assert_eq!(error.context_value("action"), Some("fleetcore-no-such-action"), "{error:?}");
    }
    for action in &actions {
        must(MachineId::new(&action.name));
        let mut args = Json::new();
        args.insert("fleetcore-no-such-argument".to_owned(), true.into());
        let on = (action.scope == ActionScope::Machine).then_some(&machine);
        let error = refused(env.provider.act(&cx(), on, &action.name, args).await, ErrorKind::InvalidInput);
        names_the_field(&error, &["args"]);
        let on = match action.scope {
            ActionScope::Machine => None,
            ActionScope::Provider => Some(&machine),
            _ => continue,
        };
        let error =
            refused(env.provider.act(&cx(), on, &action.name, Json::new()).await, ErrorKind::InvalidInput);
        names_the_field(&error, &["machine"]);
    }
}
