//! Models: the catalog, where their files are, and how they get there.

pub mod catalog;
pub mod store;
pub mod pull;
pub mod room;
pub mod licence;
