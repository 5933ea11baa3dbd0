//! The engine as others see it. One program, because each would link all of candle again.

mod tiny;
mod parity;
mod malformed;
mod checkpoint;
mod folder;
mod safetensors;
mod gptq;
mod context;
mod adapter;
mod inspect;
mod fuzz;
mod formats;
mod beside;
mod serving;
mod smollm2;
mod nll;
