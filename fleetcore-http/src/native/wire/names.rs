//! Enums of the core as the API document shows them. Nothing makes values of these types.

use utoipa::ToSchema;

macro_rules! names {
    ($(#[$meta:meta])* $type:ident as $schema:ident { $($variant:ident),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        #[schema(as = $schema)]
        #[expect(missing_docs, reason = "the core documents the variants of the same names")]
        pub enum $type { $($variant),* }
    };
}

names!(
    /// State of a command.
    StateName as CommandState { Queued, Running, Succeeded, Failed, Cancelled, Lost }
);
names!(
    /// Why fleetcore ended a command.
    EndReasonName as EndReason { TimedOut, Requested, OwnerDropped, Shutdown, LeaseExpired }
);
names!(
    /// A POSIX signal.
    SignalName as Signal { Hangup, Interrupt, Quit, Terminate, Kill, Stop, Continue, User1, User2 }
);
names!(
    /// Where output came from.
    ChannelName as Channel { Stdout, Stderr, Pty, Log }
);
names!(
    /// What happens when the replay window is full and a stream is behind.
    OverflowName as Overflow { DropOldest, Block }
);
names!(
    /// State of a machine.
    MachineStateName as MachineState { Pending, Running, Stopping, Stopped, Suspended, Deleted, Failed, Unknown }
);
names!(
    /// Kind of a directory entry.
    FileKindName as FileKind { File, Dir, Symlink, Other }
);
names!(
    /// What a user may do.
    RoleName as Role { Viewer, Operator, Admin }
);
names!(
    /// One power of a token.
    ScopeName as Scope { Read, Run, Files, Machines, Tunnels, Admin }
);
names!(
    /// How to stop a machine.
    StopModeName as StopMode { Graceful, Force, Suspend }
);
names!(
    /// What an action is done to.
    ActionScopeName as ActionScope { Provider, Machine, Either }
);
names!(
    /// Type of an argument.
    ArgumentKindName as ArgumentKind { Text, Integer, Flag, List }
);
