//! Who this host is as an agent: kept in its directory, mode 0600, once it has joined.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use fleetcore::{AgentId, Error, ErrorKind, LOCAL, Labels, Result};
use fleetcore_http::client::Client;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::config::{Settings, write_private};

/// Name of the file.
const FILE: &str = "agent.json";

/// What an agent has to remember.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    /// Address of its server.
    pub(super) server: String,
    /// Its name there.
    pub(super) id: AgentId,
    /// Its token.
    #[serde(serialize_with = "expose")]
    pub(super) token: SecretString,
    /// Labels the server gave it.
    #[serde(default)]
    pub(super) labels: Labels,
}

fn expose<S: serde::Serializer>(secret: &SecretString, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(secret.expose_secret())
}

/// Where the identity of an agent over `dir` is.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// The identity kept in `dir`, if there is one.
///
/// # Errors
/// `InvalidInput` for a file that is not understood; those of the file system.
pub(super) fn load(dir: &Path) -> Result<Option<Identity>> {
    let path = path(dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read the agent's identity", e).with_context("path", path.display())),
    };
    // The text of the parser could show a part of the token.
    let identity: Identity = serde_json::from_slice(&bytes).map_err(|_| {
        Error::new(ErrorKind::InvalidInput, "the agent's identity is not understood")
            .with_context("path", path.display())
            .with_context("hint", "remove the file and join again")
    })?;
    // Left by one that ended while it joined.
    Ok(Some(identity).filter(|i| !i.token.expose_secret().is_empty()))
}

/// Joins with a code unless this host has joined that server before, and keeps what comes of it.
///
/// # Errors
/// Those of [`Client::join`] and of the file system; `InvalidInput` when the host's own name can be no agent's and none
/// is given.
pub(super) async fn join(
    settings: &Settings,
    dir: &Path,
    code: &SecretString,
    id: Option<&AgentId>,
) -> Result<Identity> {
    let server = settings.agent_server()?;
    if let Some(known) = load(dir)? {
        if same_server(&known.server, &server) {
            tracing::info!(
                agent = %known.id, file = %path(dir).display(),
                "this host has joined before; remove the file to join anew"
            );
            return Ok(known);
        }
        return Err(Error::new(ErrorKind::AlreadyExists, "this host is an agent of another server")
            .with_context("server", known.server)
            .with_context("path", path(dir).display())
            .with_context("hint", "choose another directory with --agent-dir, or remove the file"));
    }
    let id = match id {
        Some(id) => id.clone(),
        None => own_name(&rustix::system::uname().nodename().to_string_lossy())?,
    };
    // Before the code is used up: what cannot be kept is lost.
    let kept = Identity { server, id, token: SecretString::default(), labels: Labels::new() };
    store(dir, &kept)?;
    let joined = async {
        let mut client = Client::builder(&kept.server);
        if let Some(pem) = settings.certificates()? {
            client = client.with_root_certificates(pem);
        }
        client.build()?.join(code, &kept.id).await
    };
    match joined.await {
        Ok(joined) => {
            let identity = Identity { id: joined.id, token: joined.token, labels: joined.labels, ..kept };
            store(dir, &identity)?;
            Ok(identity)
        }
        Err(e) => {
            // Nothing is in it yet.
            let _ = fs::remove_file(path(dir));
            let hint = match e.kind() {
                ErrorKind::Unauthenticated => Some("make a new one with `fleetcore agents join-code`"),
                ErrorKind::AlreadyExists => {
                    Some("choose another name with --id, or remove that agent with `fleetcore agents rm`")
                }
                _ => None,
            };
            Err(hint.into_iter().fold(e, |e, hint| e.with_context("hint", hint)))
        }
    }
}

fn store(dir: &Path, identity: &Identity) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if !dir.is_dir() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| Error::io("make the agent's directory", e).with_context("path", dir.display()))?;
    }
    let json = serde_json::to_vec_pretty(identity)
        .map_err(|e| Error::new(ErrorKind::Unexpected, "the identity cannot be written").with_source(e))?;
    write_private(&path(dir), &json)
}

fn same_server(a: &str, b: &str) -> bool {
    a.trim_end_matches('/').eq_ignore_ascii_case(b.trim_end_matches('/'))
}

/// The name of a host as that of an agent: the first part of it, with `-` for what no name may have.
fn own_name(host: &str) -> Result<AgentId> {
    let first = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let name: String =
        first.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
    let name = name.trim_matches(['-', '_']);
    match AgentId::new(name) {
        Ok(id) if ![LOCAL, "localhost"].contains(&name) => Ok(id),
        _ => {
            Err(Error::invalid("id", "given with --id, because the name of this host tells it from no other")
                .with_context("hostname", host.escape_debug()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_host_becomes_that_of_an_agent() {
        for (host, name) in
            [("Office-1.example.org", "office-1"), ("my_box", "my_box"), ("Jo's Mac", "jo-s-mac")]
        {
            assert_eq!(own_name(host).unwrap().as_str(), name);
        }
        for bad in ["", "localhost", "localhost.localdomain", "local", "...", "-"] {
            assert_eq!(own_name(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn the_identity_is_kept_private_and_shows_no_secret() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("agent");
        assert!(load(&dir).unwrap().is_none());
        let identity = Identity {
            server: "http://h:1".into(),
            id: AgentId::new("a").unwrap(),
            token: "fca_geheim".to_owned().into(),
            labels: Labels::from([("role".into(), "web".into())]),
        };
        store(&dir, &identity).unwrap();
        for (path, mode) in [(dir.clone(), 0o700), (path(&dir), 0o600)] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
        let read = load(&dir).unwrap().unwrap();
        assert_eq!((read.id.as_str(), read.token.expose_secret()), ("a", "fca_geheim"));
        assert!(!format!("{read:?}").contains("geheim"));
        fs::write(path(&dir), r#"{"token":"fca_geheim"#).unwrap();
        let refused = load(&dir).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(!format!("{refused:?}").contains("geheim"));
    }

    #[test]
    fn one_server_may_be_written_in_two_ways() {
        assert!(same_server("https://Fleet.example/", "https://fleet.example"));
        assert!(!same_server("https://fleet.example", "http://fleet.example"));
    }
}
