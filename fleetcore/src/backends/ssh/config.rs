//! Which hosts there are and how to reach them.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use secrecy::SecretString;
use serde::{Deserialize, Deserializer};

use crate::{Error, Labels, MachineId, Result};

/// Most hosts in a row that lead to one.
const MAX_JUMPS: usize = 8;

/// What to do about a host whose key is in no `known_hosts` file. A key that differs from the known one is always
/// refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HostKeyPolicy {
    /// Refuse it and say its fingerprint.
    #[default]
    Strict,
    /// Trust it and write it down in the first file of [`SshHost::known_hosts`].
    AcceptNew,
}

/// One host.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SshHost {
    /// Name or address to connect to. Default: the name in the list.
    pub address: Option<String>,
    /// Default 22.
    pub port: u16,
    /// Default: the user of this process.
    pub user: Option<String>,
    /// Private keys to try, in this order and before those of the agent; `~/` is the home of this process.
    /// Default: `id_ed25519`, `id_ecdsa` and `id_rsa` in `~/.ssh`, as far as they exist, after the agent's.
    pub identity_files: Vec<PathBuf>,
    /// For keys that are encrypted.
    pub passphrase: Option<SecretString>,
    /// Whether to ask an SSH agent. Default true.
    pub agent: bool,
    /// Socket of the agent. Default: `$SSH_AUTH_SOCK`.
    pub agent_socket: Option<PathBuf>,
    /// Another host of the list through which this one is reached.
    pub jump: Option<String>,
    /// Files with host keys. Default: `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`.
    pub known_hosts: Vec<PathBuf>,
    /// What is done about unknown keys.
    pub host_key_policy: HostKeyPolicy,
    /// The name to look for in `known_hosts`, where it is not the address.
    pub host_key_alias: Option<String>,
    /// In seconds in files: how long connecting and authenticating may take. Default 15 s.
    #[serde(rename = "connect_timeout_s", deserialize_with = "seconds")]
    pub connect_timeout: Duration,
    /// In seconds in files: the host is asked whether it is there when nothing was heard for this long, and given up
    /// after three questions without an answer. Zero turns it off. Default 15 s.
    #[serde(rename = "keep_alive_s", deserialize_with = "seconds")]
    pub keep_alive: Duration,
    /// In seconds in files: a connection that nothing uses is closed after this. Default 5 minutes.
    #[serde(rename = "idle_timeout_s", deserialize_with = "seconds")]
    pub idle_timeout: Duration,
    /// Commands on one connection; further ones open another connection. Default 8: sshd allows 10 sessions
    /// (`MaxSessions`), one is for control and one for files.
    pub max_channels: usize,
    /// Connections to this host at once. When all are full, commands are refused as `RateLimited`. Default 64.
    pub max_connections: usize,
    /// Labels shown with the machine.
    pub labels: Labels,
    /// Not a machine itself, only on the way to one.
    #[serde(skip)]
    pub(super) hidden: bool,
    /// An option of OpenSSH that cannot be honoured and without which connecting would be wrong.
    #[serde(skip)]
    pub(super) unsupported: Option<String>,
}

fn seconds<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Duration, D::Error> {
    u32::deserialize(from).map(|s| Duration::from_secs(s.into()))
}

impl Default for SshHost {
    fn default() -> Self {
        Self {
            address: None,
            port: 22,
            user: None,
            identity_files: Vec::new(),
            passphrase: None,
            agent: true,
            agent_socket: None,
            jump: None,
            known_hosts: Vec::new(),
            host_key_policy: HostKeyPolicy::default(),
            host_key_alias: None,
            connect_timeout: Duration::from_secs(15),
            keep_alive: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(300),
            max_channels: 8,
            max_connections: 64,
            labels: Labels::new(),
            hidden: false,
            unsupported: None,
        }
    }
}

impl SshHost {
    /// A host at this address.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: Some(address.into()), ..Self::default() }
    }

    /// Sets the port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets the user.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Adds a private key to try.
    #[must_use]
    pub fn with_identity_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.identity_files.push(path.into());
        self
    }

    /// Sets the passphrase of encrypted keys.
    #[must_use]
    pub fn with_passphrase(mut self, passphrase: impl Into<SecretString>) -> Self {
        self.passphrase = Some(passphrase.into());
        self
    }

    /// Sets whether, and where, an agent is asked.
    #[must_use]
    pub fn with_agent(mut self, ask: bool, socket: Option<PathBuf>) -> Self {
        self.agent = ask;
        self.agent_socket = socket;
        self
    }

    /// Sets the host through which this one is reached.
    #[must_use]
    pub fn with_jump(mut self, name: impl Into<String>) -> Self {
        self.jump = Some(name.into());
        self
    }

    /// Adds a file with host keys.
    #[must_use]
    pub fn with_known_hosts(mut self, path: impl Into<PathBuf>) -> Self {
        self.known_hosts.push(path.into());
        self
    }

    /// Sets what is done about unknown host keys.
    #[must_use]
    pub fn with_host_key_policy(mut self, policy: HostKeyPolicy) -> Self {
        self.host_key_policy = policy;
        self
    }

    /// Sets how long connecting may take.
    #[must_use]
    pub fn with_connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Sets when an unused connection is closed.
    #[must_use]
    pub fn with_idle_timeout(mut self, limit: Duration) -> Self {
        self.idle_timeout = limit;
        self
    }

    /// Sets how many commands share a connection, and how many connections there may be.
    #[must_use]
    pub fn with_limits(mut self, max_channels: usize, max_connections: usize) -> Self {
        self.max_channels = max_channels;
        self.max_connections = max_connections;
        self
    }

    pub(super) fn check(&self, name: &str) -> Result<()> {
        let word = |field, text: &str| {
            let plain = !text.is_empty() && !text.starts_with('-') && text.len() <= 255;
            if plain && !text.chars().any(|c| c.is_whitespace() || c.is_control() || "/\\'\"`$,;".contains(c))
            {
                return Ok(());
            }
            let rule = "1 to 255 characters without blanks and quotes that do not start with -";
            Err(Error::invalid(field, rule).with_context("value", text.escape_debug()))
        };
        let check = || {
            word("address", self.address.as_deref().unwrap_or(name))?;
            self.user.iter().try_for_each(|u| word("user", u))?;
            self.host_key_alias.iter().try_for_each(|a| word("host_key_alias", a))?;
            for (field, n) in [
                ("port", usize::from(self.port)),
                ("max_channels", self.max_channels),
                ("max_connections", self.max_connections),
            ] {
                if n == 0 {
                    return Err(Error::invalid(field, "at least 1"));
                }
            }
            if self.connect_timeout.is_zero() {
                return Err(Error::invalid("connect_timeout_s", "longer than zero"));
            }
            Ok(())
        };
        check().map_err(|e| e.with_context("host", name.escape_debug()))
    }
}

/// The hosts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SshConfig {
    /// By name, which is the name in targets: `ssh/NAME`.
    pub hosts: BTreeMap<String, SshHost>,
}

impl SshConfig {
    /// Adds a host, replacing an earlier one of that name.
    #[must_use]
    pub fn with_host(mut self, name: impl Into<String>, host: SshHost) -> Self {
        self.hosts.insert(name.into(), host);
        self
    }

    /// Checks names, addresses and that every way over other hosts leads somewhere.
    ///
    /// # Errors
    /// `InvalidInput`, naming host, field and rule.
    pub fn check(&self) -> Result<()> {
        for (name, host) in &self.hosts {
            if !host.hidden {
                MachineId::new(name)?;
            }
            host.check(name)?;
            let (mut at, mut hops) = (host, 0);
            while let Some(next) = &at.jump {
                let bad =
                    |rule| Error::invalid("jump", rule).with_context("host", name).with_context("jump", next);
                at = self.hosts.get(next).ok_or_else(|| bad("the name of another host"))?;
                hops += 1;
                if hops > MAX_JUMPS {
                    return Err(bad("a way of at most 8 hosts that does not lead back"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_hosts_are_refused_by_name_and_field() {
        let cases = [
            ("-rf", SshHost::default(), "machine"),
            ("../x", SshHost::default(), "machine"),
            ("a", SshHost::new("-oProxyCommand=x"), "address"),
            ("a", SshHost::new("a b"), "address"),
            ("a", SshHost::new("h").with_user("x y"), "user"),
            ("a", SshHost::new("h").with_port(0), "port"),
            ("a", SshHost::new("h").with_jump("nobody"), "jump"),
            ("a", SshHost::new("h").with_jump("a"), "jump"),
            ("a", SshHost::new("h").with_limits(0, 1), "max_channels"),
        ];
        for (name, host, field) in cases {
            let err = SshConfig::default().with_host(name, host).check().unwrap_err();
            assert_eq!(err.context_value("field"), Some(field), "{err}");
        }
        let good = SshConfig::default()
            .with_host("gate", SshHost::new("::1"))
            .with_host("inner", SshHost::new("10.0.0.1").with_jump("gate"));
        good.check().unwrap();
    }

    #[test]
    fn settings_are_read_and_typing_errors_named() {
        let json =
            r#"{"hosts": {"a": {"port": 2222, "connect_timeout_s": 3, "host_key_policy": "accept_new"}}}"#;
        let config: SshConfig = serde_json::from_str(json).unwrap();
        let a = &config.hosts["a"];
        assert_eq!((a.port, a.connect_timeout.as_secs()), (2222, 3));
        assert_eq!(a.host_key_policy, HostKeyPolicy::AcceptNew);
        let err = serde_json::from_str::<SshConfig>(r#"{"hosts": {"a": {"prt": 1}}}"#).unwrap_err();
        assert!(err.to_string().contains("prt"), "{err}");
    }
}
