//! `chaski license`.
