//! `chaski schema`.
