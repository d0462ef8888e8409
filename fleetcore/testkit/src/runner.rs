//! Turns cases into tests.

use std::{
    future::Future,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use fleetcore::{ExecCapabilities, MachineCapabilities, Provider, Result};
use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::{
    Env,
    suite::{Case, exec, files, machines, pty, tunnel},
};

/// No case takes this long; one that does hangs. Generous, because machines under test can be slow and shared.
const CASE_LIMIT: Duration = Duration::from_secs(60);
/// How long blocking work of a case may go on after it.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(10);

/// Collects the suite for any number of backends.
#[derive(Debug, Default)]
pub struct Runner {
    trials: Vec<Trial>,
    skipped: Vec<String>,
}

impl Runner {
    /// A runner with the meta-tests only: every capability has a case.
    pub fn new() -> Self {
        let mut runner = Self::default();
        let areas: [(&str, Option<serde_json::Value>, Vec<&'static str>, &[_]); 2] = [
            (
                "ExecCapabilities",
                serde_json::to_value(ExecCapabilities::default()).ok(),
                [exec::all(), pty::all(), files::all(), tunnel::all()]
                    .into_iter()
                    .flatten()
                    .map(|c| c.name)
                    .collect(),
                exec::COVERS,
            ),
            (
                "MachineCapabilities",
                serde_json::to_value(MachineCapabilities::default()).ok(),
                machines::all().into_iter().map(|c| c.name).collect(),
                machines::COVERS,
            ),
        ];
        for (what, fields, names, covers) in areas {
            runner.trials.push(Trial::test(format!("meta::every_field_of_{what}_has_a_case"), move || {
                covered(what, fields.as_ref(), &names, covers)
            }));
        }
        runner
    }

    /// Adds the areas `exec`, `pty`, `files` and `tunnel` for one machine. `make` gives a fresh environment to each case.
    pub fn machine<F, Fut>(&mut self, name: &str, make: F) -> &mut Self
    where
        F: Fn() -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<Env>> + Send + 'static,
    {
        let areas =
            [("exec", exec::all()), ("pty", pty::all()), ("files", files::all()), ("tunnel", tunnel::all())];
        for (area, cases) in areas {
            for case in cases {
                let make = make.clone();
                self.trials.push(Trial::test(format!("{name}::{area}::{}", case.name), move || {
                    in_runtime(async move {
                        let env = Arc::new(make().await.map_err(|e| format!("no machine: {e:?}"))?);
                        run_case(&case, &env).await?;
                        env.close().await.map_err(|e| Failed::from(format!("unusable after the case: {e:?}")))
                    })
                }));
            }
        }
        self
    }

    /// Adds the area `machines` for one provider. `make` gives the provider, and what to create, to each case.
    pub fn provider<F>(&mut self, name: &str, make: F) -> &mut Self
    where
        F: Fn() -> machines::Machines + Clone + Send + 'static,
    {
        for case in machines::all() {
            let make = make.clone();
            self.trials.push(Trial::test(format!("{name}::machines::{}", case.name), move || {
                in_runtime(async move { run_case(&case, &Arc::new(make())).await })
            }));
        }
        self
    }

    /// A provider from an `Arc`, with default settings for what is created.
    pub fn plain_provider<F>(&mut self, name: &str, make: F) -> &mut Self
    where
        F: Fn() -> Arc<dyn Provider> + Clone + Send + 'static,
    {
        self.provider(name, move || machines::Machines { provider: make(), spec: Default::default() })
    }

    /// Says that a backend is not tested, and why.
    pub fn skip(&mut self, name: &str, why: &str) -> &mut Self {
        self.skipped.push(format!("skipped {name}: {why}"));
        self
    }

    /// Runs everything as the command line says (as for any Rust test); `FLEETCORE_STRESS=N` does so N times and
    /// stops at the first failure.
    pub fn run(&mut self) -> ExitCode {
        let args = Arguments::from_args();
        for line in &self.skipped {
            eprintln!("{line}");
        }
        let rounds = match std::env::var("FLEETCORE_STRESS").map(|n| n.parse::<u32>()) {
            Err(_) => 1,
            Ok(Ok(n)) if n > 0 && !args.list => n,
            Ok(Ok(_)) => 1,
            Ok(Err(e)) => {
                eprintln!("FLEETCORE_STRESS must be a number: {e}");
                return ExitCode::from(64);
            }
        };
        let trials = std::mem::take(&mut self.trials);
        if rounds == 1 {
            return libtest_mimic::run(&args, trials).exit_code();
        }
        stress(rounds)
    }
}

/// Runs this very program again and again: a trial is used up by running, and a fresh process has no history.
fn stress(rounds: u32) -> ExitCode {
    let run = || {
        let program = std::env::current_exe()?;
        std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .env_remove("FLEETCORE_STRESS")
            .status()
    };
    for round in 1..=rounds {
        let started = Instant::now();
        match run() {
            Ok(status) if status.success() => {
                eprintln!("round {round} of {rounds}: ok, {:?}", started.elapsed())
            }
            Ok(status) => {
                eprintln!("round {round} of {rounds}: {status}");
                return ExitCode::FAILURE;
            }
            Err(error) => {
                eprintln!("round {round} of {rounds} did not start: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Runs the suite for one machine; the whole `main` of a test with `harness = false`.
pub fn run<F, Fut>(name: &str, make: F) -> ExitCode
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<Env>> + Send + 'static,
{
    Runner::new().machine(name, make).run()
}

fn covered(
    what: &str,
    fields: Option<&serde_json::Value>,
    names: &[&str],
    covers: &[(&str, &str)],
) -> Result<(), Failed> {
    let fields = fields.and_then(|v| v.as_object()).ok_or("the capabilities are not an object")?;
    for field in fields.keys() {
        let case = covers.iter().find(|(f, _)| f == field);
        let (_, case) =
            case.ok_or_else(|| format!("{what}::{field} has no case; add one and name it in COVERS"))?;
        if !names.contains(case) {
            return Err(format!("the case {case} for {what}::{field} does not exist").into());
        }
    }
    match covers.iter().find(|(field, _)| !fields.contains_key(*field)) {
        Some((field, _)) => Err(format!("COVERS names {field}, which {what} does not have").into()),
        None => Ok(()),
    }
}

async fn run_case<T: Send + Sync + 'static>(case: &Case<T>, env: &Arc<T>) -> Result<(), Failed> {
    let work: BoxFuture<'static, ()> = (case.run)(Arc::clone(env));
    tokio::time::timeout(CASE_LIMIT, work)
        .await
        .map_err(|_| format!("hung: not done after {CASE_LIMIT:?}").into())
}

fn in_runtime(work: impl Future<Output = Result<(), Failed>>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(work);
    // Not by dropping it, which would wait for stuck blocking work for ever.
    runtime.shutdown_timeout(CLEAN_UP_LIMIT);
    done
}
