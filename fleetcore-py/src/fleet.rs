//! The fleet.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use ::fleetcore::{
    AgentId, CommandId, CommandStore, Error, ErrorKind, FanOut as Plan, Fleet as CoreFleet, HostPort,
    MachineSpec, OpContext, Operation, Pattern, Probe, RunningCommand, StopMode,
    backends::{
        local::{Local, LocalConfig},
        multipass::{Multipass, MultipassConfig},
        sandbox::{SandboxConfig, Sandboxes},
        ssh::{Ssh, SshConfig},
    },
    store::sqlite::{SqliteConfig, SqliteStore},
};
use bytes::Bytes;
use fleetcore_http::client::{Client, Credentials};
use pyo3::{prelude::*, types::PyMapping};
use secrecy::SecretString;

use crate::{
    command::Command,
    convert::{fields, json, output, seconds, target as parse_target, text},
    errors::{raise, to_py},
    fanout::FanOut,
    files::Files,
    machines::{self, Done},
    op::Op,
    place::{Place, Server},
    rt,
    session::{Session, Wanted},
    spec::{Spec, texts, words},
    store::Lease,
    tunnel::Tunnel,
};

/// All machines one process or one server can reach.
#[pyclass(module = "fleetcore._fleetcore", frozen)]
pub(crate) struct Fleet {
    /// `None` once it is closed: what it holds, a data directory above all, is free for others then.
    place: Mutex<Option<Place>>,
    url: Option<String>,
    made_in: u32,
}

/// Gives a command its input while it runs.
fn feed(running: &RunningCommand, input: Option<Bytes>) {
    if let Some(input) = input {
        let handle = running.handle();
        tokio::spawn(async move {
            // A command that does not want all of it is none the worse.
            let _ = handle.write_stdin(input).await;
            handle.close_stdin().await;
        });
    }
}

impl Fleet {
    fn at(place: Place) -> Self {
        let url = match &place {
            Place::Here(..) => None,
            Place::Server(server) => Some(server.client.base_url().to_owned()),
        };
        Self { place: Mutex::new(Some(place)), url, made_in: std::process::id() }
    }

    fn place(&self) -> PyResult<Place> {
        rt::check_process(self.made_in)?;
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        place.ok_or_else(|| raise(Error::new(ErrorKind::InvalidState, "the fleet is closed")))
    }

    fn operate(&self, name: &str, operation: Operation) -> PyResult<Op> {
        let work = machines::operate(self.place()?, parse_target(name)?, operation);
        Ok(Op::new(work, |py, done| match done {
            Done::Begun(command) => {
                Ok((command.into_py(py)?, py.None()).into_pyobject(py)?.into_any().unbind())
            }
            Done::Answered(answer) => {
                Ok((py.None(), json(py, &answer)?).into_pyobject(py)?.into_any().unbind())
            }
        }))
    }
}

#[pymethods]
impl Fleet {
    /// A fleet of this process.
    #[staticmethod]
    fn local(
        py: Python<'_>,
        data_dir: Option<&Bound<'_, PyAny>>,
        ssh: Option<&Bound<'_, PyAny>>,
        multipass: bool,
    ) -> PyResult<Self> {
        let data_dir = data_dir.map(|d| text(d, "data_dir")).transpose()?.map(PathBuf::from);
        let ssh = ssh.map(|s| text(s, "ssh")).transpose()?.map(PathBuf::from);
        let runtime = rt::handle()?;
        let build = move || -> ::fleetcore::Result<Place> {
            let _inside = runtime.enter();
            let mut lease = None;
            let mut fleet = CoreFleet::builder().with_host(Arc::new(Local::new(LocalConfig::default())));
            if let Some(dir) = &data_dir {
                let sandboxes = Arc::new(Sandboxes::open(SandboxConfig::new(dir.join("sandboxes")))?);
                let probed = Arc::clone(&sandboxes);
                let probe = Probe::new(move || {
                    let sandboxes = Arc::clone(&probed);
                    async move { sandboxes.probe().await }
                });
                fleet = fleet.with_provider(sandboxes).with_probe("sandbox", probe);
                let store = Lease::new(SqliteStore::open(SqliteConfig::new(dir))?);
                // We alone have the directory, so whatever is said to run has lost its process.
                runtime.block_on(store.mark_lost("the program that ran it ended before it did"))?;
                lease = Some(Arc::clone(&store));
                fleet = fleet.with_store(store as Arc<dyn CommandStore>);
            }
            if multipass {
                let mut config = MultipassConfig::default();
                if let Some(dir) = &data_dir {
                    config = config.with_records(dir.join("multipass.json"));
                }
                let multipass = Multipass::new(config);
                multipass.resume();
                fleet = fleet.with_provider(Arc::new(multipass));
            }
            if let Some(path) = &ssh {
                let mut config = SshConfig::default();
                config.read_openssh(path)?;
                config.check()?;
                let ssh = Ssh::new(&config)?;
                if !ssh.is_empty() {
                    fleet = fleet.with_provider(Arc::new(ssh));
                }
            }
            Ok(Place::Here(fleet.build(), lease))
        };
        Ok(Self::at(py.detach(build).map_err(|e| to_py(py, &e))?))
    }

    /// A fleet of a server.
    #[staticmethod]
    fn connect(
        url: String,
        token: Option<String>,
        certificates: Option<Vec<u8>>,
        connect_timeout: Option<f64>,
    ) -> PyResult<Self> {
        let mut builder = Client::builder(url);
        if let Some(token) = token {
            builder = builder.with_credentials(Credentials::token(token));
        }
        if let Some(pem) = certificates {
            builder = builder.with_root_certificates(pem);
        }
        if let Some(limit) = seconds("connect_timeout", connect_timeout)? {
            builder = builder.with_connect_timeout(limit);
        }
        let server = Arc::new(Server::new(builder.build().map_err(raise)?));
        rt::remember(&server);
        Ok(Self::at(Place::Server(server)))
    }

    /// The server's address; `None` in-process.
    #[getter]
    fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    #[staticmethod]
    fn new_id() -> String {
        CommandId::generate().to_string()
    }

    /// Runs to the end: `(exit, stdout, stderr, truncated, seconds)`.
    fn run(&self, target: &str, spec: &Spec, id: &str) -> PyResult<Op> {
        let (place, on, id) = (self.place()?, parse_target(target)?, id.parse::<CommandId>().map_err(raise)?);
        let (spec, input) = (spec.spec.clone(), spec.input.clone());
        let work = async move {
            let began = Instant::now();
            let running = place.machine(&on).await?.spawn_with(&OpContext::default(), id, spec).await?;
            feed(&running, input);
            let output = running.output().await?;
            Ok((output, began.elapsed()))
        };
        Ok(Op::new(work, |py, (collected, took)| output(py, &collected, took)))
    }

    /// Ends a command of this process and waits until it is gone; fine when there is none.
    fn settle(&self, target: &str, id: &str) -> PyResult<Op> {
        let id = id.parse().map_err(raise)?;
        Ok(Op::unit(machines::settle(self.place()?, parse_target(target)?, id)))
    }

    fn spawn(&self, target: &str, spec: &Spec, id: &str) -> PyResult<Op> {
        let (place, on, id) = (self.place()?, parse_target(target)?, id.parse::<CommandId>().map_err(raise)?);
        let (spec, input) = (spec.spec.clone(), spec.input.clone());
        let work = async move {
            let running = place.machine(&on).await?.spawn_with(&OpContext::default(), id, spec).await?;
            feed(&running, input);
            Ok(Command::owning(running))
        };
        Ok(Op::new(work, |py, command| command.into_py(py)))
    }

    /// A command somebody has started.
    fn attach(&self, id: &str) -> PyResult<Op> {
        let (place, id) = (self.place()?, id.parse().map_err(raise)?);
        Ok(Op::new(async move { Command::find(&place, id).await }, |py, command| command.into_py(py)))
    }

    #[pyo3(signature = (targets, spec, parallel, batch, max_failures, labels))]
    fn fan_out(
        &self,
        targets: &Bound<'_, PyAny>,
        spec: &Spec,
        parallel: usize,
        batch: Option<usize>,
        max_failures: Option<usize>,
        labels: Option<&Bound<'_, PyMapping>>,
    ) -> PyResult<Op> {
        let patterns: Vec<Pattern> =
            words(targets, "targets")?.iter().map(|p| p.parse().map_err(raise)).collect::<PyResult<_>>()?;
        let mut plan = Plan::new(patterns, spec.spec.clone());
        (plan.parallel, plan.batch, plan.max_failures) = (parallel, batch, max_failures);
        plan.labels = texts(labels, "labels")?.into_iter().collect();
        plan.check().map_err(raise)?;
        if spec.input.is_some() {
            let rule = "left out: one input cannot be given to many commands";
            return Err(raise(Error::invalid("stdin", rule)));
        }
        Ok(FanOut::begin(self.place()?, plan))
    }

    fn session(&self, target: &str, wanted: Wanted<'_>) -> PyResult<Op> {
        let (place, on, spec) = (self.place()?, parse_target(target)?, wanted.spec()?);
        let work = async move { place.machine(&on).await?.open_session(spec).await };
        Ok(Op::new(work, |py, session| Ok(Py::new(py, Session::new(session))?.into_any())))
    }

    fn files(&self, target: &str) -> PyResult<Files> {
        Ok(Files::new(self.place()?, parse_target(target)?))
    }

    fn tunnel(&self, target: &str, to: &str, bind: &str) -> PyResult<Op> {
        let bind: SocketAddr = bind.parse().map_err(|e| {
            raise(Error::invalid("bind", "an address and a port, e.g. 127.0.0.1:0").with_source(e))
        })?;
        let to: HostPort = to.parse().map_err(raise)?;
        Ok(Tunnel::open(self.place()?, parse_target(target)?, bind, to))
    }

    fn ping(&self, target: &str) -> PyResult<Op> {
        let (place, on) = (self.place()?, parse_target(target)?);
        Ok(Op::unit(async move { place.machine(&on).await?.ping(&OpContext::default()).await }))
    }

    fn targets(&self) -> PyResult<Op> {
        Ok(Op::new(machines::targets(self.place()?), |py, all| json(py, &all)))
    }

    fn commands(&self, target: Option<&str>, limit: Option<usize>) -> PyResult<Op> {
        let on = target.map(parse_target).transpose()?;
        Ok(Op::new(machines::commands(self.place()?, on, limit), |py, all| json(py, &all)))
    }

    fn machines(&self, labels: Option<&Bound<'_, PyMapping>>, deleted: bool) -> PyResult<Op> {
        let labels = texts(labels, "labels")?.into_iter().collect();
        Ok(Op::new(machines::machines(self.place()?, labels, deleted), |py, all| json(py, &all)))
    }

    fn machine(&self, target: &str) -> PyResult<Op> {
        Ok(Op::new(machines::machine(self.place()?, parse_target(target)?), |py, all| json(py, &all)))
    }

    fn providers(&self) -> PyResult<Op> {
        Ok(Op::new(machines::providers(self.place()?), |py, all| json(py, &all)))
    }

    #[expect(clippy::too_many_arguments, reason = "Python names them")]
    #[pyo3(signature = (target, image, cpus, memory_bytes, disk_bytes, region, user_data, labels, options))]
    fn create(
        &self,
        target: &str,
        image: Option<String>,
        cpus: Option<u32>,
        memory_bytes: Option<u64>,
        disk_bytes: Option<u64>,
        region: Option<String>,
        user_data: Option<String>,
        labels: Option<&Bound<'_, PyMapping>>,
        options: Option<&str>,
    ) -> PyResult<Op> {
        let mut spec = MachineSpec::default();
        (spec.image, spec.cpus, spec.region) = (image, cpus, region);
        (spec.memory_bytes, spec.disk_bytes) = (memory_bytes, disk_bytes);
        spec.user_data = user_data.map(SecretString::from);
        spec.labels = texts(labels, "labels")?.into_iter().collect();
        spec.options = fields("options", options)?;
        self.operate(target, Operation::Create(Box::new(spec)))
    }

    fn start(&self, target: &str) -> PyResult<Op> {
        self.operate(target, Operation::Start)
    }

    fn stop(&self, target: &str, mode: &str) -> PyResult<Op> {
        let mode = match mode {
            "graceful" => StopMode::Graceful,
            "force" => StopMode::Force,
            "suspend" => StopMode::Suspend,
            _ => return Err(raise(Error::invalid("mode", "graceful, force or suspend"))),
        };
        self.operate(target, Operation::Stop(mode))
    }

    fn delete(&self, target: &str, purge: bool) -> PyResult<Op> {
        self.operate(target, Operation::Delete { purge })
    }

    fn act(&self, target: &str, action: String, args: Option<&str>) -> PyResult<Op> {
        let args = fields("args", args)?;
        self.operate(target, Operation::Act { action, args })
    }

    /// The exception a line of an operation's output stands for, or `None`.
    #[staticmethod]
    fn problem(py: Python<'_>, line: &[u8]) -> Option<Py<PyAny>> {
        machines::problem(line).map(|e| to_py(py, &e).into_value(py).into_any())
    }

    fn agents(&self) -> PyResult<Op> {
        Ok(Op::new(machines::agents(self.place()?), |py, all| json(py, &all)))
    }

    fn remove_agent(&self, id: &str) -> PyResult<Op> {
        Ok(Op::unit(machines::remove_agent(self.place()?, AgentId::new(id).map_err(raise)?)))
    }

    fn join_code(&self, labels: Option<&Bound<'_, PyMapping>>, expires_in: Option<f64>) -> PyResult<Op> {
        let labels = texts(labels, "labels")?.into_iter().collect();
        let expires_in = seconds("expires_in", expires_in)?;
        Ok(Op::new(machines::join_code(self.place()?, labels, expires_in), |py, made| json(py, &made)))
    }

    /// Ends all that runs, waits for it, and lets go of what the fleet holds. Closing twice is fine.
    fn close(&self) -> PyResult<Op> {
        rt::check_process(self.made_in)?;
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Op::unit(async move {
            if let Some(place) = place {
                place.shutdown().await;
            }
            Ok(())
        }))
    }
}
