//! OpenHands' runtime: the server inside the sandbox of an AI coding agent, which runs its actions one after another.
//!
//! What deviates from the original, and which of its defects are mended, is in `README.md` beside this file.

mod archive;
mod edit;
#[cfg(test)]
mod file_goldens;
mod files;
mod list;
mod observation;
mod viewer;
mod shell;
