//! Where to work: settings from flags, environment and files, in this order.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use etcetera::BaseStrategy as _;
use fleetcore::{Error, ErrorKind, Result};
use fleetcore_http::{
    ServerConfig,
    client::{Client, Credentials},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::{
    cli::{Global, Output},
    local_server, parse,
    ssh::SshSettings,
};

/// The configuration file. Nothing in it is secret but passphrases of SSH keys: tokens are in `credentials.toml` beside it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    server: Option<String>,
    output: Option<Output>,
    cacert: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    /// Of `fleetcore serve`.
    serve: ServerConfig,
    /// Of `fleetcore serve`.
    store: Keep,
    ssh: SshSettings,
}

/// How much `fleetcore serve` keeps, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Keep {
    #[serde(deserialize_with = "duration")]
    pub(crate) retention: Option<Duration>,
    pub(crate) max_log_bytes: Option<u64>,
    pub(crate) max_total_log_bytes: Option<u64>,
    #[serde(deserialize_with = "duration")]
    pub(crate) audit_retention: Option<Duration>,
    pub(crate) max_audit_entries: Option<u64>,
}

/// As flags have it: `30d`.
fn duration<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    parse::duration(&text).map(Some).map_err(|e| {
        serde::de::Error::custom(e.context_value("rule").map_or_else(|| e.to_string(), str::to_owned))
    })
}

/// Tokens by server, and the server of the last login. Mode 0600.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Saved {
    /// The server to use when nothing else names one.
    pub(crate) server: Option<String>,
    /// Tokens by address.
    pub(crate) servers: BTreeMap<String, SavedToken>,
}

/// A token that `login` made.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedToken {
    pub(crate) user: String,
    pub(crate) token_id: String,
    #[serde(serialize_with = "expose")]
    pub(crate) token: SecretString,
}

fn expose<S: serde::Serializer>(secret: &SecretString, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(secret.expose_secret())
}

/// Where the verbs work.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In this process, with records in the data directory when nobody else has it.
    Here,
    /// On a server.
    Server(Client),
}

/// All settings, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) output: Output,
    pub(crate) quiet: bool,
    pub(crate) verbose: u8,
    pub(crate) data_dir: PathBuf,
    pub(crate) serve: ServerConfig,
    pub(crate) keep: Keep,
    pub(crate) ssh: SshSettings,
    config_dir: PathBuf,
    server: Option<String>,
    local: bool,
    cacert: Option<PathBuf>,
}

/// A variable that is set and not empty.
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

impl Settings {
    /// Reads environment and files.
    ///
    /// # Errors
    /// `InvalidInput` for a file that is not understood, `NotFound` for one that was named but is missing.
    pub(crate) fn load(global: &Global) -> Result<Self> {
        let dirs = etcetera::choose_base_strategy().map_err(|e| {
            Error::new(ErrorKind::InvalidInput, "there is no home directory")
                .with_context("hint", "set HOME, or give --data-dir and --config")
                .with_source(e)
        });
        let named = global.config.clone().or_else(|| env("FLEETCORE_CONFIG").map(PathBuf::from));
        let config_dir = match &named {
            Some(file) => file.parent().unwrap_or(Path::new(".")).to_owned(),
            None => dirs.as_ref().map(|d| d.config_dir().join("fleetcore")).unwrap_or_default(),
        };
        let path = named.clone().unwrap_or_else(|| config_dir.join("config.toml"));
        let file: File = read_toml(&path, named.is_some())?;
        if file.ssh.has_secrets() {
            refuse_if_shared(&path)?;
        }

        let output = match env("FLEETCORE_OUTPUT") {
            _ if global.output.is_some() => global.output,
            Some(text) => Some(<Output as clap::ValueEnum>::from_str(&text, false).map_err(|_| {
                Error::invalid("FLEETCORE_OUTPUT", "table, json or plain")
                    .with_context("value", text.escape_debug())
            })?),
            None => file.output,
        };
        let data_dir = global
            .data_dir
            .clone()
            .or_else(|| env("FLEETCORE_DATA_DIR").map(PathBuf::from))
            .or(file.data_dir);
        let data_dir = match data_dir {
            Some(dir) => dir,
            None => dirs?.data_dir().join("fleetcore"),
        };
        Ok(Self {
            output: output.unwrap_or_default(),
            quiet: global.quiet,
            verbose: global.verbose,
            data_dir,
            serve: file.serve,
            keep: file.store,
            ssh: file.ssh,
            config_dir,
            server: global.server.clone().or_else(|| env("FLEETCORE_SERVER")).or(file.server),
            local: global.local,
            cacert: global
                .cacert
                .clone()
                .or_else(|| env("FLEETCORE_CACERT").map(PathBuf::from))
                .or(file.cacert),
        })
    }

    /// Where to work: `--local`; the server that is named; that of the last login; the one this user runs here; here.
    ///
    /// # Errors
    /// `InvalidInput` for a bad address or certificate; those of reading files.
    pub(crate) fn place(&self) -> Result<Place> {
        if self.local {
            return Ok(Place::Here);
        }
        let saved = self.saved()?;
        if let Some(url) = self.server.clone().or_else(|| saved.server.clone()) {
            return self.client(&url, &saved).map(Place::Server);
        }
        match local_server::find(&self.data_dir) {
            Some(found) => {
                let mut client = Client::builder(found.url).with_credentials(Credentials::Token(found.token));
                for pem in found.certificate.into_iter().chain(self.certificates()?) {
                    client = client.with_root_certificates(pem);
                }
                client.build().map(Place::Server)
            }
            None => Ok(Place::Here),
        }
    }

    /// A server, or `InvalidInput` that says how to name one.
    ///
    /// # Errors
    /// As [`Settings::place`].
    pub(crate) fn need_server(&self) -> Result<Client> {
        match self.place()? {
            Place::Server(client) => Ok(client),
            Place::Here => Err(Error::new(ErrorKind::InvalidInput, "this needs a server")
                .with_context("field", "server")
                .with_context("hint", "start one with `fleetcore serve`, or name one with --server")),
        }
    }

    /// A client of the server at `url`, with the token kept for it.
    ///
    /// # Errors
    /// `InvalidInput` for a bad address or certificate.
    pub(crate) fn client(&self, url: &str, saved: &Saved) -> Result<Client> {
        let mut builder = Client::builder(url);
        if let Some(pem) = self.certificates()? {
            builder = builder.with_root_certificates(pem);
        }
        let client = builder.build()?;
        let token = env("FLEETCORE_TOKEN").map(SecretString::from).or_else(|| {
            saved.servers.get(client.base_url()).map(|s| s.token.clone()).or_else(|| {
                local_server::find(&self.data_dir)
                    .filter(|found| found.url.trim_end_matches('/') == client.base_url())
                    .map(|found| found.token)
            })
        });
        Ok(match token {
            Some(token) => client.with_credentials(Credentials::Token(token)),
            None => client,
        })
    }

    /// The server an agent belongs to: flag, environment or file. A login is a person's and says nothing about agents.
    ///
    /// # Errors
    /// `InvalidInput` when nothing names one.
    pub(crate) fn agent_server(&self) -> Result<String> {
        self.server.clone().ok_or_else(|| Error::invalid("server", "named: --server or FLEETCORE_SERVER"))
    }

    /// The address named by flag, environment, file or the last login.
    pub(crate) fn server_name(&self) -> Result<Option<String>> {
        Ok(self.server.clone().or(self.saved()?.server))
    }

    pub(crate) fn certificates(&self) -> Result<Option<Vec<u8>>> {
        let Some(path) = &self.cacert else { return Ok(None) };
        fs::read(path)
            .map(Some)
            .map_err(|e| Error::io("read certificates", e).with_context("path", path.display()))
    }

    fn credentials_path(&self) -> PathBuf {
        self.config_dir.join("credentials.toml")
    }

    /// Tokens kept by `login`.
    ///
    /// # Errors
    /// `InvalidInput` when the file is not understood; `PermissionDenied` when others can read it.
    pub(crate) fn saved(&self) -> Result<Saved> {
        let path = self.credentials_path();
        refuse_if_shared(&path)?;
        read_toml(&path, false)
    }

    /// Keeps tokens; the file is replaced in one step, mode 0600.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn save(&self, saved: &Saved) -> Result<()> {
        let text = toml::to_string(saved)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "credentials cannot be written").with_source(e))?;
        write_private(&self.credentials_path(), text.as_bytes())
    }
}

fn read_toml<T: serde::de::DeserializeOwned + Default>(path: &Path, must_exist: bool) -> Result<T> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !must_exist => return Ok(T::default()),
        Err(e) => return Err(Error::io("read settings", e).with_context("path", path.display())),
    };
    toml::from_str(&text).map_err(|e| {
        // The message of the parser names key and rule; its picture of the line could show a secret.
        Error::new(ErrorKind::InvalidInput, "the file is not understood")
            .with_operation("read settings")
            .with_context("path", path.display())
            .with_context("rule", e.message())
    })
}

#[cfg(unix)]
fn refuse_if_shared(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let Ok(meta) = fs::metadata(path) else { return Ok(()) };
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::PermissionDenied, "the file holds secrets but others can read it")
        .with_context("path", path.display())
        .with_context("mode", format!("{mode:04o}"))
        .with_context("hint", "chmod 600 it, and think about who has read it"))
}

#[cfg(not(unix))]
fn refuse_if_shared(_path: &Path) -> Result<()> {
    Ok(())
}

/// Writes a file only its owner can read, in one step.
pub(crate) fn write_private(path: &Path, data: &[u8]) -> Result<()> {
    let failed = |e| Error::io("write a private file", e).with_context("path", path.display());
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(failed)?;
    // Temporary files are made with mode 0600, and renaming keeps it.
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    file.write_all(data).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_settings_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "sever = \"http://x\"\n").unwrap();
        let err = read_toml::<File>(&path, true).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput);
        assert!(err.context_value("rule").unwrap().contains("sever"), "{err}");
        assert!(read_toml::<File>(&dir.path().join("none"), false).is_ok());
        assert_eq!(
            read_toml::<File>(&dir.path().join("none"), true).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn the_file_can_set_everything_of_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            read_toml::<File>(&path, true)
        };
        let file = read(
            "server = \"http://other:7070\"\n\
             [serve]\nlisten = \"127.0.0.1:7171\"\nlogin_ttl_s = 60\n\
             [serve.limits]\ncommands_per_actor = 3\n\
             [store]\nretention = \"30d\"\nmax_audit_entries = 10\n",
        )
        .unwrap();
        assert_eq!(file.serve.listen.port(), 7171);
        assert_eq!(file.serve.limits.commands_per_actor, 3);
        assert_eq!(file.serve.limits.connections, ServerConfig::default().limits.connections);
        assert_eq!(file.store.retention, Some(Duration::from_secs(30 * 24 * 3600)));
        assert_eq!(file.store.max_audit_entries, Some(10));
        for (text, word) in [
            ("[serve]\nlimit = 1\n", "limit"),
            ("[serve.limits]\ncommands = 1\n", "commands"),
            ("[store]\nretention = \"soon\"\n", "duration"),
            ("[store]\nmax_logs = 1\n", "max_logs"),
        ] {
            let err = read(text).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidInput);
            assert!(err.context_value("rule").unwrap().contains(word), "{text}: {err}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn secrets_are_written_private_and_refused_when_shared() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/credentials.toml");
        write_private(&path, b"servers = {}\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        refuse_if_shared(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(refuse_if_shared(&path).unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
}
