//! `chaski plugin`.
