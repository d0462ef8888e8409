//! Progress of a copy, on stderr of a terminal.

use fleetcore::ByteStream;
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};

use crate::error::stderr_is_terminal;

/// A bar, or nothing when nobody would see it.
#[derive(Clone, Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar for `total` bytes; without a total, a counter.
    pub(crate) fn new(quiet: bool, total: Option<u64>, what: &str) -> Self {
        if quiet || !stderr_is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let (bar, template) = match total {
            Some(n) => (
                ProgressBar::new(n),
                "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
            ),
            None => (ProgressBar::new_spinner(), "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}"),
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(what.to_owned());
        Self(bar)
    }

    /// The same bytes, counted.
    pub(crate) fn count(&self, data: ByteStream) -> ByteStream {
        let bar = self.0.clone();
        data.inspect(move |part| {
            if let Ok(part) = part {
                bar.inc(part.len() as u64);
            }
        })
        .boxed()
    }

    /// Bytes so far.
    pub(crate) fn done(&self) -> u64 {
        self.0.position()
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
