//! The behaviour suite over a real sshd; skipped with a printed reason where there is none. `FLEETCORE_NEED_SSHD=1`
//! makes that a failure.

use std::{pin::Pin, process::ExitCode, sync::Arc};

use fleetcore::{
    Fleet, Result,
    backends::ssh::{Ssh, SshConfig, SshHost},
};
use fleetcore_testkit::{
    Env, Runner,
    layers::{self, Layers},
    sshd::{self, Sshd},
};

type EnvFuture = Pin<Box<dyn Future<Output = Result<Env>> + Send>>;

fn provider(sshd: &Sshd) -> Result<Arc<Ssh>> {
    let host = SshHost::new("127.0.0.1")
        .with_port(sshd.port())
        .with_user(sshd.user())
        .with_known_hosts(sshd.known_hosts())
        .with_identity_file(sshd.key())
        .with_agent(false, None);
    Ok(Arc::new(Ssh::new(&SshConfig::default().with_host("box", host))?))
}

fn env(sshd: &Arc<Sshd>, behind: fn() -> Layers) -> impl Fn() -> EnvFuture + Clone + use<> {
    let sshd = Arc::clone(sshd);
    move || {
        let sshd = Arc::clone(&sshd);
        Box::pin(async move {
            let fleet = behind().into_iter().fold(Fleet::builder(), |fleet, layer| fleet.with_layer(layer));
            let mut env = Env::new(fleet.with_provider(provider(&sshd)?).build(), "ssh/box").await?;
            // sshd says it in a message that russh does not hand on.
            env.tells_closed_input = false;
            // sshd says "end" to both.
            env.tells_reset = false;
            Ok(env)
        })
    }
}

/// One sshd for all cases; each has its own connections to it.
fn main() -> ExitCode {
    let mut runner = Runner::new();
    let sshd = match sshd::missing().map_or_else(|| Sshd::start("").map_err(|e| e.to_string()), Err) {
        Ok(sshd) => Arc::new(sshd),
        Err(why) => {
            runner.skip("ssh", &why);
            let skipped = runner.run();
            let needed = std::env::var_os("FLEETCORE_NEED_SSHD").is_some();
            return if needed { ExitCode::FAILURE } else { skipped };
        }
    };
    runner.machine("ssh", env(&sshd, Vec::new)).machine("ssh+layers", env(&sshd, layers::all));
    runner.plain_provider("ssh", move || match provider(&sshd) {
        Ok(provider) => provider,
        Err(error) => fleetcore_testkit::fail(format!("{error:?}")),
    });
    runner.run()
}
