//! Names and words that become arguments of the program, checked before any process is started.

use std::path::Path;

use crate::{Error, MachineId, Result};

/// Longest name: it becomes a host name (RFC 1123, section 2.1).
const NAME_MAX_BYTES: usize = 63;

const NAME_RULE: &str = "1 to 63 letters, digits and hyphens that start with a letter and end in no hyphen";

fn well_formed(name: &str) -> bool {
    name.len() <= NAME_MAX_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn refused(field: &'static str, rule: &'static str, value: &str) -> Error {
    let shown: String = value.chars().take(64).collect();
    Error::invalid(field, rule).with_context("value", shown.escape_debug())
}

/// A name for something new: an instance or a snapshot.
pub(super) fn check_new(field: &'static str, name: &str) -> Result<()> {
    if well_formed(name) { Ok(()) } else { Err(refused(field, NAME_RULE, name)) }
}

/// Whether an instance can have this id at all. Those that cannot do not exist.
pub(super) fn possible(id: &MachineId) -> bool {
    let name = id.as_str();
    // Others may have made longer ones.
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// `[REMOTE:]IMAGE`, or a URL that the daemon fetches.
pub(super) fn check_image(image: &str) -> Result<()> {
    let rule = "an image such as 24.04, noble or daily:devel, or a URL that begins with https:// or http://";
    let word = |w: &str| {
        w.starts_with(|c: char| c.is_ascii_alphanumeric())
            && w.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/".contains(&b))
    };
    let url = ["https://", "http://"].iter().any(|scheme| {
        image.strip_prefix(scheme).is_some_and(|rest| {
            !rest.is_empty() && rest.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '\\')
        })
    });
    let good = match image.split_once(':') {
        _ if image.len() > 2048 => false,
        _ if url => true,
        Some((remote, name)) => word(remote) && word(name),
        None => word(image),
    };
    if good { Ok(()) } else { Err(refused("image", rule, image)) }
}

/// `NAME` or `name=NAME[,mode=auto|manual][,mac=…]`.
pub(super) fn check_network(network: &str) -> Result<()> {
    let rule = "NAME or name=NAME[,mode=auto|manual][,mac=xx:xx:xx:xx:xx:xx]";
    let word = |w: &str| {
        !w.is_empty()
            && !w.starts_with('-')
            && w.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let mac = |m: &str| {
        m.split(':').count() == 6
            && m.split(':').all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let field = |f: &str| match f.split_once('=') {
        Some(("name", name)) => word(name),
        Some(("mode", mode)) => matches!(mode, "auto" | "manual"),
        Some(("mac", m)) => mac(m),
        _ => false,
    };
    let good = if network.contains('=') {
        network.split(',').all(field) && network.split(',').any(|f| f.starts_with("name="))
    } else {
        word(network)
    };
    if good { Ok(()) } else { Err(refused("network", rule, network)) }
}

/// A directory of the host to mount.
pub(super) fn check_mount_source(source: &str, roots: &[impl AsRef<Path>]) -> Result<()> {
    let path = Path::new(source);
    let plain = path.is_absolute()
        && !source.contains(['\0', ':'])
        && !path.components().any(|c| c == std::path::Component::ParentDir);
    if !plain {
        return Err(refused("source", "an absolute path without `..` and colons", source));
    }
    if roots.is_empty() {
        return Ok(());
    }
    // Where links lead counts, not what they are called.
    let real =
        std::fs::canonicalize(path).map_err(|e| Error::io("mount", e).with_context("source", source))?;
    let inside = |root: &Path| std::fs::canonicalize(root).is_ok_and(|root| real.starts_with(root));
    if roots.iter().any(|root| inside(root.as_ref())) {
        return Ok(());
    }
    Err(refused("source", "in a directory that the configuration allows to mount", source))
}

/// A directory of a machine.
pub(super) fn check_mount_target(target: &str) -> Result<()> {
    let good = target.starts_with('/') && !target.contains(['\0', ':']);
    if good { Ok(()) } else { Err(refused("target", "an absolute path without colons", target)) }
}

/// `HOST:GUEST`, both numbers or `default`.
pub(super) fn check_id_map(map: &str) -> Result<()> {
    let id = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let good = map.split_once(':').is_some_and(|(h, g)| id(h) && (id(g) || g == "default"));
    if good { Ok(()) } else { Err(refused("id_map", "HOST:GUEST, two numbers", map)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_daemons_grammar() {
        let long = "a".repeat(300);
        for bad in ["", "-", "--all", "../x", "1a", "a-", "a_b", "a.b", "ä", "a b", "a\n", "日本", &long] {
            assert_eq!(check_new("name", bad).unwrap_err().kind(), crate::ErrorKind::InvalidInput, "{bad}");
        }
        for good in ["a", "dev1", "a-b", "A1", &"a".repeat(63)] {
            check_new("name", good).unwrap();
        }
        assert!(!possible(&MachineId::new("1x").unwrap()) && !possible(&MachineId::new("a.b").unwrap()));
        assert!(possible(&MachineId::new("a".repeat(200)).unwrap()));
    }

    #[test]
    fn images_networks_and_mounts_are_no_options() {
        for bad in ["", "--help", "a:b:c", "file:///etc/passwd", "a b", "-x:y", "https://", "ü"] {
            check_image(bad).unwrap_err();
        }
        for good in ["24.04", "noble", "daily:devel", "docker", "https://example.org/x.img?y=1", "d41d8c"] {
            check_image(good).unwrap();
        }
        for bad in ["", "-n", "mode=auto", "name=", "name=a,mode=x", "name=a,mac=1:2", "a b"] {
            check_network(bad).unwrap_err();
        }
        for good in ["eth0", "name=eth0,mode=manual", "name=br-0,mac=52:54:00:4b:ab:cd"] {
            check_network(good).unwrap();
        }
        let none: [&str; 0] = [];
        for bad in ["rel", "/a:b", "/a/../b", ""] {
            check_mount_source(bad, &none).unwrap_err();
        }
        check_mount_source("/srv", &none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        check_mount_source("/etc", &[dir.path()]).unwrap_err();
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
        check_mount_source(dir.path().join("link").to_str().unwrap(), &[dir.path()]).unwrap_err();
        check_mount_source(dir.path().to_str().unwrap(), &[dir.path()]).unwrap();
    }
}
