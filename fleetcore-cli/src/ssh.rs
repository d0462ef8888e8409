//! Hosts over SSH: those of the configuration file, and those of OpenSSH's own.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use fleetcore::{
    FleetBuilder, Result,
    backends::ssh::{Ssh, SshConfig, SshHost},
};
use serde::Deserialize;

/// `[ssh]` of the configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SshSettings {
    /// Whether the hosts of `~/.ssh/config` are targets too.
    openssh: bool,
    /// Another file of that kind.
    openssh_config: Option<PathBuf>,
    hosts: BTreeMap<String, SshHost>,
}

impl Default for SshSettings {
    fn default() -> Self {
        Self { openssh: true, openssh_config: None, hosts: BTreeMap::new() }
    }
}

impl SshSettings {
    /// Whether the file must be its owner's alone.
    pub(crate) fn has_secrets(&self) -> bool {
        self.hosts.values().any(|h| h.passphrase.is_some())
    }

    /// Adds the hosts, if there are any. `warn` hears what OpenSSH would do and we do not.
    ///
    /// # Errors
    /// `InvalidInput` for a host of our own file that cannot be. OpenSSH's file only gives a warning: it is not ours.
    pub(crate) fn add_to(&self, fleet: FleetBuilder, mut warn: impl FnMut(&str)) -> Result<FleetBuilder> {
        let mut config = SshConfig::default();
        config.hosts.clone_from(&self.hosts);
        config.check()?;
        let usual = || std::env::home_dir().map(|home| home.join(".ssh/config"));
        if let Some(path) = self.openssh_config.clone().or_else(|| usual().filter(|_| self.openssh)) {
            let own = config.clone();
            match config.read_openssh(&path).and_then(|said| config.check().map(|()| said)) {
                Ok(said) => said.iter().for_each(|line| warn(line)),
                Err(e) => {
                    warn(&format!("{} is not read: {e}", path.display()));
                    config = own;
                }
            }
        }
        let ssh = Ssh::new(&config)?;
        Ok(if ssh.is_empty() { fleet } else { fleet.with_provider(Arc::new(ssh)) })
    }
}
