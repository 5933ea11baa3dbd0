//! A unified diff as hunks.
