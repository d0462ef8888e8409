//! Which parts of a root file system a sandbox sees, and the few files of `/etc` that are its own.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// User and group id inside.
pub(super) const ID: u32 = 1000;
/// User name inside.
pub(super) const USER: &str = "sandbox";
/// Its home.
pub(super) const HOME: &str = "/home/sandbox";

/// Top directories of the host that hold programs and what they need, and no data of people.
const HOST_DIRS: &[&str] =
    &["bin", "etc", "gnu", "lib", "lib32", "lib64", "libx32", "nix", "opt", "sbin", "snap", "usr"];
/// Top directories of a root file system that a sandbox has of its own.
const OWN_DIRS: &[&str] = &["dev", "home", "proc", "run", "sys", "tmp", "var"];

/// Arguments that show the directories of `root` read-only. To bubblewrap it is at `seen`.
pub(super) fn system(root: &Path, seen: &Path, host: bool) -> io::Result<Vec<OsString>> {
    let mut args: Vec<OsString> = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let listed = |list: &[&str]| list.iter().any(|n| name == *n);
        let shown = if host { listed(HOST_DIRS) } else { !listed(OWN_DIRS) };
        if !shown {
            continue;
        }
        let inside = Path::new("/").join(&name);
        if entry.file_type()?.is_symlink() {
            args.extend(["--symlink".into(), fs::read_link(entry.path())?.into(), inside.into()]);
        } else {
            args.extend(["--ro-bind".into(), seen.join(&name).into(), inside.into()]);
        }
    }
    // `/etc/resolv.conf` is often a link to a file below `/run`, which is not shown.
    let resolv = root.join("etc/resolv.conf");
    if host
        && let Ok(real) = resolv.canonicalize()
        && real.starts_with("/run")
    {
        args.extend(["--ro-bind".into(), real.clone().into(), real.into()]);
    }
    Ok(args)
}

/// Arguments that hide what of `etc` not everybody may read. Matters only when this process is root: the sandbox is
/// the same user to the kernel.
pub(super) fn masks(etc: &Path) -> Vec<OsString> {
    let mut args = Vec::new();
    mask(etc, etc, 0, &mut args);
    args
}

fn mask(top: &Path, dir: &Path, depth: usize, args: &mut Vec<OsString>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let inside = || -> PathBuf {
            let path = entry.path();
            Path::new("/etc").join(path.strip_prefix(top).unwrap_or(&path))
        };
        let mode = meta.permissions().mode();
        if meta.is_dir() {
            if mode & 0o005 != 0o005 || depth >= 8 {
                args.extend(["--tmpfs".into(), inside().into()]);
            } else {
                mask(top, &entry.path(), depth + 1, args);
            }
        } else if meta.is_file() && mode & 0o004 == 0 {
            args.extend(["--ro-bind".into(), "/dev/null".into(), inside().into()]);
        }
    }
}

/// Writes the user database of a sandbox into `dir`; gives the arguments that show it where `etc` has one to cover. To
/// bubblewrap, `dir` is at `seen`.
pub(super) fn users(dir: &Path, seen: &Path, etc: &Path) -> io::Result<Vec<OsString>> {
    let passwd = format!(
        "root:x:0:0:root:/root:/bin/sh\n{USER}:x:{ID}:{ID}:{USER}:{HOME}:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    );
    let group = format!("root:x:0:\n{USER}:x:{ID}:\nnogroup:x:65534:\n");
    let mut args = Vec::new();
    for (name, text) in [("passwd", passwd), ("group", group)] {
        let path = dir.join(name);
        // A full disk is no reason not to start.
        if fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        }
        if etc.join(name).is_file() {
            args.extend(["--ro-bind".into(), seen.join(name).into(), Path::new("/etc").join(name).into()]);
        }
    }
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_root_may_read_is_hidden_and_the_rest_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path();
        fs::create_dir_all(etc.join("ssl/private")).unwrap();
        fs::set_permissions(etc.join("ssl/private"), fs::Permissions::from_mode(0o710)).unwrap();
        fs::set_permissions(etc.join("ssl"), fs::Permissions::from_mode(0o755)).unwrap();
        for (name, mode) in [("shadow", 0o640), ("hosts", 0o644), ("ssl/key", 0o600)] {
            fs::write(etc.join(name), "x").unwrap();
            fs::set_permissions(etc.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let args = masks(etc);
        let has = |a: &str| args.iter().any(|x| x == a);
        assert!(has("/etc/shadow") && has("/etc/ssl/private") && has("/etc/ssl/key"), "{args:?}");
        assert!(!has("/etc/hosts") && !has("/etc/ssl"), "{args:?}");
    }

    #[test]
    fn a_root_file_system_shows_its_own_directories_only() {
        let root = tempfile::tempdir().unwrap();
        for name in ["usr", "etc", "home", "proc", "srv"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("usr/bin", root.path().join("bin")).unwrap();
        let args = system(root.path(), Path::new("/seen"), false).unwrap();
        let has = |a: &str| args.iter().any(|x| x == a);
        assert!(
            has("/seen/usr") && has("/usr") && has("/etc") && has("/srv") && has("/bin") && has("usr/bin")
        );
        assert!(!has("/home") && !has("/proc"));
        let host = system(root.path(), root.path(), true).unwrap();
        assert!(host.iter().all(|a| a != "/srv"), "data of the host is not shown: {host:?}");
    }
}
