//! Proving who we are: private key files and the SSH agent.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use russh::{
    MethodKind,
    client::{AuthResult, Handle},
    keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, agent::client::AgentClient},
};
use secrecy::{ExposeSecret as _, SecretString};

use super::{config::SshHost, connect::Client, error};
use crate::{Error, ErrorKind, Result};

/// Keys that OpenSSH makes by default, best first.
const DEFAULT_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];
/// Private keys are a few kilobytes.
const KEY_MAX_BYTES: u64 = 256 << 10;

/// Replaces a leading `~/` by the home of this process.
pub(super) fn expand(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// The user to log in as.
///
/// # Errors
/// `InvalidInput` when neither settings nor system name one.
pub(super) fn user(host: &SshHost) -> Result<String> {
    let named = |name| std::env::var(name).ok().filter(|n: &String| !n.is_empty());
    host.user.clone().or_else(|| named("USER")).or_else(|| named("LOGNAME")).or_else(account).ok_or_else(
        || {
            Error::invalid("user", "set, as this process runs without a USER variable")
                .with_operation("connect")
        },
    )
}

/// The name of our user id.
fn account() -> Option<String> {
    let id = rustix::process::geteuid().as_raw().to_string();
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    })
}

/// Reads a key. Also what OpenSSH insists on: that nobody else can.
fn read_key(path: &Path, passphrase: Option<&SecretString>) -> std::result::Result<PrivateKey, String> {
    use std::os::unix::fs::PermissionsExt as _;
    let meta = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if meta.permissions().mode() & 0o077 != 0 {
        return Err("others can read it; chmod 600 it".into());
    }
    if meta.len() > KEY_MAX_BYTES {
        return Err("too large for a key".into());
    }
    let text = SecretString::from(std::fs::read_to_string(path).map_err(|e| e.to_string())?);
    let passphrase = passphrase.map(|p| p.expose_secret());
    match russh::keys::decode_secret_key(text.expose_secret(), passphrase) {
        Ok(key) if key.is_encrypted() => Err("encrypted, and there is no passphrase".into()),
        Ok(key) => Ok(key),
        Err(russh::keys::Error::KeyIsEncrypted) => Err("encrypted, and there is no passphrase".into()),
        Err(_) if passphrase.is_some() => Err("not a key, or the passphrase is wrong".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// What was tried and why it did not do, for the one error at the end. Names only, never keys.
#[derive(Default)]
struct Tried(Vec<String>);

impl Tried {
    fn note(&mut self, what: impl std::fmt::Display, why: impl std::fmt::Display) {
        self.0.push(format!("{what}: {why}"));
    }
}

enum Step {
    Done,
    /// Worth trying the next key.
    On,
    Stop,
}

fn judge(result: AuthResult, what: &str, tried: &mut Tried) -> Step {
    match result {
        AuthResult::Success => Step::Done,
        AuthResult::Failure { partial_success: true, remaining_methods } => {
            let methods: Vec<String> = remaining_methods.iter().map(|m| <&str>::from(m).to_owned()).collect();
            tried.note(what, format!("good, but the host also wants {}", methods.join(",")));
            Step::Stop
        }
        AuthResult::Failure { remaining_methods, .. } => {
            tried.note(what, "not accepted");
            if remaining_methods.contains(&MethodKind::PublicKey) { Step::On } else { Step::Stop }
        }
    }
}

/// Logs in.
///
/// # Errors
/// `PermissionDenied` with all that was tried.
pub(super) async fn log_in(session: &mut Handle<Client>, host: &SshHost, user: &str) -> Result<()> {
    let mut tried = Tried::default();
    let given = !host.identity_files.is_empty();
    let mut files: Vec<PathBuf> = host.identity_files.iter().map(|p| expand(p)).collect();
    if given && with_files(session, host, user, &files, &mut tried).await? {
        return Ok(());
    }
    if host.agent && with_agent(session, host, user, &mut tried).await? {
        return Ok(());
    }
    if !given && let Some(home) = std::env::home_dir() {
        files = DEFAULT_KEYS
            .map(|name| home.join(".ssh").join(name))
            .into_iter()
            .filter(|p| p.exists())
            .collect();
        if with_files(session, host, user, &files, &mut tried).await? {
            return Ok(());
        }
    }
    if tried.0.is_empty() {
        tried.note("nothing", "there is no key file and no agent");
    }
    Err(Error::new(ErrorKind::PermissionDenied, "the host accepted none of our keys")
        .with_operation("log in")
        .with_context("user", user)
        .with_context("tried", tried.0.join("; ")))
}

/// RSA keys sign with one of several hashes, of which the host says which it takes.
async fn hash_for(session: &Handle<Client>, algorithm: &Algorithm) -> Result<Option<HashAlg>> {
    if !matches!(algorithm, Algorithm::Rsa { .. }) {
        return Ok(None);
    }
    let best = session.best_supported_rsa_hash().await.map_err(|e| error::ssh("log in", e))?;
    // SHA-1 is not offered, whatever the host would take.
    Ok(best.flatten().or(Some(HashAlg::Sha512)))
}

fn gone(session: &Handle<Client>, tried: &mut Tried) -> bool {
    if session.is_closed() {
        tried.note("host", "hung up; it may allow fewer attempts than there are keys");
    }
    session.is_closed()
}

async fn with_files(
    session: &mut Handle<Client>,
    host: &SshHost,
    user: &str,
    files: &[PathBuf],
    tried: &mut Tried,
) -> Result<bool> {
    for path in files {
        if gone(session, tried) {
            return Ok(false);
        }
        let (at, passphrase) = (path.clone(), host.passphrase.clone());
        // Deriving a key from a passphrase takes a tenth of a second on purpose.
        let read = tokio::task::spawn_blocking(move || read_key(&at, passphrase.as_ref())).await;
        let key = match read.unwrap_or_else(|e| Err(e.to_string())) {
            Ok(key) => key,
            Err(why) => {
                tried.note(path.display(), why);
                continue;
            }
        };
        let hash = hash_for(session, &key.algorithm()).await?;
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        let result = session.authenticate_publickey(user, key).await.map_err(|e| error::ssh("log in", e))?;
        match judge(result, &path.display().to_string(), tried) {
            Step::Done => return Ok(true),
            Step::On => {}
            Step::Stop => return Ok(false),
        }
    }
    Ok(false)
}

async fn with_agent(
    session: &mut Handle<Client>,
    host: &SshHost,
    user: &str,
    tried: &mut Tried,
) -> Result<bool> {
    let socket = host
        .agent_socket
        .as_deref()
        .map(expand)
        .or_else(|| std::env::var_os("SSH_AUTH_SOCK").map(Into::into));
    let Some(socket) = socket.filter(|s| !s.as_os_str().is_empty()) else { return Ok(false) };
    let mut agent = match AgentClient::connect_uds(&socket).await {
        Ok(agent) => agent,
        Err(e) => {
            tried.note(format!("agent at {}", socket.display()), e);
            return Ok(false);
        }
    };
    // Keys that are bound to destinations show only after this; agents that do not know it refuse, which is fine.
    if let Some(binding) = session.agent_session_binding().cloned() {
        let _ = agent.bind_session(&binding, false).await;
    }
    let keys = match agent.request_identities().await {
        Ok(keys) => keys,
        Err(e) => {
            tried.note(format!("agent at {}", socket.display()), e);
            return Ok(false);
        }
    };
    for identity in keys {
        if gone(session, tried) {
            return Ok(false);
        }
        let key = identity.public_key().into_owned();
        let what = format!("agent key {}", key.fingerprint(HashAlg::Sha256));
        let hash = hash_for(session, &key.algorithm()).await?;
        match session.authenticate_publickey_with(user, key, hash, &mut agent).await {
            Ok(result) => match judge(result, &what, tried) {
                Step::Done => return Ok(true),
                Step::On => {}
                Step::Stop => return Ok(false),
            },
            Err(e) => tried.note(what, e),
        }
    }
    Ok(false)
}
