//! `chaski doctor`.
