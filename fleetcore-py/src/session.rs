//! A persistent shell.

use std::{collections::BTreeMap, sync::Arc};

use ::fleetcore::{
    Error, HandedBack, Key, Offset, Result, Session as CoreSession, SessionId, SessionSpec, Turn, TurnStatus,
    WaitPolicy,
};
use futures::{FutureExt as _, StreamExt as _};
use pyo3::{prelude::*, types::PyMapping};
use secrecy::SecretString;

use crate::{
    command::Events,
    convert::{bytes, exit, json, seconds, text, value},
    errors::raise,
    op::Op,
    spec::{size, texts, words},
};

/// What to open, from Python.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Wanted<'py> {
    id: Option<String>,
    shell: Option<Bound<'py, PyAny>>,
    cwd: Option<Bound<'py, PyAny>>,
    env: Option<Bound<'py, PyMapping>>,
    user: Option<String>,
    size: (i64, i64),
    idle_timeout: Option<f64>,
    startup: Bound<'py, PyAny>,
    labels: Option<Bound<'py, PyMapping>>,
}

impl Wanted<'_> {
    pub(crate) fn spec(&self) -> PyResult<SessionSpec> {
        let id = self.id.clone().unwrap_or_else(|| format!("py-{}", uuid::Uuid::new_v4().simple()));
        let mut spec = SessionSpec::new(SessionId::new(id).map_err(raise)?);
        if let Some(shell) = &self.shell {
            spec.shell = words(shell, "shell")?;
        }
        spec.cwd = self.cwd.as_ref().map(|c| text(c, "cwd")).transpose()?;
        let env = texts(self.env.as_ref(), "env")?;
        spec.env = env.into_iter().map(|(k, v)| (k, SecretString::from(v))).collect::<BTreeMap<_, _>>();
        spec.user.clone_from(&self.user);
        spec.size = size(self.size)?;
        spec.idle_timeout = seconds("idle_timeout", self.idle_timeout)?;
        spec.startup = words(&self.startup, "startup")?;
        spec.labels = texts(self.labels.as_ref(), "labels")?.into_iter().collect();
        Ok(spec)
    }
}

/// One open shell. Dropping it ends the shell and all its jobs.
#[pyclass(module = "fleetcore._fleetcore", frozen)]
pub(crate) struct Session {
    session: Arc<dyn CoreSession>,
}

impl Session {
    pub(crate) fn new(session: Arc<dyn CoreSession>) -> Self {
        Self { session }
    }
}

/// `(seq, from, to, state, exit_code, expected, cwd, text)`.
type Told = (u64, u64, u64, &'static str, Option<i32>, Option<usize>, Option<String>, String);

async fn told(session: &dyn CoreSession, turn: Turn) -> Result<Told> {
    let (state, code, expected) = match turn.status {
        TurnStatus::Completed { exit_code } => ("completed", exit_code, None),
        TurnStatus::Running(HandedBack::SoftTimeout) => ("timeout", None, None),
        TurnStatus::Running(HandedBack::Quiet) => ("quiet", None, None),
        TurnStatus::Running(HandedBack::Expected { index }) => ("expected", None, Some(index)),
        TurnStatus::SessionEnded(status) => ("ended", exit(status).0, None),
        _ => ("running", None, None),
    };
    let text = session.text(turn.output.clone()).await?;
    Ok((turn.seq, turn.output.start.0, turn.output.end.0, state, code, expected, turn.cwd, text))
}

fn policy(timeout: Option<f64>, quiet: Option<f64>, expect: &Bound<'_, PyAny>) -> PyResult<WaitPolicy> {
    let mut wait = WaitPolicy::forever();
    wait.soft_timeout = seconds("timeout", timeout)?;
    wait.quiet_timeout = seconds("quiet", quiet)?;
    wait.expect = words(expect, "expect")?;
    if wait.expect.iter().any(String::is_empty) {
        return Err(raise(Error::invalid("expect", "texts that are not empty")));
    }
    Ok(wait)
}

/// A key by its name: `Enter`, `Ctrl-C`, `F5`; a single character is itself.
fn key(name: &str) -> PyResult<Key> {
    let lower = name.to_ascii_lowercase();
    let invalid = || {
        let rule = "names such as Enter, Tab, Escape, Up, PageDown, F1 or Ctrl-C, or single characters";
        raise(Error::invalid("keys", rule).with_context("value", name.escape_debug()))
    };
    let control = lower.strip_prefix("ctrl-").or_else(|| lower.strip_prefix("ctrl+"));
    if let Some(rest) = control {
        let mut letters = rest.chars();
        return match (letters.next(), letters.next()) {
            (Some(c), None) if c.is_ascii_lowercase() || "@[\\]^_?".contains(c) => Ok(Key::Ctrl(c)),
            _ => Err(invalid()),
        };
    }
    let mut letters = name.chars();
    if let (Some(c), None) = (letters.next(), letters.next()) {
        return Ok(Key::Text(c.to_string()));
    }
    Ok(match lower.as_str() {
        "enter" | "return" => Key::Enter,
        "tab" => Key::Tab,
        "escape" | "esc" => Key::Escape,
        "backspace" => Key::Backspace,
        "delete" => Key::Delete,
        "space" => Key::Text(" ".to_owned()),
        "up" => Key::Up,
        "down" => Key::Down,
        "left" => Key::Left,
        "right" => Key::Right,
        "home" => Key::Home,
        "end" => Key::End,
        "pageup" => Key::PageUp,
        "pagedown" => Key::PageDown,
        _ => match lower.strip_prefix('f').and_then(|n| n.parse::<u8>().ok()) {
            Some(n @ 1..=12) => Key::Function(n),
            _ => return Err(invalid()),
        },
    })
}

impl Session {
    fn turn<F>(&self, ask: impl FnOnce(Arc<dyn CoreSession>) -> F) -> Op
    where
        F: Future<Output = Result<Turn>> + Send + 'static,
    {
        let (session, asked) = (Arc::clone(&self.session), ask(Arc::clone(&self.session)));
        Op::new(
            async move {
                let turn = asked.await?;
                told(&*session, turn).await
            },
            |py, told| Ok(told.into_pyobject(py)?.into_any().unbind()),
        )
    }
}

#[pymethods]
impl Session {
    #[getter]
    fn id(&self) -> String {
        self.session.id().to_string()
    }

    fn run(
        &self,
        command: String,
        timeout: Option<f64>,
        quiet: Option<f64>,
        expect: &Bound<'_, PyAny>,
    ) -> PyResult<Op> {
        let wait = policy(timeout, quiet, expect)?;
        Ok(self.turn(|session| async move { session.run(&command, wait).await }))
    }

    fn resume(&self, timeout: Option<f64>, quiet: Option<f64>, expect: &Bound<'_, PyAny>) -> PyResult<Op> {
        let wait = policy(timeout, quiet, expect)?;
        Ok(self.turn(|session| async move { session.resume(wait).await }))
    }

    fn interrupt(&self, timeout: Option<f64>) -> PyResult<Op> {
        let mut wait = WaitPolicy::forever();
        wait.soft_timeout = seconds("timeout", timeout)?;
        Ok(self.turn(|session| async move { session.interrupt(wait).await }))
    }

    fn keys(&self, keys: Vec<String>) -> PyResult<Op> {
        let keys: Vec<Key> = keys.iter().map(|k| key(k)).collect::<PyResult<_>>()?;
        let session = Arc::clone(&self.session);
        Ok(Op::unit(async move { session.send_keys(&keys).await }))
    }

    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<Op> {
        let (data, session) = (bytes(data, "data")?, Arc::clone(&self.session));
        Ok(Op::unit(async move { session.write(data).await }))
    }

    fn resize(&self, cols: i64, rows: i64) -> PyResult<Op> {
        let (size, session) = (size((cols, rows))?, Arc::clone(&self.session));
        Ok(Op::unit(async move { session.resize(size).await }))
    }

    fn screen(&self) -> Op {
        let session = Arc::clone(&self.session);
        Op::new(async move { value(&session.screen().await?) }, |py, screen| json(py, &screen))
    }

    fn events(&self, offset: u64) -> Events {
        let session = Arc::clone(&self.session);
        Events::opening(async move { Ok(session.stream(Offset(offset)).await?.boxed()) }.boxed())
    }

    /// `(cwd, busy, turns, output_end, ended)`.
    fn info(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let info = self.session.info();
        let all = (info.cwd, info.busy, info.turns, info.output_end.0, info.ended.map(exit));
        Ok(all.into_pyobject(py)?.into_any().unbind())
    }

    fn close(&self) -> Op {
        let session = Arc::clone(&self.session);
        Op::new(async move { session.close().await }, |py, status| {
            Ok(exit(status).into_pyobject(py)?.into_any().unbind())
        })
    }
}
