//! Progress of a launch without the spinner's noise.

/// Longest line that is kept.
const LINE_MAX_BYTES: usize = 1024;

/// Makes lines of what the client writes for a terminal: messages followed by a spinner, percentages behind `\r`.
#[derive(Debug, Default)]
pub(super) struct Progress {
    line: Vec<u8>,
    escape: Escape,
    told: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Escape {
    #[default]
    None,
    Begun,
    Sequence,
}

impl Progress {
    /// Takes a piece; gives what is new in it.
    pub(super) fn push(&mut self, data: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in data {
            match (self.escape, *byte) {
                (Escape::Begun, b'[') => self.escape = Escape::Sequence,
                (Escape::Begun, _) => self.escape = Escape::None,
                (Escape::Sequence, 0x40..=0x7e) => {
                    self.escape = Escape::None;
                    self.end_line(&mut lines);
                }
                (Escape::Sequence, _) => {}
                (Escape::None, 0x1b) => self.escape = Escape::Begun,
                // The spinner turns: the message before it is complete.
                (Escape::None, 0x08) => {
                    self.line.pop();
                    self.tell(&mut lines);
                }
                (Escape::None, b'\r' | b'\n') => self.end_line(&mut lines),
                (Escape::None, b'%') => {
                    self.line.push(b'%');
                    self.tell(&mut lines);
                }
                (Escape::None, byte) if self.line.len() < LINE_MAX_BYTES => self.line.push(byte),
                (Escape::None, _) => {}
            }
        }
        lines
    }

    /// What is left at the end.
    pub(super) fn finish(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        self.end_line(&mut lines);
        lines
    }

    fn end_line(&mut self, lines: &mut Vec<String>) {
        self.tell(lines);
        self.line.clear();
    }

    fn tell(&mut self, lines: &mut Vec<String>) {
        let text = String::from_utf8_lossy(&self.line);
        // Two blanks and one frame of the spinner.
        let spun = text.strip_suffix(['|', '/', '-', '\\']).filter(|t| t.ends_with("  "));
        let text = spun.unwrap_or(&text).trim();
        if !text.is_empty() && text != self.told {
            text.clone_into(&mut self.told);
            lines.push(text.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_once_and_the_spinner_not_at_all() {
        let raw = "\x1b[2K\x1b[0A\x1b[0ECreating dev1  \x08|\x08/\x08-\x08\\\x08 \x1b[2K\x1b[0A\x1b[0E\
                   \rRetrieving image: 3%\rRetrieving image: 3%\rRetrieving image: 42%\x1b[2K\x1b[0A\x1b[0E\
                   Starting dev1  \x08|\x08 \x1b[2K\x1b[0A\x1b[0ELaunched: dev1\n";
        let want = [
            "Creating dev1",
            "Retrieving image: 3%",
            "Retrieving image: 42%",
            "Starting dev1",
            "Launched: dev1",
        ];
        for size in [1, 3, raw.len()] {
            let mut progress = Progress::default();
            let mut lines = Vec::new();
            for piece in raw.as_bytes().chunks(size) {
                lines.extend(progress.push(piece));
            }
            lines.extend(progress.finish());
            assert_eq!(lines, want, "in pieces of {size}");
        }
    }

    #[test]
    fn the_spinner_of_old_releases_is_noise_too() {
        let wipe = format!("\r{}\r", " ".repeat(80));
        let mut progress = Progress::default();
        let mut lines = progress.push(format!("{wipe}Starting a  \x08|\x08/\x08 {wipe}").as_bytes());
        lines.extend(progress.finish());
        assert_eq!(lines, ["Starting a"]);
    }
}
