//! The `muster` binary: see the library for everything.

use std::process::ExitCode;

fn main() -> ExitCode {
    muster::cli::main()
}
