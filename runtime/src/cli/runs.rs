//! `chaski runs`.
