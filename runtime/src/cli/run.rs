//! `chaski run`.
