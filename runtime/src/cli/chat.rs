//! `chaski chat`.
