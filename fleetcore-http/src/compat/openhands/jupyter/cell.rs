//! What a cell has said.

use jupyter_protocol::{JupyterMessageContent, Media, MediaType};

/// Output of a cell, in the order it came.
#[derive(Debug, Default)]
pub(super) struct Said {
    text: String,
    any: bool,
    pub(super) images: Vec<String>,
    too_much: bool,
}

/// More text than any client reads; the rest is dropped.
const TEXT_MAX: usize = 64 << 20;

impl Said {
    /// Takes one message of the kernel.
    pub(super) fn take(&mut self, content: &JupyterMessageContent) {
        match content {
            JupyterMessageContent::StreamContent(stream) => self.push(&stream.text),
            JupyterMessageContent::ExecuteResult(result) => self.media(&result.data),
            JupyterMessageContent::DisplayData(display) => self.media(&display.data),
            JupyterMessageContent::ErrorOutput(error) => self.push(&error.traceback.join("\n")),
            _ => {}
        }
    }

    fn media(&mut self, media: &Media) {
        for kind in &media.content {
            match kind {
                MediaType::Plain(text) => self.push(text),
                MediaType::Png(data) => {
                    self.any = true;
                    let data: String = data.split_ascii_whitespace().collect();
                    self.images.push(format!("data:image/png;base64,{data}"));
                }
                _ => {}
            }
        }
    }

    fn push(&mut self, text: &str) {
        self.any = true;
        if self.text.len() + text.len() > TEXT_MAX {
            self.too_much = true;
        } else {
            self.text.push_str(text);
        }
    }

    /// All of it, as the original shows it.
    pub(super) fn text(&self) -> String {
        if !self.any || self.text.is_empty() {
            return "[Code executed successfully with no output]".to_owned();
        }
        let mut text = without_colours(&self.text).trim_end().to_owned();
        if self.too_much {
            text.push_str("\n[... Observation truncated due to length ...]");
        }
        text
    }

    /// What there is, when the cell did not end by itself.
    pub(super) fn so_far(&self) -> String {
        without_colours(&self.text).trim_end().to_owned()
    }
}

/// Without sequences for colours of up to three numbers; those of 24 bits have more, and stay as in the original.
fn without_colours(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\x1b') {
        clean.push_str(before);
        match colour(after) {
            Some(after) => rest = after,
            None => {
                clean.push('\x1b');
                rest = after;
            }
        }
    }
    clean.push_str(rest);
    clean
}

/// What follows `[ digits (; digits){0,2} m`.
fn colour(text: &str) -> Option<&str> {
    let (inside, after) = text.strip_prefix('[')?.split_once('m')?;
    let numbers = inside.split(';');
    let good = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
    (numbers.clone().count() <= 3 && numbers.clone().all(good)).then_some(after)
}

#[cfg(test)]
mod tests {
    use jupyter_protocol::{ErrorOutput, StreamContent};

    use super::*;

    #[test]
    fn text_is_cleaned_as_in_the_original() {
        let mut said = Said::default();
        assert_eq!(said.text(), "[Code executed successfully with no output]");
        let text = "\x1b[31mred\x1b[0m \x1b[38;2;1;2;3mtrue\x1b[0m \x1b[K\x1b[mx \n\n";
        said.take(&StreamContent { text: text.to_owned(), ..StreamContent::default() }.into());
        assert_eq!(said.text(), "red \x1b[38;2;1;2;3mtrue \x1b[K\x1b[mx");
        let error =
            ErrorOutput { ename: "E".into(), evalue: "v".into(), traceback: vec!["a".into(), "b".into()] };
        said.take(&error.into());
        assert!(said.text().ends_with("\n\na\nb"), "{}", said.text());
    }
}
