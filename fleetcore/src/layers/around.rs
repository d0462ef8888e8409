//! What a layer has to say about one call; [`Wrapped`](super::wrapped::Wrapped) says it for every method of every
//! trait, so forwarding is written once.

use std::{fmt, future::Future};

use super::{
    operation::{Operation, Subject},
    streams,
};
use crate::{
    CommandSpec, Program, Result,
    raw::{BoxConnection, ByteStream, OpContext, RawProcess},
};

/// One call on its way through a layer. Holds nothing secret: no arguments, no variables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) operation: Operation,
    pub(super) subject: Subject<'a>,
    /// Name of the program or action, without its arguments.
    pub(super) program: Option<&'a str>,
    /// Whether the call may be made again after a failure.
    pub(super) repeatable: bool,
}

impl<'a> Call<'a> {
    pub(super) fn new(operation: Operation, subject: Subject<'a>) -> Self {
        Self { operation, subject, program: None, repeatable: operation.is_repeatable() }
    }

    pub(super) fn spawn(subject: Subject<'a>, spec: &'a CommandSpec) -> Self {
        let program = match &spec.program {
            Program::Argv(argv) => argv.first().map(String::as_str),
            Program::Shell(_) => Some("sh"),
            Program::Action { name, .. } => Some(name.as_str()),
        };
        Self { operation: Operation::Spawn, subject, program, repeatable: spec.idempotent }
    }
}

/// Behaviour around calls.
pub(super) trait Around: fmt::Debug + Send + Sync + 'static {
    /// What stays behind while the thing a call returned (a process, a stream, a session) is alive.
    type Ticket: fmt::Debug + Send + Sync + 'static;

    /// Makes the call by `run`, which may be called again only if [`Call::repeatable`].
    fn call<T, F, Fut>(
        &self,
        call: &Call<'_>,
        cx: &OpContext,
        run: F,
    ) -> impl Future<Output = Result<(T, Self::Ticket)>> + Send
    where
        T: Send,
        F: FnMut(OpContext) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send;

    /// Wraps a process that was spawned or adopted.
    fn process(&self, _call: &Call<'_>, _ticket: Self::Ticket, process: RawProcess) -> RawProcess {
        process
    }

    /// Wraps a connection that was opened; the ticket goes with it.
    fn connection(&self, _call: &Call<'_>, ticket: Self::Ticket, connection: BoxConnection) -> BoxConnection {
        streams::keep_with_connection(connection, ticket)
    }

    /// Wraps bytes on their way to the caller.
    fn bytes(&self, _call: &Call<'_>, _ticket: Self::Ticket, bytes: ByteStream) -> ByteStream {
        bytes
    }
}
