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

#[cfg(test)]
mod tests {
    use fleetcore::{ErrorKind, Fleet};

    use super::*;

    async fn targets(settings: &SshSettings) -> (Vec<String>, Vec<String>) {
        let mut said = Vec::new();
        let fleet = settings.add_to(Fleet::builder(), |line| said.push(line.to_owned())).unwrap().build();
        let machine = |name: &str| fleet.machine(name).unwrap();
        let mut found = Vec::new();
        for name in ["ssh/a", "ssh/b", "ssh/c"] {
            if machine(name).info(&fleetcore::OpContext::default()).await.is_ok() {
                found.push(name.to_owned());
            }
        }
        (found, said)
    }

    #[tokio::test]
    async fn hosts_come_from_our_file_and_from_that_of_openssh() {
        let dir = tempfile::tempdir().unwrap();
        let openssh = dir.path().join("config");
        std::fs::write(&openssh, "Host b\n  ProxyCommand nc\nHost *\n  User u\n").unwrap();
        let text = format!("openssh_config = {openssh:?}\n[hosts.a]\naddress = \"10.0.0.1\"\n");
        let settings: SshSettings = toml::from_str(&text).unwrap();
        let (found, said) = targets(&settings).await;
        assert_eq!(found, ["ssh/a", "ssh/b"]);
        assert!(said.iter().any(|s| s.contains("proxycommand")), "{said:?}");
        // A file that is not ours must not keep our own hosts from us.
        std::fs::write(&openssh, "Host c\n  Port many\n").unwrap();
        let (found, said) = targets(&settings).await;
        assert_eq!((found, said.len()), (vec!["ssh/a".to_owned()], 1));
    }

    #[test]
    fn our_own_mistakes_are_told() {
        assert!(toml::from_str::<SshSettings>("[hosts.a]\nprt = 1\n").is_err());
        let settings: SshSettings = toml::from_str("openssh = false\n[hosts.a]\njump = \"b\"\n").unwrap();
        let error = settings.add_to(Fleet::builder(), |_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let secret: SshSettings = toml::from_str("[hosts.a]\npassphrase = \"x\"\n").unwrap();
        assert!(secret.has_secrets() && !settings.has_secrets());
    }
}
