//! OpenHands' runtime: the server inside the sandbox of an AI coding agent, which runs its actions one after another.
//!
//! What deviates from the original, and which of its defects are mended, is in `README.md` beside this file.

mod observation;
mod shell;
