//! The engine as others see it. One program, because each would link all of candle again.

mod tiny;
mod parity;
mod malformed;
mod serving;
mod smollm2;
