//! The plugin contract as Rust types, generated from `plugins/wit`.

#![allow(missing_docs, clippy::pedantic)] // generated

wasmtime::component::bindgen!({
    path: "../plugins/wit",
    world: "plugin-all",
    imports: {
        "chaski:plugin/http.send": async,
        "chaski:plugin/tools.call": async,
    },
    exports: { default: async },
});
