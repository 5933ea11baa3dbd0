//! `chaski validate`.
