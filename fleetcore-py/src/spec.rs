//! What to run, as Python says it.

use std::collections::BTreeMap;

use ::fleetcore::{CommandSpec, Error, Io, Overflow, Program, PtySize};
use bytes::Bytes;
use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    types::{PyBool, PyByteArray, PyBytes, PyMapping, PyString},
};

use crate::{
    convert::{bytes, seconds, text},
    errors::raise,
};

/// A command with its settings, checked.
#[pyclass(module = "fleetcore._fleetcore", frozen)]
pub(crate) struct Spec {
    pub(crate) spec: CommandSpec,
    /// Input that is known from the beginning.
    pub(crate) input: Option<Bytes>,
}

/// Terminal size from numbers of any size.
pub(crate) fn size((cols, rows): (i64, i64)) -> PyResult<PtySize> {
    let side = |n: i64| u16::try_from(n).unwrap_or(0);
    PtySize { cols: side(cols), rows: side(rows) }.check().map_err(raise)
}

/// A dictionary of texts.
pub(crate) fn texts(given: Option<&Bound<'_, PyMapping>>, what: &str) -> PyResult<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let Some(given) = given else { return Ok(all) };
    for item in given.items()? {
        let (key, value) = item.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
        let name = text(&key, &format!("names in {what}"))?;
        let value = text(&value, &format!("{what}[{name:?}]"))?;
        all.insert(name, value);
    }
    Ok(all)
}

/// A sequence of texts; a single text is a mistake that would otherwise pass for its letters.
pub(crate) fn words(given: &Bound<'_, PyAny>, what: &str) -> PyResult<Vec<String>> {
    if given.is_instance_of::<PyString>()
        || given.is_instance_of::<PyBytes>()
        || given.is_instance_of::<PyByteArray>()
    {
        let name = given.get_type().name()?;
        return Err(PyTypeError::new_err(format!("{what} must be a sequence of str, not {name}")));
    }
    let items = given.try_iter().map_err(|_| {
        let name = given.get_type().name().map(|n| n.to_string()).unwrap_or_default();
        PyTypeError::new_err(format!("{what} must be a sequence of str, not {name}"))
    })?;
    items.enumerate().map(|(n, item)| text(&item?, &format!("{what}[{n}]"))).collect()
}

#[pymethods]
impl Spec {
    #[new]
    #[pyo3(signature = (argv, *, shell = false, cwd = None, env = None, clear_env = false, user = None, stdin = None,
        merge_stderr = false, pty = None, timeout = None, grace = None, replay_bytes = None, idempotent = false,
        labels = None, wait_for_reader = true))]
    #[expect(clippy::too_many_arguments, reason = "Python names them")]
    fn new(
        argv: &Bound<'_, PyAny>,
        shell: bool,
        cwd: Option<&Bound<'_, PyAny>>,
        env: Option<&Bound<'_, PyMapping>>,
        clear_env: bool,
        user: Option<String>,
        stdin: Option<&Bound<'_, PyAny>>,
        merge_stderr: bool,
        pty: Option<(i64, i64)>,
        timeout: Option<f64>,
        grace: Option<f64>,
        replay_bytes: Option<i64>,
        idempotent: bool,
        labels: Option<&Bound<'_, PyMapping>>,
        wait_for_reader: bool,
    ) -> PyResult<Self> {
        let program = match (shell, argv.cast::<PyString>()) {
            (true, Ok(script)) => Program::Shell(script.to_str()?.to_owned()),
            (true, Err(_)) => return Err(PyTypeError::new_err("argv must be str when shell is true")),
            (false, _) => Program::Argv(words(argv, "argv")?),
        };
        let mut spec = CommandSpec::new(program);
        spec.cwd = cwd.map(|c| text(c, "cwd")).transpose()?;
        for (name, value) in texts(env, "env")? {
            spec = spec.with_env(name, value);
        }
        spec.clear_env = clear_env;
        spec.user = user;
        let (open, input) = match stdin {
            None => (false, None),
            Some(given) => match given.cast::<PyBool>() {
                Ok(open) => (open.is_true(), None),
                Err(_) => (true, Some(bytes(given, "stdin")?)),
            },
        };
        spec.io = match pty {
            Some(given) => Io::Pty(size(given)?),
            None => Io::Pipes { stdin: open, merge: merge_stderr },
        };
        spec.timeout = seconds("timeout", timeout)?;
        if let Some(grace) = seconds("grace", grace)? {
            spec.grace = grace;
        }
        if let Some(bytes) = replay_bytes {
            spec.replay_bytes =
                usize::try_from(bytes).map_err(|_| raise(Error::invalid("replay_bytes", "0 or more")))?;
        }
        if wait_for_reader {
            spec.overflow = Overflow::Block;
        }
        spec.idempotent = idempotent;
        spec.labels = texts(labels, "labels")?.into_iter().collect();
        spec.check().map_err(raise)?;
        Ok(Self { spec, input })
    }

    fn __repr__(&self) -> String {
        format!("Spec({:?})", self.spec.program.display())
    }
}
