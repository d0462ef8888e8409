//! Launches that outlive this process: what the daemon has begun goes on, so the next process looks what came of it.

use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    Abandoned,
    error::{Class, Failure},
    launch::{Found, Plan, Reservation},
    provider::Inner,
    records::{Pending, Record},
};
use crate::MachineId;

impl Inner {
    /// A launch begins.
    pub(super) async fn begun(&self, plan: &Plan) {
        let pending = Pending {
            since: Timestamp::now(),
            labels: plan.labels.clone(),
            wanted: true,
            user_data: plan.user_data.is_some(),
        };
        if let Err(error) = self.records.set_launch(plan.name.as_str(), Some(pending)).await {
            tracing::warn!(machine = %plan.name, %error, "this launch will not be followed by the next process");
        }
    }

    /// Whoever asked for the machine is gone.
    pub(super) async fn unwanted(&self, name: &MachineId) {
        if let Err(error) = self.records.unwanted(name.as_str()).await {
            tracing::warn!(machine = %name, %error, "the next process will keep this machine");
        }
    }

    /// It is known what came of a launch.
    pub(super) async fn settled(&self, name: &MachineId) {
        if let Err(error) = self.records.set_launch(name.as_str(), None).await {
            tracing::warn!(machine = %name, %error, "the next process will look for this launch once more");
        }
    }

    /// Follows the launches of processes before this one, once. They count as under way when this returns.
    pub(super) async fn resumed(self: &Arc<Self>) {
        self.resumed.get_or_init(|| self.resume_all()).await;
    }

    async fn resume_all(self: &Arc<Self>) {
        let launches = match self.records.launches().await {
            Ok(launches) => launches,
            Err(error) => {
                tracing::warn!(%error, "launches of the process before are not known");
                return;
            }
        };
        for (name, pending) in launches {
            let (Ok(id), Ok(reservation)) = (MachineId::new(&name), self.launches.reserve(&name)) else {
                continue;
            };
            let inner = Arc::clone(self);
            tokio::spawn(async move {
                tracing::info!(machine = %id, "looking for what came of a launch of the process before");
                if inner.resume_one(&id, &pending, reservation).await {
                    inner.settled(&id).await;
                }
            });
        }
    }

    /// Whether it is known what is there now.
    async fn resume_one(self: &Arc<Self>, id: &MachineId, pending: &Pending, mut taken: Reservation) -> bool {
        taken.note("following");
        let gone = CancellationToken::new();
        let delete = !pending.wanted && self.config.abandoned == Abandoned::Delete && self.is_recent(pending);
        if delete {
            gone.cancel();
        }
        let failure = Failure::new(Class::Killed, "launch", "the process that launched it was ended");
        match self.follow(id, &failure, &gone).await {
            Found::Absent => {
                tracing::info!(machine = %id, "nothing came of the launch");
                true
            }
            Found::Running | Found::Down if delete => {
                taken.note("deleting");
                let gone = self.abandon(id).await;
                taken.lost = !gone;
                gone
            }
            // Whoever asked for it could not be told, but has not said no. One that is down may have been in use since:
            // it is not for us to remove.
            found @ (Found::Running | Found::Down) => {
                let mut labels = pending.labels.clone();
                if found == Found::Running && pending.user_data {
                    labels.extend(self.cloud_init(id).await.map(|word| ("cloud-init".to_owned(), word)));
                }
                let record = Record { labels, created_at: Some(pending.since) };
                if let Err(error) = self.records.set(id.as_str(), Some(record)).await {
                    tracing::warn!(machine = %id, %error, "labels of a machine are kept in memory only");
                }
                tracing::info!(machine = %id, ?found, "the machine of a launch of the process before is taken over");
                true
            }
            Found::Lost => {
                taken.lost = true;
                tracing::error!(machine = %id, "nobody knows what came of a launch; the next start looks again");
                false
            }
        }
    }

    /// So soon after the launch nobody can have come to use a machine that was not wanted any more.
    fn is_recent(&self, pending: &Pending) -> bool {
        let age = Timestamp::now().duration_since(pending.since);
        u64::try_from(age.as_secs())
            .is_ok_and(|age| age <= (self.config.launch_limit + self.config.follow_limit).as_secs())
    }
}
