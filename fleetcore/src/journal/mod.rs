//! Output of one command: a bounded ring in memory, the durable log behind it, any number of readers.

mod reader;
mod ring;
#[cfg(feature = "sqlite")]
pub(crate) mod spool;

pub use reader::JournalStream;
pub(crate) use ring::Journal;

#[cfg(test)]
mod tests;
