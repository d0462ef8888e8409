//! The tokio runtime behind the extension, owned here so that `atexit` can end it while the interpreter is still whole.
//!
//! Its threads never touch Python: what they have to say waits in a [`Mailbox`](crate::mailbox::Mailbox) or is fetched by
//! the thread that asked. So an interpreter that ends cannot be hurt by them, nor they by it.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pyo3::{
    exceptions::{PyImportError, PyRuntimeError},
    prelude::*,
    types::PyCFunction,
};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::place::Server;

/// How long the interpreter's exit waits for tasks; processes of this host are killed at once.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// How long the exit waits for servers to end what belongs to this process: more than the grace of most commands.
const SERVERS_LIMIT: Duration = Duration::from_secs(6);
/// Bytes are moved by these; commands cost no thread.
const THREADS: usize = 2;

struct State {
    runtime: Option<Runtime>,
    /// The process the runtime belongs to: threads do not survive a fork.
    pid: u32,
    stopped: bool,
    servers: Vec<Weak<Server>>,
}

static STATE: Mutex<State> = Mutex::new(State { runtime: None, pid: 0, stopped: false, servers: Vec::new() });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The runtime of this process; started when it is first needed, and anew after a fork.
pub(crate) fn handle() -> PyResult<Handle> {
    let mut state = state();
    if state.stopped {
        return Err(PyRuntimeError::new_err("fleetcore has ended: the interpreter is shutting down"));
    }
    let pid = std::process::id();
    if state.pid != pid {
        // Its threads stayed in the parent: there is nothing to end, and waiting for them would never end.
        mem::forget(state.runtime.take());
        state.servers.clear();
        state.pid = pid;
    }
    if let Some(runtime) = &state.runtime {
        return Ok(runtime.handle().clone());
    }
    let runtime =
        Builder::new_multi_thread().worker_threads(THREADS).enable_all().thread_name("fleetcore").build()?;
    let handle = runtime.handle().clone();
    state.runtime = Some(runtime);
    Ok(handle)
}

/// Refuses what was made before a fork: the tasks behind it stayed in the parent.
pub(crate) fn check_process(made_in: u32) -> PyResult<()> {
    if made_in == std::process::id() {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(
        "this fleetcore object was made before a fork and belongs to the parent process: make a new Fleet in the child, \
         or start processes with the method \"spawn\"",
    ))
}

/// Remembers a server whose commands must be ended with this process.
pub(crate) fn remember(server: &Arc<Server>) {
    let mut state = state();
    state.servers.retain(|s| s.strong_count() > 0);
    state.servers.push(Arc::downgrade(server));
}

fn stop(py: Python<'_>) {
    let (runtime, servers) = {
        let mut state = state();
        state.stopped = true;
        (state.runtime.take(), mem::take(&mut state.servers))
    };
    let Some(runtime) = runtime else { return };
    if state().pid != std::process::id() {
        mem::forget(runtime);
        return;
    }
    py.detach(|| {
        let servers: Vec<_> = servers.iter().filter_map(Weak::upgrade).collect();
        if !servers.is_empty() {
            let all = futures::future::join_all(servers.iter().map(|s| s.shutdown()));
            // Late ones end by the server's own limits.
            let _ = runtime.block_on(async { tokio::time::timeout(SERVERS_LIMIT, all).await });
        }
        runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    });
}

/// The interpreter that came first, by its own `builtins`.
static HOME: AtomicUsize = AtomicUsize::new(0);

/// Registers the end. Interpreters share all that is static here, so there can be only one.
pub(crate) fn install(py: Python<'_>) -> PyResult<()> {
    let here = py.import("builtins")?.as_ptr() as usize;
    match HOME.compare_exchange(0, here, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        // Imported anew: the end is registered.
        Err(home) if home == here => return Ok(()),
        Err(_) => {
            return Err(PyImportError::new_err(
                "fleetcore works in one interpreter of a process only, and another one (a subinterpreter, or the main \
                 one) has imported it already",
            ));
        }
    }
    let stop = PyCFunction::new_closure(py, None, None, |args, _| stop(args.py()))?;
    py.import("atexit")?.call_method1("register", (stop,))?;
    Ok(())
}
