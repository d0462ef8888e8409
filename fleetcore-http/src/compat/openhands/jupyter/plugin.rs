//! The plugin: finding a Python, starting its kernel, starting another one when that dies.

use std::{path::PathBuf, time::Duration};

use fleetcore::{Error, ErrorKind, Result};

use super::{
    super::{action::Cell, helper, observation::Observation, options::Options, python::float, user::User},
    cell::Said,
    kernel::{Ended, Kernel, Launch},
};

/// Where the original's image has its Python.
const MICROMAMBA: &str = "/openhands/micromamba/bin/micromamba";
/// Where the original's image has its code.
const CODE: &str = "/openhands/code";
const SKILLS: &str = "from openhands.runtime.plugins.agent_skills.agentskills import *";
/// How long one of our own cells may take.
const OWN: Duration = Duration::from_secs(60);

/// The plugin, running.
#[derive(Debug)]
pub(in super::super) struct Jupyter {
    launch: Launch,
    skills: bool,
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kernel: Option<Kernel>,
    python: String,
    /// Where the shell was when the kernel was last told.
    cwd: Option<String>,
}

fn refuse(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Unavailable, why).with_operation("plugin jupyter")
}

/// A Python, or what runs one.
fn launch(options: &Options, user: Option<User>) -> Result<Launch> {
    let local = options.var("LOCAL_RUNTIME_MODE") == Some("1");
    let env = options.env.clone();
    if !local && helper::find(MICROMAMBA, &env).is_some() {
        let args = ["run", "-n", "openhands", "python"].map(str::to_owned).to_vec();
        return Ok(Launch { program: MICROMAMBA.into(), args, env, dir: CODE.to_owned(), user });
    }
    let dir = match options.var("OPENHANDS_REPO_PATH") {
        Some(dir) => dir.to_owned(),
        None if local => {
            return Err(refuse("OPENHANDS_REPO_PATH is not set, and LOCAL_RUNTIME_MODE=1 needs it"));
        }
        None => options.working_dir.clone(),
    };
    let program: PathBuf = ["python3", "python"]
        .iter()
        .find_map(|name| helper::find(name, &env))
        .ok_or_else(|| refuse("there is no Python in PATH").with_context("also tried", MICROMAMBA))?;
    Ok(Launch { program, args: Vec::new(), env, dir, user })
}

impl Jupyter {
    /// Starts the kernel.
    ///
    /// # Errors
    /// By name, when there is no Python with ipykernel, or without the skills that were asked for.
    pub(in super::super) async fn start(options: &Options, user: Option<User>) -> Result<Self> {
        let launch = launch(options, user)?;
        let skills = options.plugins.agent_skills;
        let plugin = Self { launch, skills, state: tokio::sync::Mutex::default() };
        let mut state = plugin.state.lock().await;
        plugin.fresh(&mut state, &options.working_dir).await?;
        drop(state);
        Ok(plugin)
    }

    /// A new kernel, and its first cells.
    async fn fresh(&self, state: &mut State, cwd: &str) -> Result<()> {
        *state = State::default();
        let mut kernel = Kernel::start(&self.launch).await.map_err(|e| {
            let hint = "install ipykernel for this Python, or leave the plugin jupyter out";
            e.with_context("plugin", "jupyter").with_context("hint", hint)
        })?;
        own(&mut kernel, "%colors nocolor").await?;
        state.python = own(&mut kernel, "import sys; print(sys.executable)").await?;
        own(&mut kernel, &chdir(cwd)).await?;
        state.cwd = Some(cwd.to_owned());
        if self.skills {
            let said = own(&mut kernel, SKILLS).await?;
            if said.contains("Error") {
                let last = said.lines().last().unwrap_or_default().to_owned();
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "the kernel's Python cannot import the skills",
                )
                .with_operation("plugin agent_skills")
                .with_context("python", &state.python)
                .with_context("said", last));
            }
        }
        state.kernel = Some(kernel);
        Ok(())
    }

    /// Runs a cell where the shell is.
    pub(in super::super) async fn run(&self, cell: &Cell, cwd: &str, timeout: Option<f64>) -> Observation {
        let mut state = self.state.lock().await;
        let (text, images) = match self.execute(&mut state, cell, cwd, timeout).await {
            Ok(outcome) => outcome,
            Err(error) => (format!("[The kernel cannot be started: {error}]"), Vec::new()),
        };
        let content = if cell.include_extra {
            format!(
                "{text}\n[Jupyter current working directory: {cwd}]\n[Jupyter Python interpreter: {}]",
                state.python
            )
        } else {
            text
        };
        Observation::cell(&cell.code, content, images)
    }

    async fn execute(
        &self,
        state: &mut State,
        cell: &Cell,
        cwd: &str,
        timeout: Option<f64>,
    ) -> Result<(String, Vec<String>)> {
        if state.kernel.is_none() {
            self.fresh(state, cwd).await?;
        }
        // More than a `Duration` holds is for ever.
        let limit = timeout.and_then(|s| Duration::try_from_secs_f64(s.max(0.0)).ok());
        let moved = state.cwd.as_deref() != Some(cwd);
        // Taken out: dropped in the middle of a cell, nobody knows what it would answer next.
        let Some(mut kernel) = state.kernel.take() else { return Ok((String::new(), Vec::new())) };
        if moved {
            own(&mut kernel, &chdir(cwd)).await?;
            state.cwd = Some(cwd.to_owned());
        }
        let mut said = Said::default();
        let timed_out = || format!("[Execution timed out ({} seconds).]", float(timeout.unwrap_or_default()));
        match kernel.execute(&cell.code, limit, &mut said).await {
            Ended::Done => {
                state.kernel = Some(kernel);
                Ok((said.text(), said.images))
            }
            Ended::TimedOut => {
                state.kernel = Some(kernel);
                Ok((timed_out(), Vec::new()))
            }
            Ended::Stuck => {
                kernel.stop().await;
                let note =
                    "[The cell could not be interrupted: its kernel was ended, and variables are lost.]";
                Ok((format!("{}\n{note}", timed_out()), Vec::new()))
            }
            Ended::Died(how) => {
                kernel.stop().await;
                let note = format!(
                    "[The kernel died ({how}): the next cell has a new one, and variables are lost.]"
                );
                let said = said.so_far();
                let text = if said.is_empty() { note } else { format!("{said}\n{note}") };
                Ok((text, Vec::new()))
            }
        }
    }

    /// Ends the kernel.
    pub(in super::super) async fn stop(&self) {
        if let Some(kernel) = self.state.lock().await.kernel.take() {
            kernel.stop().await;
        }
    }
}

/// JSON's quotes are Python's, so a directory is a directory whatever its name.
fn chdir(cwd: &str) -> String {
    format!("import os; os.chdir({})", serde_json::Value::from(cwd))
}

/// A cell of our own; its text.
async fn own(kernel: &mut Kernel, code: &str) -> Result<String> {
    let mut said = Said::default();
    match kernel.execute(code, Some(OWN), &mut said).await {
        Ended::Done => Ok(said.so_far()),
        other => Err(refuse(format!("the kernel does not work: {other:?}"))),
    }
}
