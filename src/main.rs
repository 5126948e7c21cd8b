//! The binary: everything it does lives in the library, so that tests run the very same program.

use std::process::ExitCode;

fn main() -> ExitCode {
    gharts_listener::cli::main()
}
