//! `chaski display`.
