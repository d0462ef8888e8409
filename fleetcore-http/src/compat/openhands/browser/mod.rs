//! Browser actions: an installed Chromium, driven over the DevTools protocol through a pipe.

mod act;
mod bind;
mod cdp;
mod chromium;
mod code;
mod files;
mod keys;
mod look;
mod plugin;
mod snapshot;
mod tabs;
mod text;
mod tree;

pub(super) use plugin::{Browser, NONE};
