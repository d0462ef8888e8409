//! Starting and ending a runtime.

use std::sync::Arc;

use fleetcore::{Error, Result};
use futures::future::BoxFuture;

use super::{
    body::Body,
    options::Options,
    routes,
    runtime::{Hands, Runtime},
    watch::Watch,
};
use crate::{
    App,
    compat::{Host, Service},
};

/// Starts the runtime in `host`: it answers at once, and is ready later.
pub(super) fn start(options: Options, host: Host) -> Result<Service> {
    let watch = Watch::new(None, host.app.stopping().clone());
    let shells = watch.clone();
    let make = |options: Options, app: App| -> BoxFuture<'static, Result<Arc<dyn Hands>>> {
        Box::pin(async move { Ok(Body::start(options, app, shells).await? as Arc<dyn Hands>) })
    };
    start_with(options, host, watch, make)
}

/// The same with other hands.
pub(super) fn start_with(
    options: Options,
    host: Host,
    watch: Arc<Watch>,
    make: impl FnOnce(Options, App) -> BoxFuture<'static, Result<Arc<dyn Hands>>> + Send + 'static,
) -> Result<Service> {
    let app = host.app;
    let stop = app.stopping().clone();
    let runtime = Runtime::start(options, watch, app.tasks(), stop.clone())?;
    if runtime.options.key.is_none() && !host.address.ip().to_canonical().is_loopback() {
        tracing::warn!(
            address = %host.address,
            "no SESSION_API_KEY: whoever reaches this address can run commands here"
        );
    }
    let (tasks, options) = (app.tasks().clone(), runtime.options.clone());
    let service = Service::new(routes::router(runtime.clone())).with_exact_paths();
    Ok(service.with_starting(async move {
        let hands = match stop.run_until_cancelled(make(options, app)).await {
            Some(hands) => hands?,
            None => return Err(Error::new(fleetcore::ErrorKind::Cancelled, "told to stop while it started")),
        };
        runtime.set_ready(hands.clone());
        tasks.spawn(async move {
            stop.cancelled().await;
            runtime.proxy.close();
            hands.stop().await;
        });
        // Starting shells and programs is over, and so is the need for most of what did it.
        fleetcore::give_code_back();
        tracing::info!("the runtime is ready");
        Ok(())
    }))
}
