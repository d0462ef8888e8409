//! Who the host is, and who we are.

use std::process::{Child, Command, Stdio};

use fleetcore::{
    CommandSpec, Error, ErrorKind, OpContext,
    backends::ssh::{HostKeyPolicy, SshHost},
};

use crate::{host, key, machine, sshd};

async fn refused(host: SshHost) -> Error {
    let error = machine(host).ping(&OpContext::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    error
}

async fn accepted(host: SshHost) {
    let out = machine(host).spawn(CommandSpec::argv(["echo", "in"])).await.unwrap().output().await.unwrap();
    assert_eq!(out.text(), "in\n");
}

#[tokio::test]
async fn an_unknown_host_key_is_refused_with_its_fingerprint_and_what_to_do() {
    let Some(sshd) = sshd("") else { return };
    let empty = sshd.dir().join("empty");
    std::fs::write(&empty, "").unwrap();
    let mut unknown = host(&sshd);
    unknown.known_hosts = vec![empty.clone()];
    let error = refused(unknown.clone()).await;
    let said = Command::new("ssh-keygen").arg("-lf").arg(sshd.dir().join("host_key.pub")).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let fingerprint = said.split(' ').nth(1).unwrap();
    assert_eq!(error.context_value("fingerprint"), Some(fingerprint));
    let hint = error.context_value("hint").unwrap();
    assert!(hint.contains("ssh-keygen") && hint.contains(&empty.display().to_string()), "{hint}");
    assert_eq!(std::fs::read_to_string(&empty).unwrap(), "", "nothing is accepted silently");

    // Asked to, it is trusted, written down, and binds from then on.
    accepted(unknown.clone().with_host_key_policy(HostKeyPolicy::AcceptNew)).await;
    let learnt = std::fs::read_to_string(&empty).unwrap();
    assert!(learnt.starts_with(&format!("[127.0.0.1]:{} ssh-ed25519 ", sshd.port())), "{learnt}");
    accepted(unknown).await;
}

#[tokio::test]
async fn a_wrong_host_key_is_refused_whatever_the_policy() {
    let Some(sshd) = sshd("") else { return };
    let other = sshd.dir().join("other");
    key(&other, "");
    let public = std::fs::read_to_string(other.with_extension("pub")).unwrap();
    let wrong = sshd.dir().join("wrong");
    std::fs::write(&wrong, format!("# x\n[127.0.0.1]:{} {public}", sshd.port())).unwrap();
    let mut host = host(&sshd).with_host_key_policy(HostKeyPolicy::AcceptNew);
    host.known_hosts = vec![wrong.clone()];
    let error = refused(host).await;
    assert!(error.context_value("hint").unwrap().contains(&format!("{}:2", wrong.display())), "{error}");
}

#[tokio::test]
async fn a_key_that_the_host_does_not_know_is_refused() {
    let Some(sshd) = sshd("") else { return };
    let stranger = sshd.dir().join("stranger");
    key(&stranger, "");
    let mut host = host(&sshd);
    host.identity_files = vec![stranger.clone()];
    let error = refused(host.clone()).await;
    let tried = error.context_value("tried").unwrap();
    assert!(tried.contains("stranger: not accepted"), "{tried}");
    // The next one may be good.
    accepted(host.with_identity_file(sshd.key())).await;
}

#[tokio::test]
async fn an_encrypted_key_needs_its_passphrase() {
    let Some(sshd) = sshd("") else { return };
    let locked = sshd.dir().join("locked");
    key(&locked, "geheim");
    sshd.accept(&locked.with_extension("pub")).unwrap();
    let mut host = host(&sshd);
    host.identity_files = vec![locked];
    let error = refused(host.clone()).await;
    assert!(error.to_string().contains("no passphrase"), "{error}");
    let error = refused(host.clone().with_passphrase("falsch")).await;
    assert!(
        error.to_string().contains("passphrase is wrong") && !error.to_string().contains("falsch"),
        "{error}"
    );
    accepted(host.with_passphrase("geheim")).await;
}

#[tokio::test]
async fn a_key_that_others_can_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(sshd) = sshd("") else { return };
    std::fs::set_permissions(sshd.key(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = refused(host(&sshd)).await;
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn an_agent_is_asked() {
    let Some(sshd) = sshd("") else { return };
    let socket = sshd.dir().join("agent");
    let child = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn();
    let Ok(child) = child else {
        eprintln!("SKIPPED: there is no ssh-agent");
        return;
    };
    let _agent = Agent(child);
    let mut host = host(&sshd).with_agent(true, Some(socket.clone()));
    host.identity_files = vec![sshd.dir().join("none")];
    // Refused until it has the key. Adding it waits until the agent listens.
    loop {
        let added =
            Command::new("ssh-add").arg("-q").arg(sshd.key()).env("SSH_AUTH_SOCK", &socket).output().unwrap();
        if added.status.success() {
            break;
        }
        tokio::task::yield_now().await;
    }
    accepted(host.clone()).await;
    let rsa = sshd.dir().join("rsa");
    fleetcore_testkit::sshd::make_key(&rsa, "rsa", "").unwrap();
    sshd.accept(&rsa.with_extension("pub")).unwrap();
    host.identity_files = vec![rsa];
    accepted(host.with_agent(false, None)).await;
}
