//! Changes of machines that exist.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::SemaphorePermit;

use super::{
    client::Call,
    error::{Class, Failure},
    names,
    progress::Progress,
    provider::Inner,
};
use crate::{Error, ErrorKind, MachineId, MachineInfo, MachineState, Result, StopMode, raw::OpContext};

/// Forgets what was known when a change ends, however it ends: also when its caller is gone half-way.
struct Changing<'a>(&'a Inner);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.inventory.forget();
    }
}

impl Inner {
    /// A call that changes something; its messages go to `cx`.
    pub(super) async fn change(&self, cx: &OpContext, call: Call) -> Result<Bytes, Failure> {
        self.client.version().await?;
        let _place = self.calls.acquire().await;
        let _changing = Changing(self);
        let mut progress = Progress::default();
        let done = self
            .client
            .call_watched(call, |data| progress.push(data).into_iter().for_each(|line| cx.report(line)))
            .await;
        progress.finish().into_iter().for_each(|line| cx.report(line));
        done
    }

    /// A place in the queue for what the daemon does one after another.
    pub(super) async fn in_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.serial.acquire().await.ok()
    }

    pub(super) fn changing(&self, command: &'static str) -> Call {
        Call::new(command, self.config.change_limit)
    }

    /// The same with the time limit given to the daemon too, a little shorter than ours.
    pub(super) fn waiting(&self, command: &'static str, limit: Duration) -> Call {
        let seconds = limit.as_secs().max(1);
        Call::new(command, limit + Duration::from_secs(30))
            .args(["--timeout".to_owned(), seconds.to_string()])
    }

    /// Makes a change that should end in `wanted`. Where nobody knows what came of it, the list is asked.
    async fn change_to(
        &self,
        cx: &OpContext,
        id: &MachineId,
        call: Call,
        wanted: MachineState,
    ) -> Result<MachineInfo> {
        let done = self.change(cx, call).await;
        if let Err(failure) = done {
            let reached = failure.is_outcome_unknown()
                && self
                    .inventory
                    .states_now()
                    .await
                    .is_ok_and(|all| all.iter().any(|i| i.name == id.as_str() && i.state() == wanted));
            if !reached {
                return Err(failure.into_error().with_context("machine", id));
            }
        }
        self.report(id).await
    }

    pub(super) async fn start(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        let _lock = self.lock(id).await;
        let item = self.living(id).await?;
        // A delayed shutdown counts as running, and is cancelled by this.
        if item.native_state == "Running" {
            return self.report(id).await;
        }
        let call = self.waiting("start", self.config.change_limit).arg(id.as_str());
        self.change_to(cx, id, call, MachineState::Running).await
    }

    pub(super) async fn stop(&self, cx: &OpContext, id: &MachineId, mode: StopMode) -> Result<MachineInfo> {
        let _lock = self.lock(id).await;
        let item = self.living(id).await?;
        let state = item.state();
        if state == MachineState::Stopped || (mode == StopMode::Suspend && state == MachineState::Suspended) {
            return self.report(id).await;
        }
        let _turn = self.in_turn().await;
        let (call, wanted) = match mode {
            StopMode::Suspend => (self.changing("suspend"), MachineState::Suspended),
            StopMode::Force if self.client.version().await?.at_least(1, 14) => {
                (self.changing("stop").arg("--force"), MachineState::Stopped)
            }
            _ => (self.changing("stop"), MachineState::Stopped),
        };
        self.change_to(cx, id, call.arg(id.as_str()), wanted).await
    }

    pub(super) async fn delete(&self, id: &MachineId, purge: bool) -> Result<()> {
        let _lock = self.lock(id).await;
        let item = match self.item(id).await {
            Ok(item) => item,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        if !purge && item.state() == MachineState::Deleted {
            return Ok(());
        }
        let _turn = self.in_turn().await;
        self.remove(id.as_str(), purge).await.map_err(|f| f.into_error().with_context("machine", id))?;
        if purge && let Err(error) = self.records.set(id.as_str(), None).await {
            tracing::warn!(machine = %id, %error, "the record of a machine stays");
        }
        Ok(())
    }

    /// Deletes a machine that is there; fine when it is not.
    pub(super) async fn remove(&self, name: &str, purge: bool) -> Result<(), Failure> {
        let mut call = self.changing("delete");
        if purge {
            call = call.arg("--purge");
        }
        match self.change(&OpContext::default(), call.arg(name)).await {
            Ok(_) => Ok(()),
            Err(f) if f.class == Class::NotFound => Ok(()),
            Err(f) if f.is_outcome_unknown() => {
                let left = self.inventory.states_now().await?;
                let left =
                    left.iter().any(|i| i.name == name && (purge || i.state() != MachineState::Deleted));
                if left { Err(f) } else { Ok(()) }
            }
            Err(f) => Err(f),
        }
    }

    pub(super) async fn restart(
        &self,
        cx: &OpContext,
        id: &MachineId,
        limit: Duration,
    ) -> Result<MachineInfo> {
        let _lock = self.lock(id).await;
        self.living(id).await?;
        let call = self.waiting("restart", limit).arg(id.as_str());
        self.change(cx, call).await.map_err(|f| f.into_error().with_context("machine", id))?;
        self.report(id).await
    }

    pub(super) async fn recover(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        let _lock = self.lock(id).await;
        if self.item(id).await?.state() == MachineState::Deleted {
            let call = self.changing("recover").arg(id.as_str());
            self.change(cx, call).await.map_err(|f| f.into_error().with_context("machine", id))?;
        }
        self.report(id).await
    }

    /// Purges one deleted machine, or all of them by name: the program's own `purge` would also take those that are
    /// deleted this very moment.
    pub(super) async fn purge(&self, machine: Option<&MachineId>) -> Result<Vec<String>> {
        let deleted = match machine {
            Some(id) => {
                let item = self.item(id).await?;
                if item.state() != MachineState::Deleted {
                    return Err(Error::new(ErrorKind::InvalidState, "the machine is not deleted")
                        .with_context("machine", id)
                        .with_context("state", item.native_state));
                }
                vec![item.name]
            }
            None => {
                let all = self.inventory.states_now().await?;
                let deleted = all.iter().filter(|i| i.state() == MachineState::Deleted);
                deleted.map(|i| i.name.clone()).collect()
            }
        };
        let mut purged = Vec::with_capacity(deleted.len());
        for name in deleted {
            let id = MachineId::new(&name)?;
            if names::possible(&id) {
                self.delete(&id, true).await?;
                purged.push(name);
            }
        }
        Ok(purged)
    }

    /// Purges what a launch left, trying again while the daemon is away, until `limit` has passed.
    pub(super) async fn purge_for_sure(self: &Arc<Self>, name: &str, limit: Duration) -> Result<(), Failure> {
        let until = tokio::time::Instant::now() + limit;
        let mut pause = self.config.follow_pause;
        loop {
            let failure = match self.remove(name, true).await {
                Ok(()) => {
                    let _ = self.records.set(name, None).await;
                    return Ok(());
                }
                Err(failure) => failure,
            };
            if tokio::time::Instant::now() + pause > until {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.config.follow_pause * 8);
        }
    }
}
