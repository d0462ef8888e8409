//! What a cell has said.

use jupyter_protocol::{JupyterMessageContent, Media, MediaType};

/// Output of a cell, in the order it came.
#[derive(Debug, Default)]
pub(super) struct Said {
    text: String,
    any: bool,
    pub(super) images: Vec<String>,
    too_much: bool,
    /// Bytes of the images.
    shown: usize,
    /// How many there was no room for, and their bytes.
    left_out: (usize, usize),
}

/// More text than any client reads; the rest is dropped.
const TEXT_MAX: usize = 64 << 20;
/// The same for images, as they are sent: some hundred plots.
const IMAGES_MAX: usize = 32 << 20;

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
                    if self.shown + data.len() > IMAGES_MAX {
                        self.left_out = (self.left_out.0 + 1, self.left_out.1 + data.len());
                        continue;
                    }
                    let data: String = data.split_ascii_whitespace().collect();
                    self.shown += data.len();
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
        if self.left_out.0 == 0 && (!self.any || self.text.is_empty()) {
            return "[Code executed successfully with no output]".to_owned();
        }
        let mut text = without_colours(&self.text).trim_end().to_owned();
        if self.too_much {
            text.push_str("\n[... Observation truncated due to length ...]");
        }
        if let (count @ 1.., bytes) = self.left_out {
            text.push_str(&format!(
                "\n[... {count} images of {bytes} bytes together left out: the images of a cell may have {} MiB ...]",
                IMAGES_MAX >> 20
            ));
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
    use jupyter_protocol::{DisplayData, ErrorOutput, StreamContent};

    use super::*;

    #[test]
    fn images_are_bounded_and_what_is_left_out_is_told() {
        let mut said = Said::default();
        let image = |bytes: usize| {
            let media = Media { content: vec![MediaType::Png("x".repeat(bytes))] };
            JupyterMessageContent::from(DisplayData { data: media, ..DisplayData::default() })
        };
        said.take(&image(1000));
        assert_eq!(said.text(), "[Code executed successfully with no output]");
        for _ in 0..5 {
            said.take(&image(10 << 20));
        }
        assert!(
            said.images.len() == 4 && said.images.iter().map(String::len).sum::<usize>() < IMAGES_MAX + 200
        );
        assert!(said.text().contains("[... 2 images of 20971520 bytes together left out"), "{}", said.text());
        said.take(&image(1000));
        assert_eq!(said.images.len(), 5, "a small one still fits");
    }

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
