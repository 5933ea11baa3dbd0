//! The arithmetic that the forward pass spends its time in, and the only folder with `unsafe`.
//!
//! Weights are repacked once, at load, into panels of 16 rows ([`packed`]); activations are rounded to 8 bits
//! in blocks of 32 ([`activations`]); a matrix product is then integer dot products with one scale a block.
//! Weights that a file keeps as floating-point numbers stay so ([`float`]).
//! Each kernel exists in a portable form, which is the specification, and in forms for wider machines that
//! [`cpu`] picks at run time. All give the same numbers up to the order of f32 sums.
//!
//! What takes an instruction set is for this crate alone: a set that the processor does not have must not be
//! called, and only [`cpu`] knows.

#![allow(unsafe_code)] // see the module docs: this folder is where it lives
#![allow(clippy::needless_range_loop)] // one index walks several arrays at once

pub(crate) mod threads;
pub(crate) mod simd;
pub(crate) mod rows;
mod parallel;
pub(crate) mod lines;
pub mod packed;
pub mod float;
pub(crate) mod activations;
pub(crate) mod cpu;
pub mod matrix;
pub(crate) mod matmul;
pub(crate) mod linear;
pub(crate) mod kv_block;
pub(crate) mod attention;
pub(crate) mod project;
pub(crate) mod paged;
pub mod cuda;
