//! The operations layers see, by name.

use std::fmt;

use crate::{CommandId, HostPort, MachineId, SessionId};

/// What kind of work an operation is, which decides its time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationClass {
    /// Asks; changes nothing.
    Query,
    /// Changes something and is done when it returns.
    Change,
    /// Changes a machine, which can take minutes.
    MachineChange,
    /// Starts a process or a session, or opens a connection.
    Start,
    /// Hands out bytes as a stream.
    Read,
    /// Takes bytes from a stream; lasts as long as there are bytes.
    Write,
    /// Waits for a program, however long it takes; the caller says when to stop.
    Wait,
}

macro_rules! operations {
    ($($(#[$meta:meta])* $name:ident = $text:literal, $class:ident;)+) => {
        /// One operation of a provider, an executor, a file system or a session.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Operation { $($(#[$meta])* $name,)+ }

        impl Operation {
            /// All operations.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Stable name, e.g. `command.spawn`: used in traces, metrics and the audit log.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What kind of work it is.
            pub fn class(self) -> OperationClass {
                match self { $(Self::$name => OperationClass::$class,)+ }
            }
        }
    };
}

operations! {
    /// [`Provider::create`](crate::Provider::create)
    MachineCreate = "machine.create", MachineChange;
    /// [`Provider::start`](crate::Provider::start)
    MachineStart = "machine.start", MachineChange;
    /// [`Provider::stop`](crate::Provider::stop)
    MachineStop = "machine.stop", MachineChange;
    /// [`Provider::delete`](crate::Provider::delete)
    MachineDelete = "machine.delete", MachineChange;
    /// [`Provider::list`](crate::Provider::list)
    MachineList = "machine.list", Query;
    /// [`Provider::info`](crate::Provider::info)
    MachineInfo = "machine.info", Query;
    /// [`Provider::connect`](crate::Provider::connect)
    MachineConnect = "machine.connect", Query;
    /// [`Provider::act`](crate::Provider::act), an action that changes something
    MachineAct = "machine.act", MachineChange;
    /// [`Provider::act`](crate::Provider::act), an action that only asks
    MachineAsk = "machine.ask", Query;
    /// [`Executor::ping`](crate::Executor::ping)
    Ping = "machine.ping", Query;
    /// [`Executor::spawn`](crate::Executor::spawn)
    Spawn = "command.spawn", Start;
    /// [`Executor::reattach`](crate::Executor::reattach)
    Reattach = "command.reattach", Start;
    /// [`Executor::open_session`](crate::Executor::open_session)
    SessionOpen = "session.open", Start;
    /// [`Executor::connect`](crate::Executor::connect)
    TunnelOpen = "tunnel.open", Start;
    /// [`FileSystem::stat`](crate::FileSystem::stat)
    FileStat = "file.stat", Query;
    /// [`FileSystem::read`](crate::FileSystem::read)
    FileRead = "file.read", Read;
    /// [`FileSystem::write`](crate::FileSystem::write)
    FileWrite = "file.write", Write;
    /// [`FileSystem::list`](crate::FileSystem::list)
    DirList = "file.list", Query;
    /// [`FileSystem::create_dir`](crate::FileSystem::create_dir)
    DirCreate = "file.create_dir", Change;
    /// [`FileSystem::set_owner`](crate::FileSystem::set_owner)
    FileOwner = "file.set_owner", Change;
    /// [`FileSystem::rename`](crate::FileSystem::rename)
    FileRename = "file.rename", Change;
    /// [`FileSystem::remove`](crate::FileSystem::remove)
    FileRemove = "file.remove", Change;
    /// [`FileSystem::read_tar`](crate::FileSystem::read_tar)
    TarRead = "file.read_tar", Read;
    /// [`FileSystem::write_tar`](crate::FileSystem::write_tar)
    TarWrite = "file.write_tar", Write;
    /// [`Session::run`](crate::Session::run)
    SessionRun = "session.run", Wait;
    /// [`Session::resume`](crate::Session::resume)
    SessionResume = "session.resume", Wait;
    /// [`Session::send_keys`](crate::Session::send_keys)
    SessionKeys = "session.send_keys", Change;
    /// [`Session::write`](crate::Session::write)
    SessionWrite = "session.write", Change;
    /// [`Session::interrupt`](crate::Session::interrupt)
    SessionInterrupt = "session.interrupt", Wait;
    /// [`Session::resize`](crate::Session::resize)
    SessionResize = "session.resize", Change;
    /// [`Session::stream`](crate::Session::stream)
    SessionStream = "session.stream", Query;
    /// [`Session::text`](crate::Session::text)
    SessionText = "session.text", Query;
    /// [`Session::screen`](crate::Session::screen)
    SessionScreen = "session.screen", Query;
    /// [`Session::ended`](crate::Session::ended)
    SessionEnded = "session.ended", Wait;
    /// [`Session::close`](crate::Session::close)
    SessionClose = "session.close", Change;
}

impl Operation {
    /// Whether doing it twice is the same as doing it once, whatever the answer to the first was.
    ///
    /// Not so: whatever starts a process, uses up a stream, or would answer `NotFound` or `AlreadyExists` the
    /// second time. `spawn` is judged by [`CommandSpec::idempotent`](crate::CommandSpec::idempotent) instead.
    pub fn is_repeatable(self) -> bool {
        match self.class() {
            OperationClass::Query | OperationClass::Read => true,
            OperationClass::MachineChange => !matches!(self, Self::MachineCreate | Self::MachineAct),
            OperationClass::Change => {
                matches!(self, Self::DirCreate | Self::FileOwner | Self::SessionResize | Self::SessionClose)
            }
            OperationClass::Start => self == Self::Reattach,
            OperationClass::Write | OperationClass::Wait => false,
        }
    }

    /// Whether the audit log gets an entry. Of a session, opening does: what is typed into it comes from
    /// whoever is attached, and only the frontend knows who that is.
    pub fn is_audited(self) -> bool {
        match self.class() {
            OperationClass::MachineChange | OperationClass::Start | OperationClass::Write => true,
            OperationClass::Change => {
                matches!(self, Self::DirCreate | Self::FileOwner | Self::FileRename | Self::FileRemove)
            }
            OperationClass::Query | OperationClass::Read | OperationClass::Wait => false,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an operation is done to. Formatted only when somebody wants to know.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject<'a> {
    /// The host of an executor.
    Host,
    Provider(&'a str),
    Machine(&'a str, &'a MachineId),
    NewMachine(&'a str, &'a str),
    Command(CommandId),
    Session(&'a SessionId),
    Path(&'a str),
    Address(&'a HostPort),
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => Ok(()),
            Self::Provider(scheme) => f.write_str(scheme),
            Self::Machine(scheme, id) => write!(f, "{scheme}/{id}"),
            Self::NewMachine(scheme, name) => write!(f, "{scheme}/{}", name.escape_debug()),
            Self::Command(id) => id.fmt(f),
            Self::Session(id) => id.fmt(f),
            Self::Path(path) => path.escape_debug().fmt(f),
            Self::Address(to) => to.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut names: Vec<_> = Operation::ALL.iter().map(|o| o.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Operation::ALL.len());
        assert!(names.iter().all(|n| n.split('.').count() == 2), "{names:?}");
    }

    #[test]
    fn nothing_that_starts_a_process_or_uses_up_a_stream_is_repeatable() {
        for op in [
            Operation::Spawn,
            Operation::SessionOpen,
            Operation::TunnelOpen,
            Operation::FileWrite,
            Operation::TarWrite,
        ] {
            assert!(!op.is_repeatable() && op.is_audited(), "{op}");
        }
    }
}
