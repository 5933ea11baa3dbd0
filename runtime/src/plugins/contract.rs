//! The plugin contract as Rust types, generated from `plugins/wit`.

#![allow(missing_docs, clippy::pedantic)] // generated

wasmtime::component::bindgen!({
    path: "../plugins/wit",
    world: "plugin",
    exports: { default: async },
});
