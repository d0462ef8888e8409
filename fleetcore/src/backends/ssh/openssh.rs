//! Hosts of an OpenSSH client's settings, ssh_config(5).

use std::{
    collections::HashMap,
    io::BufReader,
    path::{Path, PathBuf},
};

use ssh2_config::{DefaultAlgorithms, HostParams, ParseRule, SshConfig as Parsed};

use super::config::{HostKeyPolicy, SshConfig, SshHost};
use crate::{Error, ErrorKind, MachineId, Result};

/// Options that change where a connection ends or who vouches for it, and that we cannot honour.
const REFUSED: [&str; 4] = ["proxycommand", "knownhostscommand", "revokedhostkeys", "pkcs11provider"];
/// Options that are worth a word when they are left out.
const MISSED: [&str; 6] =
    ["localforward", "dynamicforward", "sendenv", "setenv", "requesttty", "hostbasedauthentication"];

impl SshConfig {
    /// Adds the hosts of an OpenSSH client's settings: every name of a `Host` line that has no wildcards, is a valid
    /// machine name, and is not in the list already. A missing file adds none. Gives what a person should know about
    /// options that were left out.
    ///
    /// Honoured are `HostName`, `Port`, `User`, `IdentityFile`, `IdentityAgent`, `IdentitiesOnly`, `ProxyJump`,
    /// `ConnectTimeout`, `ServerAliveInterval`, `UserKnownHostsFile`, `StrictHostKeyChecking` (`accept-new`; what would
    /// accept any key counts as `yes`), `HostKeyAlias`, `Include`, and `Host` patterns for all of these. Hosts with
    /// `ProxyCommand`, `KnownHostsCommand`, `RevokedHostKeys` or `PKCS11Provider` are listed, but refuse to connect.
    /// `Match` blocks are left out.
    ///
    /// # Errors
    /// `InvalidInput` for a file that is not understood.
    pub fn read_openssh(&mut self, path: impl AsRef<Path>) -> Result<Vec<String>> {
        let path = path.as_ref();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("read OpenSSH settings", e).with_context("path", path.display())),
        };
        let mut said = Vec::new();
        let (text, left_out) = without_match(&text);
        if left_out {
            said.push(format!("{}: Match blocks are not read", path.display()));
        }
        let mut parser = Parsed::default().default_algorithms(DefaultAlgorithms::empty());
        if let Some(home) = std::env::home_dir() {
            parser = parser.home_dir(home);
        }
        let rules = ParseRule::ALLOW_UNKNOWN_FIELDS | ParseRule::ALLOW_UNSUPPORTED_FIELDS;
        let parsed = parser.parse(&mut BufReader::new(text.as_bytes()), rules).map_err(|e| {
            Error::new(ErrorKind::InvalidInput, "the file is not understood")
                .with_operation("read OpenSSH settings")
                .with_context("path", path.display())
                .with_context("rule", e)
        })?;
        let names = parsed.get_hosts().iter().flat_map(|h| &h.pattern).filter(|c| !c.negated);
        let names: Vec<String> = names.map(|c| c.pattern.clone()).collect();
        for name in names {
            if name.contains(['*', '?']) || self.hosts.contains_key(&name) || MachineId::new(&name).is_err() {
                continue;
            }
            let host = self.read_host(&parsed, &name, &mut said);
            match host.check(&name) {
                Ok(()) => drop(self.hosts.insert(name, host)),
                // Somebody else's file must not keep our own hosts from being reached.
                Err(e) => said.push(format!("{name} is left out: {}", e.message())),
            }
        }
        Ok(said)
    }

    fn read_host(&mut self, parsed: &Parsed, name: &str, said: &mut Vec<String>) -> SshHost {
        let params = parsed.query(name);
        let mut host = translate(name, &params, said);
        let jumps: Vec<String> = params.proxy_jump.unwrap_or_default();
        if let Some(last) = jumps.last().filter(|j| !j.eq_ignore_ascii_case("none")) {
            let key = format!("jump {}", jumps.join(","));
            if last.as_str() == name {
                host.unsupported = Some("ProxyJump to itself".to_owned());
            } else {
                self.add_jump(parsed, &key, &jumps, said);
                host.jump = Some(key);
            }
        }
        host
    }

    /// The way over `jumps`, the nearest to us first, under the name `key`.
    fn add_jump(&mut self, parsed: &Parsed, key: &str, jumps: &[String], said: &mut Vec<String>) {
        if self.hosts.contains_key(key) {
            return;
        }
        let Some((last, before)) = jumps.split_last() else { return };
        let last = last.strip_prefix("ssh://").unwrap_or(last);
        let (user, rest) = last.rsplit_once('@').map_or((None, last), |(u, r)| (Some(u), r));
        let (name, port) = match rest.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, port.parse().ok()),
            _ => (rest, None),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let mut host = translate(name, &parsed.query(name), said);
        host.hidden = true;
        host.address = host.address.or_else(|| Some(name.to_owned()));
        host.user = user.map(str::to_owned).or(host.user);
        host.port = port.unwrap_or(host.port);
        if !before.is_empty() {
            let further = format!("jump {}", before.join(","));
            self.add_jump(parsed, &further, before, said);
            host.jump = Some(further);
        }
        self.hosts.insert(key.to_owned(), host);
    }
}

fn translate(name: &str, params: &HostParams, said: &mut Vec<String>) -> SshHost {
    let mut host = SshHost {
        // `%h` is the one token that is common here.
        address: params.host_name.as_ref().map(|h| h.replace("%h", name)),
        user: params.user.clone(),
        identity_files: params.identity_file.clone().unwrap_or_default(),
        ..SshHost::default()
    };
    host.port = params.port.unwrap_or(host.port);
    host.connect_timeout = params.connect_timeout.filter(|t| !t.is_zero()).unwrap_or(host.connect_timeout);
    host.keep_alive = params.server_alive_interval.unwrap_or(host.keep_alive);
    let other = Other(&params.unsupported_fields);
    if other.first("identitiesonly").is_some_and(|v| v.eq_ignore_ascii_case("yes")) {
        host.agent = false;
    }
    match other.first("identityagent") {
        Some(v) if v.eq_ignore_ascii_case("none") => host.agent = false,
        Some("SSH_AUTH_SOCK") | None => {}
        Some(path) => host.agent_socket = Some(PathBuf::from(path)),
    }
    if let Some(files) = params.unsupported_fields.get("userknownhostsfile") {
        host.known_hosts = files.iter().flat_map(|f| f.split_ascii_whitespace()).map(PathBuf::from).collect();
    }
    match other.first("stricthostkeychecking").map(str::to_ascii_lowercase).as_deref() {
        Some("accept-new") => host.host_key_policy = HostKeyPolicy::AcceptNew,
        Some("no" | "off") => {
            said.push(format!(
                "{name}: StrictHostKeyChecking is off there; here unknown host keys are still refused"
            ));
        }
        _ => {}
    }
    host.host_key_alias = other.first("hostkeyalias").map(str::to_owned);
    for option in REFUSED {
        if other.first(option).is_some_and(|v| !v.eq_ignore_ascii_case("none")) {
            said.push(format!("{name}: {option} is not supported, connecting will be refused"));
            host.unsupported = Some(option.to_owned());
        }
    }
    if params.ignored_fields.keys().any(|k| k.eq_ignore_ascii_case("match")) {
        host.unsupported = Some("Match in an included file".to_owned());
    }
    let missed: Vec<&str> = MISSED.into_iter().filter(|o| other.first(o).is_some()).collect();
    if !missed.is_empty() {
        said.push(format!("{name}: left out: {}", missed.join(", ")));
    }
    host
}

/// Options the parser only keeps as words.
struct Other<'a>(&'a HashMap<String, Vec<String>>);

impl<'a> Other<'a> {
    fn first(&self, option: &str) -> Option<&'a str> {
        self.0.get(option)?.first().map(String::as_str)
    }
}

/// The settings without `Match` blocks, which the parser takes for a part of the `Host` block before them. `Match all`
/// is `Host *`. Whether anything was left out.
fn without_match(text: &str) -> (String, bool) {
    let (mut kept, mut skipping, mut left_out) = (String::with_capacity(text.len()), false, false);
    for line in text.lines() {
        let mut words = line.split(|c: char| c.is_whitespace() || c == '=').filter(|w| !w.is_empty());
        match words.next().map(str::to_ascii_lowercase).as_deref() {
            Some("match") => {
                skipping =
                    !(words.next().is_some_and(|w| w.eq_ignore_ascii_case("all")) && words.next().is_none());
                left_out |= skipping;
                kept.push_str(if skipping { "" } else { "Host *\n" });
                continue;
            }
            Some("host") => skipping = false,
            _ => {}
        }
        if !skipping {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    (kept, left_out)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(text: &str) -> (SshConfig, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, text).unwrap();
        let mut config = SshConfig::default().with_host("mine", SshHost::new("10.9.9.9"));
        let said = config.read_openssh(&path).unwrap();
        config.check().unwrap();
        (config, said)
    }

    #[test]
    fn named_hosts_are_taken_with_what_their_patterns_say() {
        let (config, said) = read(
            "Host web db !no\n  HostName %h.example.org\n  Port 2222\n\
             Host web\n  User root\n  IdentityFile /k/web\n  UserKnownHostsFile /k/hosts\n\
             Host mine\n  HostName stolen\n\
             Host bad/name x*\n  User y\n\
             Match user nobody\n  ProxyCommand evil\n\
             Host *\n  User me\n  ConnectTimeout 7\n  ServerAliveInterval 9\n  StrictHostKeyChecking accept-new\n",
        );
        assert_eq!(config.hosts.keys().collect::<Vec<_>>(), ["db", "mine", "web"]);
        let (web, db) = (&config.hosts["web"], &config.hosts["db"]);
        assert_eq!((web.address.as_deref(), web.port), (Some("web.example.org"), 2222));
        assert_eq!((web.user.as_deref(), db.user.as_deref()), (Some("root"), Some("me")));
        assert_eq!(web.identity_files, [PathBuf::from("/k/web")]);
        assert_eq!(web.known_hosts, [PathBuf::from("/k/hosts")]);
        assert_eq!((db.connect_timeout, db.keep_alive), (Duration::from_secs(7), Duration::from_secs(9)));
        assert_eq!(db.host_key_policy, HostKeyPolicy::AcceptNew);
        assert_eq!(config.hosts["mine"].address.as_deref(), Some("10.9.9.9"), "our own settings win");
        assert!(said.iter().any(|s| s.contains("Match")), "{said:?}");
        assert!(web.unsupported.is_none());
    }

    #[test]
    fn a_way_over_other_hosts_is_kept_but_not_listed() {
        let (config, _) =
            read("Host gate\n  HostName 10.0.0.1\n  User g\nHost inner\n  ProxyJump gate,u@10.0.0.2:2200\n");
        let last = &config.hosts[config.hosts["inner"].jump.as_ref().unwrap()];
        assert_eq!(
            (last.address.as_deref(), last.user.as_deref(), last.port),
            (Some("10.0.0.2"), Some("u"), 2200)
        );
        let first = &config.hosts[last.jump.as_ref().unwrap()];
        assert_eq!((first.address.as_deref(), first.user.as_deref()), (Some("10.0.0.1"), Some("g")));
        assert!(first.hidden && last.hidden && !config.hosts["gate"].hidden);
        assert_eq!(super::super::Ssh::new(&config).unwrap().len(), 3, "gate, inner, mine");
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_or_said() {
        let (config, said) = read(
            "Host a\n  ProxyCommand nc %h %p\nHost b\n  StrictHostKeyChecking no\n  LocalForward 1 h:1\n\
             Host c\n  IdentityAgent none\nHost d\n  IdentityAgent /run/agent\n",
        );
        assert_eq!(config.hosts["a"].unsupported.as_deref(), Some("proxycommand"));
        assert_eq!(config.hosts["b"].host_key_policy, HostKeyPolicy::Strict);
        assert!(!config.hosts["c"].agent);
        assert_eq!(config.hosts["d"].agent_socket, Some(PathBuf::from("/run/agent")));
        for word in ["a: proxycommand", "b: StrictHostKeyChecking", "localforward"] {
            assert!(said.iter().any(|s| s.contains(word)), "{word}: {said:?}");
        }
    }
}
