//! The binary `chaski`; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    chaski::cli::main()
}
