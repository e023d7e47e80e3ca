//! The binary `eddy`: serve, and every command of a client.

use std::process::ExitCode;

fn main() -> ExitCode {
    eddy::cli::main()
}
