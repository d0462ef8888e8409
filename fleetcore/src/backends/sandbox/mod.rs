//! Machines that need nothing but Linux: `sandbox/NAME` has its own files, processes, host name and, unless asked
//! otherwise, no network.
//!
//! A sandbox is a directory and a set of namespaces. Bubblewrap makes the namespaces; commands are born into them, so
//! they see one another, as on any machine, and nothing of the host but its programs, read-only. What is written
//! outside `/home/sandbox`, `/tmp` and `/var/tmp` is refused.
//!
//! # What it protects from, and what not
//! Programs run without any capability, cannot gain one, and see neither processes, users' files, sockets under `/run`
//! nor hardware of the host. The kernel is shared: whoever breaks it is out. With `network` on, a sandbox reaches what
//! the host reaches, services on loopback included. A server that runs as root hides from its sandboxes what only root
//! may read of `/etc`; better run it as an ordinary user.

mod config;
mod etc;
mod holder;
mod limits;
mod provider;
mod state;

pub use config::SandboxConfig;
pub use provider::Sandboxes;
