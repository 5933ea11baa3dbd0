//! Fetching a model: resumed, verified, never half there.

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Placeholder.
    #[error("{0}")]
    Unknown(String),
}
