//! Starting the master: its first user, its agents' file, its watch.

use std::{sync::Arc, time::Duration};

use fleetcore::{Error, ErrorKind, FleetEvent, Result, Role, Target, UserRecord};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{broadcast::error::RecvError, watch};

use super::{
    agents::Agents,
    options::Options,
    routes,
    state::{Master, random_secret},
    vms::PROVIDER,
};
use crate::{
    App,
    compat::{Host, Service},
};

/// How often agents are checked for silence, as in the originals.
const WATCH_EVERY: Duration = Duration::from_secs(30);

/// Starts the master in `host`.
pub(super) async fn start(mut options: Options, host: Host) -> Result<Service> {
    if !host.address.ip().to_canonical().is_loopback() && !options.behind_proxy {
        tracing::warn!(
            address = %host.address,
            "listening without TLS: passwords, keys and terminals cross the network in the clear"
        );
    }
    if options.enrolment.open {
        tracing::warn!("enrolment is open: whoever reaches this address can add agents");
    }
    let app = host.app.clone();
    let enrolment = std::mem::take(&mut options.enrolment);
    let (agents, key) = Agents::open(&host.dir, enrolment, Timestamp::now())?;
    let (ready, password) = first_user(&app, &mut options).await?;
    let master = Arc::new(Master::new(app.clone(), &options, agents, ready));
    options.agent_vms.belong_to(&master);
    if app.fleet().provider(PROVIDER).is_ok() {
        app.tasks().spawn(follow_fleet(master.clone()));
    }
    // Its first look is at once and keeps a key that was just made: waiting for the disk would double the time to start.
    app.tasks().spawn(watch_agents(master.clone()));
    let mut service = Service::new(routes::router(master));
    if let Some(password) = password {
        service = service.with_note(format!("{} password: {}", options.user, password.expose_secret()));
    }
    if let Some(key) = key {
        service = service.with_note(format!("agent key: {}", key.expose_secret()));
    }
    Ok(service)
}

/// Makes the user when there is none, in the background: hashing takes longer than all the rest of the start.
async fn first_user(
    app: &App,
    options: &mut Options,
) -> Result<(watch::Receiver<bool>, Option<SecretString>)> {
    let given = options.password.take();
    let store = app.identities();
    let exists = match store.user(&options.user).await {
        Ok(_) => true,
        Err(e) if e.kind() == ErrorKind::NotFound => false,
        Err(e) => return Err(e),
    };
    // The users of a server that is there already are enough, unless somebody asks for another one.
    if exists || (given.is_none() && options.further && !store.users().await?.is_empty()) {
        return Ok((watch::channel(true).1, None));
    }
    let (password, shown) = match given {
        Some(password) => (password, None),
        None => {
            let made = random_secret();
            (made.clone(), Some(made))
        }
    };
    let (tell, ready) = watch::channel(false);
    let (app, name) = (app.clone(), options.user.clone());
    let tasks = app.tasks().clone();
    tasks.spawn(async move {
        let stored = async {
            let hash = app.passwords().hash(&password).await?;
            let record = UserRecord::new(name, Role::Admin, hash, Timestamp::now());
            match app.identities().insert_user(record).await {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => Err::<(), Error>(e),
                _ => Ok(()),
            }
        };
        match stored.await {
            // Nobody waiting is fine.
            Ok(()) => drop(tell.send(true)),
            Err(error) => tracing::error!(%error, "the first user cannot be stored; nobody can log in"),
        }
    });
    Ok((ready, shown))
}

/// Sets silent agents offline and keeps what has changed.
async fn watch_agents(master: Arc<Master>) {
    let stop = master.app.stopping().clone();
    let mut every = tokio::time::interval(WATCH_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let going_on = stop.run_until_cancelled(every.tick()).await.is_some();
        if going_on {
            for agent in master.agents.expire(Timestamp::now()) {
                tracing::info!(%agent, "agent is now offline");
            }
        }
        if let Err(error) = master.agents.save().await {
            tracing::warn!(%error, "the list of agents cannot be kept");
        }
        if !going_on {
            return;
        }
    }
}

/// What others of this process do to the same machines makes the list of this host old.
async fn follow_fleet(master: Arc<Master>) {
    let stop = master.app.stopping().clone();
    let mut events = master.app.fleet().events();
    while let Some(event) = stop.run_until_cancelled(events.recv()).await {
        let ours = |target: &Target| target.agent().is_none() && target.provider() == Some(PROVIDER);
        let concerns = match event {
            Ok(FleetEvent::Machine(target, _) | FleetEvent::MachineGone(target)) => ours(&target),
            Ok(FleetEvent::Command(record)) => record.state.is_final() && ours(&record.target),
            Ok(_) => false,
            Err(RecvError::Lagged(_)) => true,
            Err(RecvError::Closed) => return,
        };
        if concerns {
            master.lists.outdate(None);
        }
    }
}
