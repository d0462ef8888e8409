//! The server from outside: a real listener, real HTTP and WebSocket clients.

mod attach;
mod auth;
mod commands;
mod common;
mod document;
mod files;
mod output;
mod robust;
mod sessions;
