//! Sessions over the local backend: in every shell that is installed here, and with output in tiny pieces.

use std::{sync::Arc, time::Duration};

use fleetcore::{
    Executor, Layer,
    backends::local::{Local, LocalConfig},
    layers::{ChaosLayer, ChaosPlan, Fault, Operation, When},
};
use fleetcore_testkit::suite::session::{Shell, all};
use libtest_mimic::{Arguments, Trial};

/// Far more than any case takes: a hang must fail, a slow machine must not.
const LIMIT: Duration = Duration::from_secs(120);

fn installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()))
}

/// A machine of Multipass, or rather of its stand-in, which lives as long as what comes back.
#[cfg(feature = "multipass")]
fn multipass() -> fleetcore::Result<(Arc<dyn Executor>, fleetcore_testkit::multipass::StandIn)> {
    use fleetcore::{MachineId, OpContext, Provider as _, backends::multipass::Multipass};
    let stand_in = fleetcore_testkit::multipass::StandIn::new()?;
    stand_in.run(&["launch", "-n", "suite"])?;
    let multipass = Multipass::new(stand_in.config());
    let id = MachineId::new("suite")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| fleetcore::Error::io("start a runtime", e))?;
    let executor = runtime.block_on(multipass.connect(&OpContext::default(), &id))?;
    Ok((executor, stand_in))
}

fn main() -> std::process::ExitCode {
    #[cfg(feature = "multipass")]
    if let Some(code) = fleetcore_testkit::multipass::main_if_called() {
        return code;
    }
    let host: Arc<dyn Executor> = Arc::new(Local::new(LocalConfig::default()));
    // A prime that cuts every mark somewhere sooner or later.
    let pieces = ChaosPlan::seeded(1).with(Operation::Spawn, When::Always, Fault::ShortReads(7));
    let pieces = ChaosLayer::new(pieces).layer_executor(Arc::clone(&host));
    #[cfg(feature = "multipass")]
    let machine = multipass().unwrap_or_else(|e| fleetcore_testkit::fail(format!("no machine: {e:?}")));
    let subjects: &[(&str, &Arc<dyn Executor>, &[&str])] = &[
        ("bash", &host, &["bash", "--norc"]),
        ("dash", &host, &["dash"]),
        ("bash in pieces", &pieces, &["bash", "--norc"]),
        #[cfg(feature = "multipass")]
        ("multipass", &machine.0, &["bash", "--norc"]),
    ];
    let mut trials = vec![];
    for &(label, executor, shell) in subjects {
        let installed = shell.first().is_some_and(|program| installed(program));
        for case in all() {
            // Tens of megabytes in pieces of seven bytes show nothing new.
            let endless = label == "bash in pieces" && case.name == "a_flood_is_followed_to_its_end";
            let subject = Arc::new(Shell::new(Arc::clone(executor), shell));
            let run = move || {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
                runtime.block_on(async { tokio::time::timeout(LIMIT, (case.run)(subject)).await })?;
                runtime.shutdown_timeout(Duration::from_secs(5));
                Ok(())
            };
            let trial = Trial::test(format!("{label}::{}", case.name), run);
            trials.push(trial.with_ignored_flag(!installed || endless));
        }
    }
    let mut args = Arguments::from_args();
    // Every case has a few processes of its own; more at once only slows all of them down.
    args.test_threads.get_or_insert(std::thread::available_parallelism().map_or(4, usize::from) * 2);
    libtest_mimic::run(&args, trials).exit_code()
}
