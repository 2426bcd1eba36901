//! The one binary: a mode for each role, the embedded cluster, the ledger, the demo and a look into files.
//!
//! What enters: a command line. What leaves: an exit status: 0 done, 1 failed, 2 a wrong command line.
//! What may be lost: see the mode that was asked for.

mod allocator;
mod cli;
mod demo;
mod embedded;
mod fetch;
mod inspect;
mod ledger;
mod modes;
mod table;

fn main() -> std::process::ExitCode {
    cli::main()
}
