//! Checking host keys against files in the format of sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac as _};
use russh::keys::{Algorithm, HashAlg, PublicKey};
use sha1::Sha1;

use super::config::HostKeyPolicy;
use crate::{Error, ErrorKind, Result};

/// Where to look for one host, and what then.
#[derive(Clone, Debug)]
pub(super) struct KnownHosts {
    files: Vec<PathBuf>,
    /// As it stands in the files: `host`, or `[host]:port` when that is not 22.
    name: String,
    policy: HostKeyPolicy,
}

/// One line that is about the host.
struct Known {
    key: PublicKey,
    revoked: bool,
    at: String,
}

impl KnownHosts {
    pub(super) fn new(files: Vec<PathBuf>, host: &str, port: u16, policy: HostKeyPolicy) -> Self {
        let name = if port == 22 { host.to_lowercase() } else { format!("[{}]:{port}", host.to_lowercase()) };
        Self { files, name, policy }
    }

    /// Reads files; for the blocking pool.
    fn known(&self) -> Result<Vec<Known>> {
        let mut known = Vec::new();
        for path in &self.files {
            let text = match std::fs::read(path) {
                Ok(text) => text,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io("read known_hosts", e).with_context("path", path.display())),
            };
            for (n, line) in String::from_utf8_lossy(&text).lines().enumerate() {
                if let Some((key, revoked)) = parse(line, &self.name) {
                    known.push(Known { key, revoked, at: format!("{}:{}", path.display(), n + 1) });
                }
            }
        }
        Ok(known)
    }

    /// Kinds of keys known of the host. Asking for these first keeps a host with several keys from showing one that
    /// is not known.
    pub(super) fn algorithms(&self) -> Result<Vec<Algorithm>> {
        Ok(self.known()?.into_iter().filter(|k| !k.revoked).map(|k| k.key.algorithm()).collect())
    }

    /// Judges the key the host showed.
    ///
    /// # Errors
    /// `PermissionDenied`, saying the fingerprint and what to do.
    pub(super) fn check(&self, shown: &PublicKey) -> Result<()> {
        let known = self.known()?;
        let same = |k: &&Known| k.key.key_data() == shown.key_data();
        let denied = |message: &'static str, hint: String| {
            Error::new(ErrorKind::PermissionDenied, message)
                .with_operation("check host key")
                .with_context("host", &self.name)
                .with_context("fingerprint", shown.fingerprint(HashAlg::Sha256))
                .with_context("key", shown.algorithm().as_str())
                .with_context("hint", hint)
        };
        if let Some(revoked) = known.iter().find(|k| k.revoked && same(k)) {
            return Err(denied("the host showed a key that is revoked", format!("see {}", revoked.at)));
        }
        if known.iter().any(|k| !k.revoked && same(&k)) {
            return Ok(());
        }
        if let Some(other) = known.iter().find(|k| !k.revoked) {
            let hint = format!(
                "somebody may be listening in, or the host was installed anew: ask its owner for the fingerprint, and \
                 only if it is this one remove the line {}",
                other.at
            );
            return Err(denied("the host showed another key than the one that is known", hint));
        }
        let file = self.files.first();
        match (self.policy, file) {
            (HostKeyPolicy::AcceptNew, Some(file)) => self.learn(file, shown),
            _ => {
                let shown_file = file.map_or_else(|| "known_hosts".into(), |f| f.display().to_string());
                let hint = format!(
                    "compare the fingerprint with the host's own (ssh-keygen -lf on it), then add this line to \
                     {shown_file}: {} {}; or set host_key_policy to accept_new",
                    self.name,
                    shown.to_openssh().unwrap_or_default()
                );
                Err(denied("the host's key is not known", hint))
            }
        }
    }

    fn learn(&self, file: &Path, key: &PublicKey) -> Result<()> {
        let failed = |e| Error::io("write known_hosts", e).with_context("path", file.display());
        let text = key.to_openssh().map_err(|e| failed(io::Error::other(e)))?;
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir).map_err(failed)?;
        }
        let before = std::fs::read(file).unwrap_or_default();
        let gap = if before.last().is_none_or(|b| *b == b'\n') { "" } else { "\n" };
        let mut open = std::fs::OpenOptions::new().append(true).create(true).open(file).map_err(failed)?;
        open.write_all(format!("{gap}{} {text}\n", self.name).as_bytes()).map_err(failed)?;
        tracing::warn!(host = %self.name, fingerprint = %key.fingerprint(HashAlg::Sha256), "a new host key is trusted");
        Ok(())
    }
}

/// The key on this line, and whether it is revoked, if the line is about `name`.
fn parse(line: &str, name: &str) -> Option<(PublicKey, bool)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let mut fields = line.split_ascii_whitespace().peekable();
    let revoked = match *fields.peek()? {
        // Certificates of hosts are not asked for, so authorities vouch for nothing.
        "@cert-authority" => return None,
        "@revoked" => fields.next().is_some(),
        _ => false,
    };
    if !matches(fields.next()?, name) {
        return None;
    }
    let (_kind, key) = (fields.next()?, fields.next()?);
    Some((russh::keys::parse_public_key_base64(key).ok()?, revoked))
}

/// Whether a list of patterns, or a hashed name, is about `name`.
fn matches(patterns: &str, name: &str) -> bool {
    if let Some(hashed) = patterns.strip_prefix("|1|") {
        return hashed_name(hashed, name).unwrap_or(false);
    }
    let mut found = false;
    for pattern in patterns.split(',') {
        match pattern.strip_prefix('!') {
            Some(not) if glob(&not.to_lowercase(), name) => return false,
            Some(_) => {}
            None => found |= glob(&pattern.to_lowercase(), name),
        }
    }
    found
}

/// `salt|hash`, both in base 64: HMAC-SHA1 of the name with the salt as key.
fn hashed_name(hashed: &str, name: &str) -> Option<bool> {
    let (salt, hash) = hashed.split_once('|')?;
    let (salt, hash) = (STANDARD.decode(salt).ok()?, STANDARD.decode(hash).ok()?);
    let mac = Hmac::<Sha1>::new_from_slice(&salt).ok()?;
    Some(mac.chain_update(name.as_bytes()).verify_slice(&hash).is_ok())
}

/// `*` stands for any number of characters, `?` for one. Linear in memory and never worse than quadratic in time.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || text.get(t) == Some(c) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILIG2T/B0l0gaqj3puu510tu9N1OkQ4znY3LYuEm5zCF";

    fn key(line: &str) -> PublicKey {
        russh::keys::parse_public_key_base64(line.split(' ').nth(1).unwrap()).unwrap()
    }

    fn check(text: &str, host: &str, port: u16, shown: &str) -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        std::fs::write(&path, text).unwrap();
        KnownHosts::new(vec![path], host, port, HostKeyPolicy::Strict).check(&key(shown))
    }

    #[test]
    fn only_the_known_key_of_the_very_host_passes() {
        let file = format!("# x\n\n[Box]:2222 {A} comment\nweb*,!web9 {A}\nplain\t{B}\n");
        for (host, port, shown, good) in [
            ("box", 2222, A, true),
            ("box", 2222, B, false),
            ("box", 22, A, false),
            ("web1", 22, A, true),
            ("web9", 22, A, false),
            ("plain", 22, B, true),
            ("plain", 22, A, false),
            ("other", 22, A, false),
        ] {
            assert_eq!(check(&file, host, port, shown).is_ok(), good, "{host}:{port}");
        }
    }

    #[test]
    fn hashed_names_are_understood() {
        // The line of the OpenSSH manual's kind for example.com, from the tests of russh.
        let file = format!("|1|O33ESRMWPVkMYIwJ1Uw+n877jTo=|nuuC5vEqXlEZ/8BXQR7m619W6Ak= {B}\n");
        check(&file, "example.com", 22, B).unwrap();
        assert!(check(&file, "example.org", 22, B).is_err());
    }

    #[test]
    fn refusals_say_the_fingerprint_and_what_to_do() {
        let changed = check(&format!("h {A}\n"), "h", 22, B).unwrap_err();
        let unknown = check("", "h", 22, B).unwrap_err();
        let revoked = check(&format!("h {A}\n@revoked * {A}\n"), "h", 22, A).unwrap_err();
        for err in [&changed, &unknown, &revoked] {
            assert_eq!(err.kind(), ErrorKind::PermissionDenied);
            assert!(err.context_value("fingerprint").unwrap().starts_with("SHA256:"), "{err}");
            assert!(err.context_value("hint").is_some(), "{err}");
        }
        assert!(changed.context_value("hint").unwrap().contains("known_hosts:1"), "{changed}");
        assert!(unknown.context_value("hint").unwrap().contains(B), "{unknown}");
    }

    #[test]
    fn a_new_key_is_written_down_once_and_then_binds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/known_hosts");
        let hosts = KnownHosts::new(vec![path.clone()], "h", 2200, HostKeyPolicy::AcceptNew);
        hosts.check(&key(A)).unwrap();
        hosts.check(&key(A)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("[h]:2200 {A}\n"));
        assert!(hosts.check(&key(B)).is_err());
        assert_eq!(hosts.algorithms().unwrap().len(), 1);
    }

    #[test]
    fn patterns_match_as_in_openssh() {
        for (pattern, text, is) in [
            ("*", "", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbY", false),
            ("?", "a", true),
            ("?", "", false),
            ("*.example.org", "a.example.org", true),
            ("*.example.org", "example.org", false),
        ] {
            assert_eq!(glob(pattern, text), is, "{pattern} {text}");
        }
    }
}
