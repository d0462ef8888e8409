//! The user of the shell and its working directory. Programs are called with arguments, never through a shell: names
//! and paths are data (DEFECT 19).

use std::{
    fs::{OpenOptions, Permissions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, lchown},
    path::{Path, PathBuf},
    process::Command,
};

use fleetcore::{Error, ErrorKind, Result};

use super::options::Options;

/// What lets a user of the group `sudo` become root.
const SUDOERS_LINE: &str = "%sudo ALL=(ALL) NOPASSWD:ALL";
const SUDOERS: &str = "/etc/sudoers";

/// Somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: PathBuf,
}

impl User {
    fn from_passwd(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = PathBuf::from(fields.nth(1)?);
        Some(Self { name, uid, gid, home })
    }
}

/// Who the shell runs as when that is not who started the runtime, and who files belong to.
#[derive(Clone, Debug, Default)]
pub(super) struct Set {
    pub(super) shell: Option<User>,
    pub(super) owner: Option<User>,
}

fn failed(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Unavailable, text).with_operation("set up the user")
}

/// Makes the user and the directory as far as they are missing. Blocks.
pub(super) fn set_up(options: &Options) -> Result<Set> {
    let root = rustix::process::geteuid().is_root();
    let name = options.username.as_str();
    let common = matches!(name, "root" | "openhands");
    if !common && options.var("USER") == Some(name) {
        return Ok(Set { shell: None, owner: find("passwd", name)?.as_deref().and_then(User::from_passwd) });
    }
    if !valid(name) {
        return Err(failed("not a name of a user").with_context("name", name.escape_debug()));
    }
    let user = match find("passwd", name)?.as_deref().and_then(User::from_passwd) {
        Some(user) => Some(user),
        None if root => Some(make(options)?),
        // Without root nobody else can be anybody else; the original fails only when it tries.
        None if options.switches_user() => {
            return Err(
                failed("there is no such user, and only root can make one").with_context("name", name)
            );
        }
        None => None,
    };
    if let Some(user) = &user
        && user.uid != options.user_id
        && name != "root"
    {
        tracing::info!(name, uid = user.uid, "the user is there already, with another id than --user-id");
    }
    working_dir(Path::new(&options.working_dir), user.as_ref().filter(|_| root), options)?;
    let me = rustix::process::geteuid().as_raw();
    let shell = match &user {
        // Who it is already keeps the environment it was given.
        Some(user) if options.switches_user() && root && user.uid != me => Some(user.clone()),
        Some(user) if options.switches_user() && user.uid != me => {
            return Err(failed("only root can run the shell as somebody else").with_context("name", name));
        }
        _ => None,
    };
    Ok(Set { shell, owner: user })
}

/// What `useradd` takes by default.
fn valid(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        && name.len() <= 32
}

/// A line of a database of the system: its file first, then whoever else knows.
fn find(database: &str, name: &str) -> Result<Option<String>> {
    let of = |text: &str| text.lines().find(|l| l.split(':').next() == Some(name)).map(str::to_owned);
    let file = std::fs::read_to_string(format!("/etc/{database}")).unwrap_or_default();
    if let Some(line) = of(&file) {
        return Ok(Some(line));
    }
    match Command::new("getent").args([database, "--", name]).output() {
        Ok(output) => Ok(of(&String::from_utf8_lossy(&output.stdout))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("look up a user", e).with_context("name", name)),
    }
}

fn make(options: &Options) -> Result<User> {
    let name = options.username.as_str();
    sudoers()?;
    let output = Command::new("useradd")
        .args(["-rm", "-d", &format!("/home/{name}"), "-s", "/bin/bash", "-g", "root", "-G", "sudo", "-u"])
        .args([&options.user_id.to_string(), "--", name])
        .output()
        .map_err(|e| Error::io("useradd", e).with_context("name", name))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed("useradd failed").with_context("name", name).with_context("stderr", said.trim()));
    }
    let made = find("passwd", name)?.as_deref().and_then(User::from_passwd);
    made.ok_or_else(|| failed("useradd made no user").with_context("name", name))
}

/// The original adds the line again for every new user.
fn sudoers() -> Result<()> {
    let text = std::fs::read_to_string(SUDOERS).unwrap_or_default();
    if text.lines().any(|l| l.trim() == SUDOERS_LINE) {
        return Ok(());
    }
    let line_end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let new = !Path::new(SUDOERS).exists();
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(SUDOERS)
        .map_err(|e| Error::io("write sudoers", e))?;
    let written = file.write_all(format!("{line_end}{SUDOERS_LINE}\n").as_bytes());
    written.map_err(|e| Error::io("write sudoers", e))?;
    if new {
        // sudo wants it like this.
        file.set_permissions(Permissions::from_mode(0o440)).map_err(|e| Error::io("write sudoers", e))?;
    }
    Ok(())
}

fn group(options: &Options) -> Result<u32> {
    let name = options.var("SANDBOX_GROUP_ID").unwrap_or("root");
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    let line = find("group", name)?;
    let gid = line.as_deref().and_then(|l| l.split(':').nth(2)).and_then(|gid| gid.parse().ok());
    gid.ok_or_else(|| failed("there is no such group").with_context("name", name.escape_debug()))
}

fn working_dir(path: &Path, owner: Option<&User>, options: &Options) -> Result<()> {
    let wrong = |e| Error::io("make the working directory", e).with_context("path", path.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o775).create(path).map_err(wrong)?;
    let Some(owner) = owner else { return Ok(()) };
    chown_tree(path, owner.uid, group(options)?).map_err(wrong)?;
    let mode = path.metadata().map_err(wrong)?.mode();
    std::fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 | 0o060)).map_err(wrong)
}

/// Gives a directory and all below it to somebody. Links are given, never followed.
pub(super) fn chown_tree(path: &Path, uid: u32, gid: u32) -> std::io::Result<()> {
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let meta = match path.symlink_metadata() {
            // What others remove meanwhile needs no owner.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            other => other?,
        };
        if (meta.uid(), meta.gid()) != (uid, gid) {
            match lchown(&path, Some(uid), Some(gid)) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                other => other?,
            }
        }
        if meta.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_lines() {
        for good in ["openhands", "a", "_x", "a-b.c_1"] {
            assert!(valid(good), "{good}");
        }
        for bad in ["", "-x", "a b", "a;b", "$(x)", "a/b", "1a", "é", &"a".repeat(33)] {
            assert!(!valid(bad), "{bad}");
        }
        let user = User::from_passwd("openhands:x:1000:0::/home/openhands:/bin/bash").unwrap();
        assert_eq!((user.uid, user.gid, user.home.to_str()), (1000, 0, Some("/home/openhands")));
        assert_eq!(find("passwd", "root").unwrap().and_then(|l| User::from_passwd(&l)).unwrap().uid, 0);
        assert_eq!(find("passwd", "no-such-user-here").unwrap(), None);
    }

    #[test]
    fn a_tree_changes_hands_without_its_links_being_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in/deep"), dir.path().join("out"));
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::write(&outside, "x").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        let meta = dir.path().metadata().unwrap();
        // Only root can give anything away; to oneself everybody can.
        let uid = if meta.uid() == 0 { 12345 } else { meta.uid() };
        chown_tree(&dir.path().join("in"), uid, meta.gid()).unwrap();
        assert_eq!(inside.join("link").symlink_metadata().unwrap().uid(), uid);
        assert_eq!(outside.metadata().unwrap().uid(), meta.uid());
    }
}
