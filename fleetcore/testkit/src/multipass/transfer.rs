//! Files to and from guests.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{
    cli::Call,
    state::{pass, scaled},
};

enum Place {
    Host(PathBuf),
    Pipe,
    /// The instance, and the path there as it was given.
    Guest(String, String),
}

fn place(text: &str) -> Place {
    match text.split_once(':') {
        _ if text == "-" => Place::Pipe,
        Some((name, path)) => Place::Guest(name.to_owned(), path.to_owned()),
        None => Place::Host(PathBuf::from(text)),
    }
}

/// `transfer`.
pub(super) fn run(call: &Call) -> u8 {
    let Some((to, from)) = call.line.words.split_last().filter(|(_, from)| !from.is_empty()) else {
        eprintln!("Not enough arguments given");
        return 1;
    };
    let to = place(to);
    let from: Vec<Place> = from.iter().map(|f| place(f)).collect();
    let name = from.iter().chain([&to]).find_map(|p| match p {
        Place::Guest(name, _) => Some(name.clone()),
        _ => None,
    });
    let name = name.unwrap_or_default();
    let state = call.store.turn().load().instances.get(&name).map(|i| i.state.clone());
    match state.as_deref() {
        None => return call.failed(format_args!("instance \"{name}\" does not exist")),
        Some("Running" | "Delayed Shutdown") => {}
        Some("Deleted") => return call.failed(format_args!("instance \"{name}\" is deleted")),
        Some(_) => return call.failed(format_args!("instance \"{name}\" is not running")),
    }
    pass(scaled(160));
    let home = call.store.home(&name);
    let mut status = 0;
    for source in &from {
        if let Err(text) = one(call, &home, source, &to, from.len() > 1) {
            eprintln!("{text}");
            status = 2;
        }
    }
    status
}

fn one(call: &Call, home: &Path, from: &Place, to: &Place, many: bool) -> Result<(), String> {
    let (recursive, parents) = (call.line.has("recursive"), call.line.has("parents"));
    let text = |e: io::Error| e.to_string();
    match (from, to) {
        (Place::Pipe, Place::Guest(_, path)) => {
            let mut at = home.join(path);
            if at.is_dir() {
                at = at.join("stream_output.dat");
            }
            let dir = at.parent().unwrap_or(home);
            if !dir.is_dir() && !parents {
                return Err(format!("[sftp] cannot open remote file {at:?}: SFTP server: No such file"));
            }
            fs::create_dir_all(dir).map_err(text)?;
            let mut file = File::create(&at).map_err(text)?;
            io::copy(&mut io::stdin().lock(), &mut file).map(drop).map_err(text)
        }
        (Place::Guest(_, path), Place::Pipe) => {
            let at = home.join(path);
            let open = |_| format!("[sftp] cannot open remote file {at:?}: SFTP server: No such file");
            let mut file = File::open(&at).map_err(open)?;
            io::copy(&mut file, &mut io::stdout().lock()).map(drop).map_err(text)
        }
        (Place::Host(from), Place::Guest(_, path)) => {
            copy(from, &home.join(path), ["local", "remote"], recursive, parents, many)
        }
        (Place::Guest(_, path), Place::Host(to)) => {
            copy(&home.join(path), to, ["remote", "local"], recursive, parents, many)
        }
        _ => Err("An instance name is needed".to_owned()),
    }
}

fn copy(
    from: &Path,
    to: &Path,
    [here, there]: [&str; 2],
    recursive: bool,
    parents: bool,
    many: bool,
) -> Result<(), String> {
    let text = |e: io::Error| e.to_string();
    let facts =
        fs::metadata(from).map_err(|_| format!("[sftp] cannot access {here} file {from:?}: No such file"))?;
    if facts.is_dir() && !recursive {
        return Err(format!("[sftp] omitting {here} directory {from:?}: recursive mode not specified"));
    }
    if many && !to.is_dir() {
        return Err(format!("Target {to:?} is not a directory"));
    }
    let to = if to.is_dir() { to.join(from.file_name().unwrap_or_default()) } else { to.to_owned() };
    let dir = to.parent().unwrap_or(Path::new("/"));
    if !dir.is_dir() {
        if !parents {
            return Err(format!("[sftp] {there} target does not exist"));
        }
        fs::create_dir_all(dir).map_err(text)?;
    }
    tree(from, &to).map_err(text)
}

fn tree(from: &Path, to: &Path) -> io::Result<()> {
    let facts = fs::symlink_metadata(from)?;
    if facts.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(from)?, to);
    }
    if !facts.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        tree(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}
