//! Plugins: WebAssembly components that offer tools, each call in a sandbox of its own.
//!
//! A plugin's folder holds a [`manifest`] (what it asks for) and a component. [`permissions`] intersects the
//! request with what the run grants, [`load`] turns the component into code once, [`sandbox`] runs one call
//! in a fresh instance, and [`host`] ties them to the [`Tool`](crate::tools::Tool)s that agents see.
//!
//! Invariant: a plugin reaches nothing that its manifest does not ask for and the operator did not grant,
//! and however a call ends, it ends in time and the process lives on.

pub mod error;
pub mod origin;
pub mod manifest;
pub mod grant;
pub mod http;
pub mod permissions;
mod contract;
pub mod lock;
pub mod load;
pub mod sandbox;
pub mod host;
pub mod catalog;
pub mod build;
pub mod template;
pub mod case;
