//! Tab-separated values: one line per row, whatever is in the values.

/// A line. Characters that would break it are escaped as in Rust (`\t`, `\n`).
pub(super) fn line(fields: &[String]) -> String {
    let mut text = fields.iter().map(|f| escape(f)).collect::<Vec<_>>().join("\t");
    text.push('\n');
    text
}

fn escape(field: &str) -> String {
    if field.is_empty() {
        return "-".to_owned();
    }
    let mut out = String::with_capacity(field.len());
    for c in field.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.extend(c.escape_debug()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_break_its_line() {
        let fields = ["a\tb".to_owned(), "c\nd\\".to_owned(), String::new(), "ü".to_owned()];
        assert_eq!(line(&fields), "a\\tb\tc\\nd\\\\\t-\tü\n");
    }
}
