//! Which module may use which: the table of the design, section 3.2, checked against the sources.
//!
//! Read are the paths that begin with `crate::` (anywhere in a file, `use` lines included) and the external crates of
//! `use` lines. Names that the crate root re-exports count as use of the module they come from. Test modules are free.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// What one part of `fleetcore/src` may use of the crate itself.
struct Rule {
    /// Path prefix below `src`, the longest match counts.
    part: &'static str,
    may_use: &'static [&'static str],
    why: &'static str,
}

const PURE: &[&str] = &["error", "id", "types", "sim::quote"];

const RULES: &[Rule] = &[
    Rule { part: "error", may_use: PURE, why: "error, id and types are plain data" },
    Rule { part: "id", may_use: PURE, why: "error, id and types are plain data" },
    Rule { part: "types", may_use: PURE, why: "error, id and types are plain data" },
    Rule { part: "raw", may_use: &["error", "id", "types", "raw"], why: "the traits know no implementation" },
    Rule { part: "sys", may_use: &["error", "types"], why: "system calls know nothing of what they are for" },
    Rule {
        part: "journal",
        may_use: &["error", "id", "types", "raw", "journal"],
        why: "the journal knows neither stores nor processes",
    },
    Rule {
        part: "sim",
        may_use: &["error", "id", "types", "raw", "sim", "supervisor"],
        why: "what is built over spawn knows no backend",
    },
    Rule { part: "term", may_use: &["error", "id", "types", "journal", "term"], why: "it only draws bytes" },
    Rule {
        part: "supervisor",
        may_use: &["error", "id", "types", "raw", "journal", "supervisor"],
        why: "the supervisor knows traits only, not backends, stores or layers",
    },
    Rule {
        part: "session",
        may_use: &["error", "id", "types", "raw", "journal", "supervisor", "session", "sim", "term"],
        why: "sessions work over any executor",
    },
    Rule {
        part: "backends",
        may_use: &["error", "id", "types", "raw", "sim", "sys", "supervisor", "backends::local"],
        why: "a backend uses raw, types and sys, never stores, layers or the fleet",
    },
    Rule {
        part: "store",
        may_use: &["error", "id", "types", "raw", "store", "journal", "sys"],
        why: "a store uses raw, types and the journal's files, never backends, layers or the fleet",
    },
    Rule { part: "layers", may_use: &["error", "id", "types", "raw", "layers"], why: "a layer wraps traits" },
];

/// Crates of `use` lines that a part must not touch.
const FOREIGN: &[(&str, &[&str], &str)] = &[
    ("error", &["tokio", "tokio_util", "rustix", "nix", "futures"], "error, id and types do no I/O"),
    ("id", &["tokio", "tokio_util", "rustix", "nix", "futures"], "error, id and types do no I/O"),
    ("types", &["tokio", "tokio_util", "rustix", "nix", "futures"], "error, id and types do no I/O"),
    ("", &["axum", "clap", "pyo3", "hyper", "reqwest", "tower"], "the core knows no frontend"),
];

/// Systems whose wire formats are dialects in fleetcore-http; the core offers neutral hooks only.
const DIALECTS: &[&str] = &["batwa", "nixfleet", "openhands", "coder"];

/// Parts of the frontends that implement the traits themselves, which is what `raw` is for.
const AUTHORS: &[(&str, &str)] = &[
    ("fleetcore-http/src/client/", "the remote executor"),
    ("fleetcore-http/src/link/", "agents as executors"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Is compiled for tests only, by the convention of this project.
fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n == "tests.rs" || n == "fake.rs")
        || path.components().any(|c| c.as_os_str() == "tests")
}

/// The code without comments, strings and the test module at the end; line breaks stay, so that lines can be named.
fn code(text: &str) -> String {
    let text = text.find("\nmod tests {").map_or(text, |at| &text[..at]);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if c == '"' {
            string_end(rest)
        } else {
            0
        };
        if skip == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            out.extend(rest[..skip].chars().filter(|c| *c == '\n'));
            rest = &rest[skip..];
        }
    }
    out
}

/// Length of the string literal at the start of `text`. Raw strings end at their first quote here, which is only ever
/// too early: no path is missed.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// All paths of a `use` tree: `a::{b, c::{d, e}}` gives `a::b`, `a::c::d`, `a::c::e`.
fn flatten(tree: &str, prefix: &str, out: &mut Vec<String>) {
    let mut depth = 0;
    let mut start = 0;
    for (at, c) in tree.char_indices().chain([(tree.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let item = tree[start..at].trim();
                start = at + 1;
                match item.split_once('{') {
                    _ if item.is_empty() => {}
                    Some((head, body)) => {
                        let body = body.trim_end().strip_suffix('}').unwrap_or(body);
                        flatten(body, &format!("{prefix}{}", head.trim()), out);
                    }
                    None => {
                        let path = item.split(" as ").next().unwrap_or(item);
                        out.push(format!("{prefix}{path}"));
                    }
                }
            }
            _ => {}
        }
    }
}

/// Paths of `use` lines and paths that begin with `anchor` anywhere else, each with its line.
fn paths(code: &str, anchor: &str) -> Vec<(usize, String)> {
    let line = |at: usize| code[..at].matches('\n').count() + 1;
    let mut found = Vec::new();
    let mut uses = Vec::new();
    for (at, _) in code.match_indices("use ") {
        if code[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        let Some(end) = code[at..].find(';') else { continue };
        let tree = code[at + 4..at + end].split_whitespace().collect::<Vec<_>>().join(" ");
        let mut flat = Vec::new();
        flatten(&tree, "", &mut flat);
        found.extend(flat.into_iter().map(|p| (line(at), p.replace(' ', ""))));
        uses.push(at..at + end);
    }
    for (at, _) in code.match_indices(anchor) {
        let inside = code[..at].chars().next_back().is_some_and(|c| is_word(c) || c == ':');
        if inside || uses.iter().any(|u| u.contains(&at)) {
            continue;
        }
        let path: String = code[at..].chars().take_while(|c| is_word(*c) || *c == ':').collect();
        found.push((line(at), path));
    }
    found
}

/// Which module each name of the crate root comes from.
fn exports(src: &Path) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let text = code(&fs::read_to_string(src.join("lib.rs")).unwrap());
    for (_, path) in paths(&text, "crate::") {
        if let Some((module, name)) = path.rsplit_once("::") {
            names.insert(name.to_owned(), module.to_owned());
        }
    }
    for path in sources(&src.join("types")) {
        for name in public_names(&fs::read_to_string(path).unwrap()) {
            names.insert(name, "types".to_owned());
        }
    }
    names
}

fn public_names(text: &str) -> BTreeSet<String> {
    let heads = ["pub struct ", "pub enum ", "pub type ", "pub const ", "pub trait "];
    let name = |l: &str| heads.iter().find_map(|h| l.strip_prefix(h)).map(str::to_owned);
    text.lines().filter_map(name).map(|l| l.chars().take_while(|c| is_word(*c)).collect()).collect()
}

/// `a::b::c` begins with the whole names of `prefix`.
fn within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Every sentence is one violation.
fn check_core(src: &Path) -> Vec<String> {
    let exports = exports(src);
    let mut broken = Vec::new();
    for path in sources(src).into_iter().filter(|p| !is_test(p)) {
        let below = path.strip_prefix(src).unwrap().with_extension("");
        let module = below.to_string_lossy().replace('/', "::").trim_end_matches("::mod").to_owned();
        let text = code(&fs::read_to_string(&path).unwrap());
        let shown = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        for (line, used) in paths(&text, "crate::") {
            for (part, crates, why) in FOREIGN {
                let first = used.split("::").next().unwrap_or_default();
                if (part.is_empty() || within(&module, part)) && crates.contains(&first) {
                    broken.push(format!("{shown}:{line}: uses {first}; {why}"));
                }
            }
            let Some(inner) = used.strip_prefix("crate::") else { continue };
            let first = inner.split("::").next().unwrap_or_default();
            let target = exports.get(first).map_or(inner, String::as_str);
            if let Some(rule) = RULES.iter().find(|r| within(&module, r.part))
                && !rule.may_use.iter().any(|m| within(target, m))
                && !["", "self", "Result", "*"].contains(&first)
                && !within(target, &sibling(&module))
                && first.chars().all(|c| !c.is_uppercase() || exports.contains_key(first))
            {
                broken.push(format!(
                    "{shown}:{line}: `{}` uses crate::{inner} (of `{target}`); it may use {:?}: {}",
                    rule.part, rule.may_use, rule.why
                ));
            }
        }
    }
    broken
}

/// The backend, store or layer a module belongs to: what it may always use. `local` and `ssh` are transports that other
/// backends may use too.
fn sibling(module: &str) -> String {
    module.split("::").take(2).collect::<Vec<_>>().join("::")
}

#[test]
fn modules_use_only_what_is_below_them() {
    let broken = check_core(&root().join("fleetcore/src"));
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn the_core_names_no_dialect() {
    let src = root().join("fleetcore/src");
    let mut broken = String::new();
    for path in sources(&src).into_iter().filter(|p| !p.starts_with(src.join("backends"))) {
        for (n, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let lower = line.to_lowercase();
            let named = lower.split(|c| !is_word(c)).find(|w| DIALECTS.contains(w));
            if let Some(name) = named {
                let shown = path.strip_prefix(root()).unwrap().display();
                writeln!(
                    broken,
                    "{shown}:{}: names {name}; dialects live in fleetcore-http/src/compat",
                    n + 1
                )
                .unwrap();
            }
        }
    }
    assert!(broken.is_empty(), "\n{broken}");
}

#[test]
fn frontends_use_root_exports() {
    let mut broken = String::new();
    for name in ["fleetcore-http", "fleetcore-cli", "fleetcore-py", "examples"] {
        for path in sources(&root().join(name)).into_iter().filter(|p| !is_test(p)) {
            let shown = path.strip_prefix(root()).unwrap().display().to_string();
            if shown.contains("/target/")
                || shown.contains("/node_modules/")
                || AUTHORS.iter().any(|(a, _)| shown.starts_with(a))
            {
                continue;
            }
            for (line, used) in paths(&code(&fs::read_to_string(&path).unwrap()), "fleetcore::") {
                if within(&used, "fleetcore::raw") {
                    writeln!(broken, "{shown}:{line}: uses {used}; raw is for those who implement its traits, use the root exports").unwrap();
                }
                // compat/<one dialect>/… may not reach into compat/<another>. Dialects are folders; what lies beside
                // them is the door they share.
                let mine = shown.split_once("src/compat/").and_then(|(_, rest)| rest.split_once('/'));
                if let (Some((mine, _)), Some(other)) = (mine, used.split("compat::").nth(1))
                    && let Some((before, _)) = shown.split_once("src/compat/")
                    && !within(other, mine)
                    && root()
                        .join(before)
                        .join("src/compat")
                        .join(other.split("::").next().unwrap_or_default())
                        .is_dir()
                {
                    writeln!(broken, "{shown}:{line}: uses {used}; one dialect never uses another").unwrap();
                }
            }
        }
    }
    assert!(broken.is_empty(), "\n{broken}");
}

#[test]
fn the_core_depends_on_no_frontend() {
    let manifest = fs::read_to_string(root().join("fleetcore/Cargo.toml")).unwrap();
    let frontends = ["axum", "clap", "pyo3", "hyper", "reqwest", "tower", "fleetcore-http", "fleetcore-cli"];
    for (n, line) in manifest.lines().enumerate() {
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        assert!(!frontends.contains(&name), "fleetcore/Cargo.toml:{}: depends on {name}", n + 1);
    }
}

/// The check itself can fail: each kind of violation, in a tree of its own.
#[test]
fn violations_are_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "pub use fleet::{Fleet, Machine};\npub use raw::Executor;\n");
    write("types/a.rs", "use tokio::sync::mpsc;\n");
    write("layers/a.rs", "use crate::{\n    Executor,\n    store::{memory::MemoryStore},\n};\n");
    write("backends/ssh/a.rs", "// crate::fleet\nfn f() { let x = \"crate::fleet\"; crate::fleet::go() }\n");
    write("backends/nix/a.rs", "use crate::backends::linode::Linode;\n");
    write("store/sqlite.rs", "use crate::Fleet;\n#[cfg(test)]\nmod tests {\n    use crate::layers::X;\n}\n");
    write("raw/good.rs", "use crate::{Result, types::CommandSpec};\nuse tokio::time::Instant;\n");
    let broken = check_core(dir.path());
    let places: Vec<String> = broken
        .iter()
        .map(|b| {
            b.strip_prefix(&dir.path().display().to_string())
                .unwrap()
                .splitn(3, ':')
                .take(2)
                .collect::<Vec<_>>()
                .join(":")
        })
        .collect();
    let want = [
        "/backends/nix/a.rs:1",
        "/backends/ssh/a.rs:2",
        "/layers/a.rs:1",
        "/store/sqlite.rs:1",
        "/types/a.rs:1",
    ];
    assert_eq!(places, want, "{broken:#?}");
}
