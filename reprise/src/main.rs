//! The one binary: a mode for each role, the embedded cluster, GoReplay's command line, the ledger, the
//! demo and a look into files.
//!
//! What enters: a command line. What leaves: an exit status: 0 done, 1 failed, 2 a wrong command line.
//! What may be lost: see the mode that was asked for.

mod cli;
mod demo;
mod embedded;
mod fetch;
mod gor;
mod inspect;
mod ledger;
mod load;
mod modes;
mod table;

/// Requests are made on one thread and freed on another, and large bodies come and go. The C library's allocator asked
/// the system for their pages anew each time: half of the CPU time of shipping 10 KB bodies.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
