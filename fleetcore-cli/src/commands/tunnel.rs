//! `fleetcore tunnel`

use std::sync::Arc;

use fleetcore::{
    BoxConnection, Error, ErrorKind, HostPort, Result, Target, Tunnel, TunnelEvent, TunnelOptions,
};
use futures::{StreamExt as _, stream};
use serde_json::json;
use tokio::sync::{Mutex, broadcast::error::RecvError};

use crate::{
    cli::{self, Output},
    config::Settings,
    control::{self, Control},
    error::{Outcome, line, note, one_line, problem},
    exit,
    forward::Forward,
    render,
    signals::StopSignals,
};

/// Listens until told to stop.
pub(crate) async fn tunnel(args: cli::Tunnel, settings: &Settings) -> Outcome {
    let mut stops = StopSignals::listen()?;
    let way = Arc::new(Way::open(settings).await?);
    let tunnels = stops
        .or(async {
            way.now().await.can_connect(&args.target).await?;
            let mut tunnels = Vec::with_capacity(args.forwards.len());
            for forward in args.forwards {
                tunnels.push(Open::new(&way, &args.target, forward, args.max_connections).await?);
            }
            Ok(tunnels)
        })
        .await?;
    let said = |open: &Open| open.line(&args.target, settings);
    // The first lines are the addresses, for programs that let us choose the ports.
    render::print(&tunnels.iter().map(said).collect::<String>())?;
    let mut events = stream::select_all(tunnels.iter().map(|open| {
        let (name, events) = (open.name(&args.target), open.tunnel.events());
        stream::unfold((name, events), |(name, mut events)| async {
            loop {
                match events.recv().await {
                    Ok(event) => return Some(((name.clone(), event), (name, events))),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        })
        .boxed()
    }));
    loop {
        tokio::select! {
            _ = stops.next() => break,
            Some((name, event)) = events.next() => tell(&name, &event, settings),
        }
    }
    drop(events);
    // A second signal does not wait for the ends of connections.
    tokio::select! {
        _ = futures::future::join_all(tunnels.into_iter().map(|open| open.tunnel.close())) => {}
        again = stops.next() => return Ok(again.exit_code()),
    }
    way.now().await.close().await;
    Ok(exit::OK)
}

/// One of the tunnels.
struct Open {
    tunnel: Tunnel,
    to: HostPort,
}

impl Open {
    async fn new(way: &Arc<Way>, target: &Target, forward: Forward, most: usize) -> Result<Self> {
        let (way, target, to) = (Arc::clone(way), target.clone(), forward.to.clone());
        let connect = move || {
            let (way, target, to) = (Arc::clone(&way), target.clone(), to.clone());
            async move { way.connect(&target, &to).await }
        };
        let options = TunnelOptions::default().with_connections(most);
        let tunnel = Tunnel::listen(forward.bind, options, connect).await?;
        Ok(Self { tunnel, to: forward.to })
    }

    fn name(&self, target: &Target) -> String {
        format!("{} -> {target} {}", self.tunnel.local_addr(), self.to)
    }

    fn line(&self, target: &Target, settings: &Settings) -> String {
        let (local, to) = (self.tunnel.local_addr(), &self.to);
        match settings.output {
            Output::Json => format!("{}\n", json!({"local": local, "target": target, "remote": to})),
            _ if settings.quiet => format!("{local}\n"),
            Output::Plain => format!("{local}\t{target}\t{to}\n"),
            Output::Table => format!("{}\n", self.name(target)),
        }
    }
}

/// Says on stderr what has become of a connection: failures always, the rest when asked for.
fn tell(name: &str, event: &TunnelEvent, settings: &Settings) {
    let (what, peer, error) = match event {
        TunnelEvent::Opened { peer } => ("opened", Some(peer), None),
        TunnelEvent::Refused { peer, error } => ("refused", Some(peer), Some(error)),
        TunnelEvent::Closed { peer, error } => ("closed", Some(peer), error.as_ref()),
        TunnelEvent::Stuck { error } => ("stuck", None, Some(error)),
        _ => return,
    };
    if error.is_none() && settings.verbose == 0 {
        return;
    }
    if settings.output == Output::Json {
        let problem = error.map(|e| problem(e, exit::of_error(e)));
        let line = json!({"event": what, "tunnel": name, "peer": peer, "problem": problem});
        eprintln!("{line}");
        return;
    }
    let peer = peer.map(|p| format!(" from {p}")).unwrap_or_default();
    match error {
        Some(error) => eprintln!("{} [{what}{peer}, {}]", line(error), one_line(name)),
        None => note(settings.quiet, &format!("{name}: {what}{peer}")),
    }
}

/// How connections are made: in this process, or by a server that may be another one by the time of the next.
struct Way {
    settings: Settings,
    now: Mutex<Arc<dyn Control>>,
}

impl Way {
    async fn open(settings: &Settings) -> Result<Self> {
        let control = control::open_unrecorded(settings).await?;
        Ok(Self { settings: settings.clone(), now: Mutex::new(control.into()) })
    }

    async fn now(&self) -> Arc<dyn Control> {
        Arc::clone(&*self.now.lock().await)
    }

    async fn connect(&self, target: &Target, to: &HostPort) -> Result<BoxConnection> {
        let control = self.now().await;
        match control.connect(target, to).await {
            Err(e) if control.is_server() && may_be_another(&e) => match self.renewed(&control).await {
                Some(control) => control.connect(target, to).await,
                None => Err(e),
            },
            other => other,
        }
    }

    /// The server as the settings lead to it now: one that was started anew may have another address and wants another
    /// token, where it was found rather than named.
    async fn renewed(&self, old: &Arc<dyn Control>) -> Option<Arc<dyn Control>> {
        let mut now = self.now.lock().await;
        if Arc::ptr_eq(&now, old) {
            let control: Arc<dyn Control> = control::open_unrecorded(&self.settings).await.ok()?.into();
            // While it is away nothing leads to it, which does not make this process the one to connect.
            if !control.is_server() {
                return None;
            }
            *now = control;
        }
        Some(Arc::clone(&now))
    }
}

/// Whether the failure may be about the server rather than about what it was asked for.
fn may_be_another(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Unauthenticated => true,
        ErrorKind::Unavailable => error.context_value("address").is_none(),
        _ => false,
    }
}
