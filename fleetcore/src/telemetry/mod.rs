//! Measurements of hosts over time.
//!
//! [`History`] is the data: one host at falling resolution, in bounded memory. [`Recorder`] takes samples of all hosts,
//! puts them into a [`MetricsStore`](crate::MetricsStore) in batches, and answers questions.

mod history;
mod recorder;

pub use history::{History, thin};
pub use recorder::Recorder;
