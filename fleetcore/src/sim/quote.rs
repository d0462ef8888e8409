//! Quoting for POSIX shells: for display, and for the few backends whose transport takes only a command line.

use std::borrow::Cow;

/// One word that a POSIX shell reads back as exactly `word` (IEEE Std 1003.1, Shell Command Language, 2.2.2).
pub(crate) fn quote(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', "'\\''")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_shell_reads_back_the_same_word(word in "[^\0]{0,24}") {
            let out = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(&word))])
                .output()
                .unwrap();
            prop_assert_eq!(String::from_utf8(out.stdout).unwrap(), word);
        }
    }
}
