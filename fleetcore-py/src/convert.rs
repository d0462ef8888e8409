//! Values of the core as plain Python values, and back.

use std::time::Duration;

use ::fleetcore::{Error, ExitKind, ExitStatus, Output, Result, Signal, Target};
use bytes::Bytes;
use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    pybacked::PyBackedBytes,
    types::{PyBytes, PyDict, PyList, PyString},
};
use serde::Serialize;
use serde_json::Value;

use crate::errors::raise;

/// JSON as Python's own.
pub(crate) fn json(py: Python<'_>, value: &Value) -> PyResult<Py<PyAny>> {
    Ok(match value {
        Value::Null => py.None(),
        Value::Bool(yes) => yes.into_pyobject(py)?.to_owned().into_any().unbind(),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => n.into_pyobject(py)?.into_any().unbind(),
            (None, Some(n)) => n.into_pyobject(py)?.into_any().unbind(),
            _ => n.as_f64().unwrap_or(f64::NAN).into_pyobject(py)?.into_any().unbind(),
        },
        Value::String(text) => PyString::new(py, text).into_any().unbind(),
        Value::Array(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(json(py, item)?)?;
            }
            list.into_any().unbind()
        }
        Value::Object(fields) => {
            let dict = PyDict::new(py);
            for (key, value) in fields {
                dict.set_item(key, json(py, value)?)?;
            }
            dict.into_any().unbind()
        }
    })
}

/// A value as JSON.
pub(crate) fn value(of: &impl Serialize) -> Result<Value> {
    serde_json::to_value(of).map_err(|e| {
        Error::new(::fleetcore::ErrorKind::Unexpected, "a value cannot be written as JSON").with_source(e)
    })
}

/// JSON that Python gives as text.
pub(crate) fn fields(field: &'static str, text: Option<&str>) -> PyResult<::fleetcore::Json> {
    let Some(text) = text else { return Ok(::fleetcore::Json::default()) };
    serde_json::from_str(text)
        .map_err(|e| raise(Error::invalid(field, "an object of plain values").with_source(e)))
}

/// Seconds.
pub(crate) fn seconds(field: &'static str, given: Option<f64>) -> PyResult<Option<Duration>> {
    given
        .map(|s| {
            Duration::try_from_secs_f64(s)
                .map_err(|e| raise(Error::invalid(field, "a number of seconds, 0 or more").with_source(e)))
        })
        .transpose()
}

/// A target's name.
pub(crate) fn target(name: &str) -> PyResult<Target> {
    name.parse().map_err(raise)
}

/// Text or a path.
pub(crate) fn text(given: &Bound<'_, PyAny>, what: &str) -> PyResult<String> {
    if let Ok(text) = given.cast::<PyString>() {
        return Ok(text.to_str()?.to_owned());
    }
    if let Ok(path) = given.call_method0("__fspath__")
        && let Ok(text) = path.cast::<PyString>()
    {
        return Ok(text.to_str()?.to_owned());
    }
    Err(PyTypeError::new_err(format!(
        "{what} must be str or a path of str, not {}",
        given.get_type().name()?
    )))
}

/// Bytes without a copy; text as UTF-8.
pub(crate) fn bytes(given: &Bound<'_, PyAny>, what: &str) -> PyResult<Bytes> {
    if let Ok(text) = given.cast::<PyString>() {
        return Ok(Bytes::copy_from_slice(text.to_str()?.as_bytes()));
    }
    let owned: PyBackedBytes = given.extract().map_err(|_| {
        let name = given.get_type().name().map(|n| n.to_string()).unwrap_or_default();
        PyTypeError::new_err(format!("{what} must be bytes, bytearray or str, not {name}"))
    })?;
    Ok(Bytes::from_owner(owned))
}

/// Many pieces as one `bytes`: one copy, straight to where Python keeps it.
pub(crate) fn joined<'py>(py: Python<'py>, pieces: &[Bytes]) -> PyResult<Bound<'py, PyBytes>> {
    if let [one] = pieces {
        return Ok(PyBytes::new(py, one));
    }
    PyBytes::new_with(py, pieces.iter().map(Bytes::len).sum(), |mut to| {
        for piece in pieces {
            let (head, rest) = to.split_at_mut(piece.len());
            head.copy_from_slice(piece);
            to = rest;
        }
        Ok(())
    })
}

/// `(code, signal, reason, leaked)`.
pub(crate) type Exit = (Option<i32>, Option<i32>, Option<String>, bool);

pub(crate) fn exit(status: ExitStatus) -> Exit {
    let (code, signal) = match status.kind {
        ExitKind::Code(code) => (Some(code), None),
        ExitKind::Signal(signal) => (None, Some(signal)),
        _ => (None, None),
    };
    let reason = status.reason.and_then(|r| value(&r).ok()).and_then(|r| r.as_str().map(str::to_owned));
    (code, signal, reason, status.leaked)
}

/// `(exit, stdout, stderr, truncated, seconds)`.
pub(crate) fn output(py: Python<'_>, output: &Output, took: Duration) -> PyResult<Py<PyAny>> {
    let all = (
        exit(output.status),
        PyBytes::new(py, &output.stdout),
        PyBytes::new(py, &output.stderr),
        output.truncated,
        took.as_secs_f64(),
    );
    Ok(all.into_pyobject(py)?.into_any().unbind())
}

/// A signal: `INT`, `SIGINT` or `2`.
pub(crate) fn signal(given: &Bound<'_, PyAny>) -> PyResult<Signal> {
    // Before numbers: `signal.SIGINT` is one.
    let name = if let Ok(number) = given.extract::<i32>() {
        number.to_string()
    } else if let Ok(text) = given.cast::<PyString>() {
        text.to_str()?.to_ascii_uppercase()
    } else {
        let name = given.get_type().name()?;
        return Err(PyTypeError::new_err(format!("signal must be str, int or signal.Signals, not {name}")));
    };
    Ok(match name.strip_prefix("SIG").unwrap_or(&name) {
        "HUP" | "1" => Signal::Hangup,
        "INT" | "2" => Signal::Interrupt,
        "QUIT" | "3" => Signal::Quit,
        "KILL" | "9" => Signal::Kill,
        "USR1" | "10" => Signal::User1,
        "USR2" | "12" => Signal::User2,
        "TERM" | "15" => Signal::Terminate,
        "CONT" | "18" => Signal::Continue,
        "STOP" | "19" => Signal::Stop,
        _ => {
            let rule = "one of HUP INT QUIT KILL TERM STOP CONT USR1 USR2";
            return Err(raise(Error::invalid("signal", rule).with_context("value", name.escape_debug())));
        }
    })
}
