//! Whether a text is more than one command.
//!
//! The original refuses several commands on lines of their own, as far as its parser gets. Callers rely on the rest
//! being accepted, so a text is only refused that this grammar reads completely and that has none of the constructs
//! the original's cannot read.

use std::{
    ops::{ControlFlow, Range},
    time::{Duration, Instant},
};

use tree_sitter::{Node, ParseOptions, Parser, Tree};

/// No more time than this is spent on reading a text: it is only advice to the agent.
const LIMIT: Duration = Duration::from_secs(1);

/// What a text is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// Comments or nothing.
    Nothing,
    /// One command, or something nobody can say of.
    One,
    /// These commands, as they stand there.
    Several(Vec<String>),
}

/// Reads `text`.
pub(super) fn check(text: &str) -> Parsed {
    if text.trim() == "\\" {
        return Parsed::Nothing; // an escaped line end
    }
    let Some(tree) = parse(text) else { return Parsed::One };
    let root = tree.root_node();
    let items = items(root, text);
    if items.commands == 0 && !root.has_error() {
        return Parsed::Nothing;
    }
    if items.ranges.len() < 2 || root.has_error() || beyond_the_original(&tree, text) {
        return Parsed::One;
    }
    let item = |range: &Range<usize>| {
        text.get(range.clone()).unwrap_or_default().replace('\r', "").trim_end().to_owned()
    };
    Parsed::Several(items.ranges.iter().map(item).collect())
}

fn parse(text: &str) -> Option<Tree> {
    let mut parser = Parser::new();
    parser.set_language(&tree_sitter_bash::LANGUAGE.into()).ok()?;
    let began = Instant::now();
    let mut late = |_: &tree_sitter::ParseState| {
        if began.elapsed() > LIMIT { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let bytes = text.as_bytes();
    let mut read = |at: usize, _| bytes.get(at..).unwrap_or_default();
    parser.parse_with_options(&mut read, None, Some(ParseOptions::new().progress_callback(&mut late)))
}

struct Items {
    ranges: Vec<Range<usize>>,
    commands: usize,
}

/// Commands that begin on a line of their own. Comments belong to the command before them; those before the first
/// one count as one.
fn items(root: Node<'_>, text: &str) -> Items {
    let mut ranges: Vec<Range<usize>> = vec![];
    let mut commands = 0;
    let mut cursor = root.walk();
    for child in root.children(&mut cursor) {
        let (start, end) = (child.start_byte(), child.end_byte());
        let comment = child.kind() == "comment";
        let new_line = ranges.last().is_none_or(|last| {
            let between = text.get(last.end..start).unwrap_or_default();
            between.contains('\n') || text.get(..last.end).is_some_and(|t| t.ends_with('\n'))
        });
        let fresh = child.is_named() && !comment && (new_line || commands == 0);
        if child.is_named() && !comment {
            commands += 1;
        }
        match ranges.last_mut() {
            Some(last) if !fresh => {
                let blank = text.get(start..end).is_none_or(|t| t.trim().is_empty());
                last.end = if blank { last.end } else { end };
            }
            _ if child.is_named() => match after_assignments(child, text) {
                Some(gap) => {
                    ranges.extend([start..gap.start, gap.end..end]);
                    commands += 1;
                }
                None => ranges.push(start..end),
            },
            _ => {}
        }
    }
    Items { ranges, commands }
}

/// The gap between assignments and a command on the next line: two commands, which the grammar takes for one.
fn after_assignments(node: Node<'_>, text: &str) -> Option<Range<usize>> {
    let name = node.child_by_field_name("name").filter(|_| node.kind() == "command")?;
    let gap = name.prev_sibling()?.end_byte()..name.start_byte();
    let between = text.get(gap.clone())?.replace("\\\n", "");
    between.contains('\n').then_some(gap)
}

/// Whether the grammar is known to misread a here-document that begins here: where more of the pipeline follows it, or
/// a line that only looks like its end.
fn misread(heredoc: Node<'_>, text: &str) -> bool {
    let rest = text.get(heredoc.start_byte()..).unwrap_or_default();
    let line = rest.lines().next().unwrap_or_default().trim_end();
    let mut cursor = heredoc.walk();
    let end = heredoc.children(&mut cursor).find(|child| child.kind() == "heredoc_end");
    let indented = end.is_some_and(|end| {
        !rest.starts_with("<<-") && !text.get(..end.start_byte()).is_some_and(|before| before.ends_with('\n'))
    });
    line.ends_with('|') || line.ends_with("&&") || indented
}

/// Whether there is anything in it that the original's parser gives up on.
fn beyond_the_original(tree: &Tree, text: &str) -> bool {
    let mut cursor = tree.walk();
    loop {
        let node = cursor.node();
        let said = || text.get(node.byte_range()).unwrap_or_default();
        let beyond = match node.kind() {
            "arithmetic_expansion" | "case_statement" | "c_style_for_statement" | "array" => true,
            "test_command" => !said().starts_with("[ "),
            "for_statement" => said().starts_with("select"),
            // Errors, which this grammar lets pass: `print(x)`, and the end of a case outside of any.
            "subshell" => node.parent().is_some_and(|parent| parent.kind() == "command"),
            ";;" => node.parent().is_some_and(|parent| parent.kind() == "program"),
            "heredoc_redirect" => misread(node, text),
            // Words that only stand in compound commands, so that this is none.
            "command_name" => matches!(
                said(),
                "time"
                    | "coproc"
                    | "select"
                    | "in"
                    | "fi"
                    | "done"
                    | "esac"
                    | "then"
                    | "else"
                    | "elif"
                    | "do"
                    | "}"
            ),
            "heredoc_start" => said().contains(['\'', '"', '\\']),
            _ => false,
        };
        if beyond {
            return true;
        }
        if cursor.goto_first_child() || cursor.goto_next_sibling() {
            continue;
        }
        loop {
            if !cursor.goto_parent() {
                return false;
            }
            if cursor.goto_next_sibling() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_is_one_however_long() {
        for text in [
            "ls",
            "echo a; echo b",
            "echo a && echo b || echo c",
            "a | b | c",
            "sleep 1 & echo 2",
            "for i in 1 2; do\n  echo $i\ndone",
            "if true; then\n echo\nfi",
            "f() {\n echo\n}",
            "cat <<EOF\na\nb\nEOF",
            "cat <<EOF | wc -l\na\nEOF",
            "echo one \\\n  two",
            "echo a &&\necho b",
            "echo \"a\n\nb\"",
            "echo 1\n# note",
            "echo x # trailing",
            "[ -f x ] && echo y",
        ] {
            assert_eq!(check(text), Parsed::One, "{text:?}");
        }
        for text in ["", "# nothing", "# a\n# b", "\\\n"] {
            assert_eq!(check(text), Parsed::Nothing, "{text:?}");
        }
    }

    #[test]
    fn several_are_listed_as_they_stand() {
        for (text, expect) in [
            ("echo a\necho b", vec!["echo a", "echo b"]),
            ("echo a\r\necho b", vec!["echo a", "echo b"]),
            ("echo a\n\n\necho b   \necho c", vec!["echo a", "echo b", "echo c"]),
            ("if true; then\n  echo yes\nfi\necho more", vec!["if true; then\n  echo yes\nfi", "echo more"]),
            ("sleep 1 &\necho 2", vec!["sleep 1 &", "echo 2"]),
            ("echo 1;\necho 2; echo 3", vec!["echo 1;", "echo 2; echo 3"]),
            ("f() {\n echo in f\n}\nf", vec!["f() {\n echo in f\n}", "f"]),
            ("# note\necho 1", vec!["# note", "echo 1"]),
            ("# note\n# two\necho 1\n# x\necho 2", vec!["# note\n# two", "echo 1\n# x", "echo 2"]),
            ("cat <<EOF\nx\nEOF\necho after", vec!["cat <<EOF\nx\nEOF", "echo after"]),
            ("echo 日本\n[ -f x ]", vec!["echo 日本", "[ -f x ]"]),
        ] {
            let expect = expect.into_iter().map(str::to_owned).collect();
            assert_eq!(check(text), Parsed::Several(expect), "{text:?}");
        }
    }

    /// What the original's splitter says of many texts: its items where there are several, else one.
    #[test]
    fn the_original_agrees() {
        // Read by the original only, so that more is accepted here; or the same items with another line end.
        const OTHERWISE: &[&str] =
            &["cat <<A", "a <> b", "[x]", "{x", "a#b", "`a`", "{\"a\"", "[1, 2]", "<<A", "a\\\n", "\\\na"];
        let all: Vec<(String, Vec<String>)> =
            serde_json::from_str(include_str!("tests/splits.json")).unwrap();
        let mut wrong = Vec::new();
        for (text, items) in &all {
            let found = match check(text) {
                Parsed::Several(found) => found,
                _ => vec![],
            };
            let items: Vec<String> = items.iter().map(|item| item.replace('\r', "")).collect();
            if found != items && !OTHERWISE.iter().any(|start| text.starts_with(start)) {
                wrong.push(format!("{text:?}\n  {items:?}\n  {found:?}"));
            }
        }
        assert!(wrong.is_empty() && all.len() > 700, "{}", wrong.join("\n"));
    }

    #[test]
    fn what_the_original_cannot_read_is_accepted() {
        for text in [
            "echo $((1 + 2))\nls",
            "case x in\n x) echo;;\nesac\necho more",
            "select x in a b; do break; done\nls",
            "coproc cat\nls",
            "time ls\nls",
            "cat <<'EOF'\nx\nEOF\nls",
            "cat <<\\EOF\nx\nEOF\nls",
            "a=(1 2)\nls",
            "for ((i=0; i<2; i++)); do echo; done\nls",
            "[[ a == b ]]\nls",
            "echo \"open\nls",
            "if true; then\nls",
            "fi\nls",
            "cat <<EOF\nx\nls",
            "x = 5\nprint(x)",
            "echo a;;\nls",
            "cat <<A |\nx\nA\ngrep y",
        ] {
            assert_eq!(check(text), Parsed::One, "{text:?}");
        }
    }
}
