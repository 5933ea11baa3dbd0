//! Plugins: WebAssembly components that offer tools, each call in a sandbox of its own.

pub mod manifest;
pub mod permissions;
pub mod load;
pub mod host;
pub mod sandbox;
pub mod catalog;
pub mod build;
