//! How commands find the server the same user runs on this host.
//!
//! `serve` writes two files into its data directory and removes them when it stops: `server.json` with address and
//! process id, and `local-token` (mode 0600) with an API token made for this start alone. Whoever can read the token
//! can read the whole data directory anyway. `--local` opts out.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fleetcore::{Error, ErrorKind, IdentityStore, Result, TokenId, TokenKind, TokenRecord};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::write_private;

/// Name of the token in lists.
const TOKEN_NAME: &str = "local commands";
/// A listening socket of this host answers at once; a full backlog must not stop us.
const PROBE_LIMIT: Duration = Duration::from_millis(500);

#[derive(Deserialize, Serialize)]
struct Announcement {
    url: String,
    address: SocketAddr,
    pid: u32,
    /// Id of the token in `local-token`, so that the next server can remove it after a crash.
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    certificate: Option<PathBuf>,
}

/// A server that was found.
pub(crate) struct Found {
    pub(crate) url: String,
    pub(crate) token: SecretString,
    pub(crate) certificate: Option<Vec<u8>>,
}

fn announcement_path(data_dir: &Path) -> PathBuf {
    data_dir.join("server.json")
}

fn token_path(data_dir: &Path) -> PathBuf {
    data_dir.join("local-token")
}

fn read_announcement(data_dir: &Path) -> Option<Announcement> {
    serde_json::from_slice(&fs::read(announcement_path(data_dir)).ok()?).ok()
}

/// Whether this process exists and is ours. Where there is no /proc nobody can tell, so it is believed.
fn is_our_process(pid: u32) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    if !Path::new("/proc/self").exists() {
        return true;
    }
    fs::metadata(format!("/proc/{pid}")).is_ok_and(|m| m.uid() == rustix::process::geteuid().as_raw())
}

/// The server over this data directory, if it runs as this user, listens, and its token is readable.
pub(crate) fn find(data_dir: &Path) -> Option<Found> {
    let announced = read_announcement(data_dir)?;
    let token = fs::read_to_string(token_path(data_dir)).ok()?;
    // The files of a server that was killed are still there, and by now its port may be somebody else's, who must not
    // get the token: only a process of ours that listens counts.
    if !is_our_process(announced.pid) {
        return None;
    }
    TcpStream::connect_timeout(&announced.address, PROBE_LIMIT).ok()?;
    let certificate = announced.certificate.and_then(|path| fs::read(path).ok());
    Some(Found { url: announced.url, token: SecretString::from(token.trim().to_owned()), certificate })
}

/// The announcement of a running server; [`Announced::withdraw`] takes it back.
pub(crate) struct Announced {
    data_dir: PathBuf,
    token: TokenId,
}

/// Makes the token and writes both files.
///
/// # Errors
/// `NotFound` when there is no enabled admin to own the token; those of the store and the file system.
pub(crate) async fn announce(
    data_dir: &Path,
    url: &str,
    address: SocketAddr,
    certificate: Option<&Path>,
    store: &dyn IdentityStore,
) -> Result<Announced> {
    let users = store.users().await?;
    let owner = users.iter().filter(|u| !u.disabled).max_by_key(|u| u.role).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "no enabled user can own the token of local commands")
    })?;
    // Left over from a server that was killed. By id: people may call their tokens what they like.
    if let Some(old) = read_announcement(data_dir).and_then(|a| a.token?.parse().ok()) {
        match store.remove_token(old).await {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    let secret = SecretString::from(format!("fct_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())));
    let hash: [u8; 32] = Sha256::digest(secret.expose_secret().as_bytes()).into();
    let scopes = owner.role.scopes();
    let record =
        TokenRecord::new(TokenKind::Api, TOKEN_NAME, owner.name.clone(), hash, scopes, Timestamp::now());
    let token = record.id;
    store.insert_token(record).await?;

    // An address that means "all" is none to connect to.
    let mut reachable = address;
    if address.ip().is_unspecified() {
        let loopback = match address {
            SocketAddr::V4(_) => std::net::IpAddr::from(std::net::Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => std::net::IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
        };
        reachable.set_ip(loopback);
    }
    let url = url.replace(&address.to_string(), &reachable.to_string());
    let announcement = Announcement {
        url,
        address: reachable,
        pid: std::process::id(),
        token: Some(token.to_string()),
        certificate: certificate.and_then(|p| fs::canonicalize(p).ok()),
    };
    let json = serde_json::to_vec(&announcement)
        .map_err(|e| Error::new(ErrorKind::Unexpected, "the address cannot be written").with_source(e))?;
    write_private(&token_path(data_dir), secret.expose_secret().as_bytes())?;
    write_private(&announcement_path(data_dir), &json)?;
    Ok(Announced { data_dir: data_dir.to_owned(), token })
}

impl Announced {
    /// Removes the files and the token.
    pub(crate) async fn withdraw(self, store: &dyn IdentityStore) {
        for path in [announcement_path(&self.data_dir), token_path(&self.data_dir)] {
            if let Err(error) = fs::remove_file(&path) {
                tracing::debug!(%error, path = %path.display(), "not removed");
            }
        }
        if let Err(error) = store.remove_token(self.token).await {
            tracing::debug!(%error, "the token of local commands was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_of_a_process_that_is_gone_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        fs::write(token_path(dir.path()), "fct_x").unwrap();
        let mut announced = Announcement {
            url: format!("http://{address}"),
            address,
            pid: std::process::id(),
            token: None,
            certificate: None,
        };
        let write = |a: &Announcement| {
            fs::write(announcement_path(dir.path()), serde_json::to_vec(a).unwrap()).unwrap();
        };
        write(&announced);
        assert!(find(dir.path()).is_some());
        if Path::new("/proc/self").exists() {
            // Larger than any process id the kernel gives.
            announced.pid = u32::MAX;
            write(&announced);
            assert!(find(dir.path()).is_none(), "somebody else listens there now");
        }
    }
}
