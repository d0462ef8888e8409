//! Machines that need nothing but Linux: `sandbox/NAME` has its own files, processes, host name and, unless asked
//! otherwise, no network.
//!
//! A sandbox is a directory and a set of namespaces. Bubblewrap makes the namespaces; commands are born into them, so
//! they see one another, as on any machine, and nothing of the host but its programs, read-only. What is written
//! outside `/home/sandbox`, `/tmp` and `/var/tmp` is refused.
//!
//! # What it protects from, and what not
//! Programs run without any capability, cannot gain one, and see neither processes, users' files, sockets under `/run`
//! nor hardware of the host. Where the server runs as root, they run as a user that owns nothing. The kernel is shared:
//! whoever breaks it is out. The disk is shared too: nothing limits what a sandbox writes. With `network` on, a sandbox reaches what the host reaches, services on loopback included.

mod config;
mod etc;
mod executor;
mod holder;
mod limits;
mod parent;
mod provider;
mod state;

pub use config::SandboxConfig;
pub use provider::Sandboxes;
