//! `chaski model`.
