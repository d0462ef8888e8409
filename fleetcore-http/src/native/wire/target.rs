use std::{collections::BTreeMap, net::IpAddr};

use fleetcore::{
    ExecCapabilities, FileInfo as CoreFileInfo, FileKind, HostSample, MachineInfo, MachineState,
    Target as CoreTarget, TargetInfo, backends::local::host::HostInfo,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{FileKindName, MachineStateName};

/// Something commands can run on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Target {
    /// Its name everywhere.
    #[schema(value_type = String, example = "local")]
    pub target: CoreTarget,
    /// Its provider.
    pub provider: String,
    /// Its state.
    #[schema(value_type = MachineStateName)]
    pub state: MachineState,
    /// The provider's own word for the state.
    pub native_state: String,
    /// Known addresses.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// What works on it; null when it cannot be reached now.
    pub capabilities: Option<Capabilities>,
    /// What it is, where known.
    pub host: Option<Host>,
    /// How busy it is, where known.
    pub load: Option<Load>,
}

impl From<TargetInfo> for Target {
    fn from(t: TargetInfo) -> Self {
        let MachineInfo { state, native_state, addresses, labels, created_at, .. } = t.info;
        Self {
            target: t.target,
            provider: t.provider,
            state,
            native_state,
            addresses,
            labels,
            created_at,
            capabilities: t.capabilities.map(Capabilities::from),
            host: None,
            load: None,
        }
    }
}

/// What works on a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capabilities {
    /// Programs can run on a terminal.
    pub pty: bool,
    /// Programs can be given input.
    pub stdin: bool,
    /// Standard output and standard error arrive apart.
    pub split_output: bool,
    /// Signals can be sent.
    pub signals: bool,
    /// Programs can run as another user.
    pub run_as_user: bool,
    /// Files are the backend's own.
    pub native_files: bool,
    /// Sessions are the backend's own.
    pub native_sessions: bool,
    /// Commands outlive the server.
    pub reattach: bool,
    /// Connections to addresses it can reach can be opened.
    pub connect: bool,
    /// Named operations.
    pub actions: Vec<String>,
}

impl From<ExecCapabilities> for Capabilities {
    fn from(c: ExecCapabilities) -> Self {
        Self {
            pty: c.pty,
            stdin: c.stdin,
            split_output: c.split_output,
            signals: c.signals,
            run_as_user: c.run_as_user,
            native_files: c.native_files,
            native_sessions: c.native_sessions,
            reattach: c.reattach,
            connect: c.connect,
            actions: c.actions,
        }
    }
}

/// What a host is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// Its name.
    pub hostname: String,
    /// Operating system.
    pub os: String,
    /// Kernel version.
    pub kernel: String,
    /// Processor architecture.
    pub arch: String,
    /// Logical processors.
    pub cpus: usize,
    /// Memory.
    pub memory_bytes: u64,
    /// Time since it started.
    pub uptime_s: u64,
}

impl From<HostInfo> for Host {
    fn from(i: HostInfo) -> Self {
        Self {
            hostname: i.hostname,
            os: i.os,
            kernel: i.kernel,
            arch: i.arch,
            cpus: i.cpus,
            memory_bytes: i.memory_bytes,
            uptime_s: i.uptime_s,
        }
    }
}

/// How busy a host is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Load {
    /// When this was measured.
    pub at: Timestamp,
    /// Share of all processors in use, 0 to 100.
    pub cpu_percent: f64,
    /// Memory in use.
    pub memory_used_bytes: u64,
    /// Memory there is.
    pub memory_total_bytes: u64,
    /// Swap in use.
    pub swap_used_bytes: u64,
    /// Swap there is.
    pub swap_total_bytes: u64,
    /// Load average over one minute.
    pub load1: f64,
    /// Over five.
    pub load5: f64,
    /// Over fifteen.
    pub load15: f64,
    /// Disk space in use, all disks.
    pub disk_used_bytes: u64,
    /// Disk space there is.
    pub disk_total_bytes: u64,
    /// Bytes received per second, all interfaces.
    pub net_rx_bytes_per_s: u64,
    /// Bytes sent per second.
    pub net_tx_bytes_per_s: u64,
    /// Seconds since the host was started.
    pub uptime_s: u64,
}

impl From<HostSample> for Load {
    fn from(s: HostSample) -> Self {
        Self {
            at: s.at,
            cpu_percent: f64::from(s.cpu_percent),
            memory_used_bytes: s.memory_used_bytes,
            memory_total_bytes: s.memory_total_bytes,
            swap_used_bytes: s.swap_used_bytes,
            swap_total_bytes: s.swap_total_bytes,
            load1: s.load1,
            load5: s.load5,
            load15: s.load15,
            disk_used_bytes: s.disk_used_bytes,
            disk_total_bytes: s.disk_total_bytes,
            net_rx_bytes_per_s: s.net_rx_bytes_per_s,
            net_tx_bytes_per_s: s.net_tx_bytes_per_s,
            uptime_s: s.uptime_s,
        }
    }
}

/// The load of a target: `event: load`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LoadEvent {
    /// Which target.
    #[schema(value_type = String, example = "local")]
    pub target: CoreTarget,
    /// How busy it is.
    pub load: Load,
}

/// A target has answered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pong {
    /// Always true; a target that does not answer is an error.
    pub ok: bool,
    /// How long it took.
    pub latency_ms: f64,
}

/// One file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileInfo {
    /// Its path; in a listing, its name.
    pub path: String,
    /// What it is.
    #[schema(value_type = FileKindName)]
    pub kind: FileKind,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits, octal.
    #[schema(example = "0644")]
    pub mode: Option<String>,
    /// Last change of the contents.
    pub modified_at: Option<Timestamp>,
}

impl From<CoreFileInfo> for FileInfo {
    fn from(f: CoreFileInfo) -> Self {
        Self {
            path: f.path,
            kind: f.kind,
            size: f.size,
            mode: f.mode.map(|m| format!("{:04o}", m & 0o7777)),
            modified_at: f.modified_at,
        }
    }
}

/// A directory to make.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeDir {
    /// Its path; missing directories above it are made too.
    #[schema(min_length = 1)]
    pub path: String,
}

/// A rename.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// The path now.
    #[schema(min_length = 1)]
    pub from: String,
    /// The new path; an existing file there is replaced.
    #[schema(min_length = 1)]
    pub to: String,
}

/// Files were changed through this server: `event: files`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FilesChanged {
    /// Of this target.
    pub target: String,
    /// What was written, made, renamed, removed or unpacked into, as the request named it.
    pub paths: Vec<String>,
}

/// How much an upload of a tar stream unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unpacked {
    /// Number of entries.
    pub entries: u64,
}
