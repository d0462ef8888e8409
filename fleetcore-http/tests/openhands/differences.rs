//! Recordings of defects, which are answered otherwise on purpose.

/// Name of the recorded case, or its beginning with a `*`; number of the defect in section 12 of the contract; what is
/// different.
pub(crate) static ALL: &[(&str, u8, &str)] = &[
    ("escaped-*", 1, "the command runs byte for byte"),
    ("trailing-semicolon", 1, "no echo is left in the output"),
    ("bash-whoami-home", 1, "no history expansion in `$-`; the home is the test's"),
    ("history-expansion", 1, "the exit code is that of the failed expansion"),
    ("literal-tab-swallowed", 1, "a tabulator is a tabulator"),
    ("tmux-key-name-*", 1, "a word is a word, not a key"),
    ("comment-only", 23, "no output and exit code 0"),
    ("multi-trailing-comment-kept", 1, "no echo is left in the output"),
    ("unparsable-case-multi-lines-run", 1, "no echo is left in the output"),
    ("clear-command", 5, "nothing was lost, so nothing says so"),
    ("output-then-clear", 5, "nothing was lost, so nothing says so"),
    ("new-command-after-silent-finish", 5, "what was left over comes without the echo"),
    ("input-after-silent-finish*", 5, "input is no command"),
    ("hidden-soft-timeout", 21, "hidden is reported"),
    ("exit-*", 2, "the shell is started again"),
    ("after-exit*", 2, "the shell is started again"),
    ("hd-unquoted-*", 1, "a here-document is not repeated"),
    ("hd-tab-in-body*", 1, "a tabulator is a tabulator"),
    ("hd-blank-line-breaks-echo-strip", 1, "no echo is left in the output"),
    ("blank-line-in-quoted-arg", 1, "no echo is left in the output"),
    ("read-*-is-binary-error", 6, "media are data URLs by whatever path"),
    ("read-binary-pdf-absolute", 6, "media are data URLs by whatever path"),
    ("read-nul-relative", 6, "binary is binary by whatever path"),
    ("view-dir-with-space-breaks", 7, "no shell lists the directory"),
    ("view-latin1-detected", 8, "bytes that are not edited stay"),
    ("insert-latin1", 8, "bytes that are not edited stay"),
    ("latin1-check", 8, "bytes that are not edited stay"),
    ("insert-check", 8, "mode and owner stay"),
    ("insert-after-unterminated-last-line", 8, "lines are not glued"),
    ("insert-unterminated-check", 8, "lines are not glued"),
    ("insert-symlink-replaces-link", 8, "links stay"),
    ("symlink-check", 8, "links stay"),
    ("str-replace-crlf-check", 8, "line ends stay"),
    ("write-crlf-check", 8, "line ends stay"),
    ("upload-filename-traversal*", 9, "only the last part of a file name counts"),
    ("upload-bad-zip-leftover", 9, "what is no zip does not stay behind"),
    ("download-file-gives-empty-zip", 11, "the file is in the zip"),
    ("download-dangling-symlink", 11, "it is left out"),
    ("download-pre-1980", 11, "the time is the earliest there is"),
    ("viewer-path-not-escaped", 13, "names are escaped"),
    ("mcp-second-update-has-no-effect", 16, "it has"),
    ("user-insert-*", 8, "mode and owner stay"),
    (
        "vscode-process-args",
        17,
        "no shell in between, and the token is in a file, which not everybody can read",
    ),
    ("auth-key-visible-to-shell", 17, "it is not"),
    ("info-idle-counts-from-action-start", 20, "from its end"),
];

/// Cases whose answer depends on the terminal, as the recordings' own notes say: which line is the first of those kept.
///
/// And the first line of the recorder's `/etc/shadow`.
static TERMINAL: &[&str] = &["out-over-history-limit", "user-read-bypasses-permissions"];

/// Whether a case is answered otherwise on purpose.
pub(crate) fn deliberate(session: &str, case: &str, marked: bool) -> bool {
    // Whole recordings of a shell that is beyond help (DEFECTS 2 and 4).
    if matches!(session, "bash-shell-exit" | "bash-broken-prompt") {
        return true;
    }
    marked
        || TERMINAL.contains(&case)
        || ALL.iter().any(|(name, ..)| match name.split_once('*') {
            Some((start, end)) => case.starts_with(start) && case.ends_with(end),
            None => *name == case,
        })
}
