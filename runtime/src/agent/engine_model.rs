//! The model in this process.

use std::sync::Arc;

use chaski_engine::Engine;

/// The engine as a [`super::model::ChatModel`].
pub struct EngineModel {
    /// Its name in the catalog or the configuration.
    pub name: String,
    /// The engine.
    pub engine: Arc<Engine>,
}
