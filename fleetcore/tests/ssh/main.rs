//! What only SSH has: host keys, keys, connections that break or are shared, ways over other hosts. Against a real sshd.
//!
//! Where there is none, every test says so and passes; `FLEETCORE_NEED_SSHD=1` makes that a failure.

#![expect(clippy::unwrap_used, reason = "tests")]

mod break_off;
mod keys;
mod share;

use std::{path::Path, sync::Arc};

use fleetcore::{
    Fleet, Machine, Provider as _,
    backends::ssh::{Ssh, SshConfig, SshHost},
};
use fleetcore_testkit::sshd::{self, Sshd};

/// An sshd, or a loud word and `None`.
fn sshd(settings: &str) -> Option<Sshd> {
    if let Some(why) = sshd::missing() {
        assert!(std::env::var_os("FLEETCORE_NEED_SSHD").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
        return None;
    }
    Some(Sshd::start(settings).unwrap())
}

/// A host as it should be: known, with a good key and no other way in.
fn host(sshd: &Sshd) -> SshHost {
    SshHost::new("127.0.0.1")
        .with_port(sshd.port())
        .with_user(sshd.user())
        .with_known_hosts(sshd.known_hosts())
        .with_identity_file(sshd.key())
        .with_agent(false, None)
}

fn fleet(config: &SshConfig) -> Fleet {
    Fleet::builder().with_provider(Arc::new(Ssh::new(config).unwrap())).build()
}

/// The one host `box`.
fn machine(host: SshHost) -> Machine {
    fleet(&SshConfig::default().with_host("box", host)).machine("ssh/box").unwrap()
}

fn key(path: &Path, passphrase: &str) {
    sshd::make_key(path, "ed25519", passphrase).unwrap();
}

#[tokio::test]
async fn the_list_shows_hosts_without_connecting() {
    // Nobody listens there, and nobody is asked.
    let config = SshConfig::default().with_host("far", SshHost::new("192.0.2.1"));
    let ssh = Ssh::new(&config).unwrap();
    let cx = fleetcore::OpContext::default();
    let list = ssh.list(&cx, fleetcore::MachineFilter::default()).await.unwrap();
    assert_eq!((list.len(), list[0].state), (1, fleetcore::MachineState::Unknown));
    assert_eq!(list[0].addresses[0].to_string(), "192.0.2.1");
    let unknown = ssh.info(&cx, &fleetcore::MachineId::new("none").unwrap()).await.unwrap_err();
    assert_eq!(unknown.kind(), fleetcore::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_host_that_is_not_there_is_unavailable() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let box_ = machine(SshHost::new("127.0.0.1").with_port(free).with_user("nobody"));
    let error = box_.ping(&fleetcore::OpContext::default()).await.unwrap_err();
    assert_eq!(error.kind(), fleetcore::ErrorKind::Unavailable, "{error:?}");
    assert!(error.to_string().contains("ssh/box"), "{error}");
}
