//! `reprise gor`: GoReplay's command lines, as they are.
//!
//! What enters: the words behind `gor`, or behind the program where it is called by that name. What leaves: options for
//! whoever runs them, help, or one line that says what to change. What may be lost: nothing; no flag is passed over
//! without a word.

mod assembly;
mod dry_run;
mod engine;
mod file_server;
mod flags;
mod help;
mod kafka;
mod limit;
#[cfg(test)]
mod migration;
mod number;
mod options;
mod place;
mod print_config;
mod raw;
mod rule;
mod sources;
mod stats;
mod summary;
mod syntax;
mod targets;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use reprise_node::ListenAddress;

use crate::cli::Work;
use options::Options;
use syntax::UsageError;

/// The status of a command line that makes no sense.
const WRONG: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  reprise gor --input-raw :8000 --output-http http://staging:8080
      replay what reaches port 8000 to another server
  reprise gor --input-file requests.gor --output-http http://staging:8080
      replay a recording at production's pace
  reprise gor -h
      all flags; a link to reprise by the name of gor takes them too";

/// Run GoReplay's command lines as they are
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, disable_help_flag = true)]
pub(crate) struct GorArgs {
    /// GoReplay's flags, see reprise gor -h
    #[arg(
        value_name = "FLAGS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<OsString>,
}

/// What was asked for.
#[derive(Debug)]
enum Asked {
    Help,
    Version,
    FileServer(ListenAddress),
    Replay(Box<Options>),
}

/// A mode that starts, or is over with a status.
pub(crate) enum Start {
    Ended(ExitCode),
    Go(Run),
}

/// What is to be run, and how it logs.
pub(crate) struct Run {
    pub(crate) work: Work,
    pub(crate) log: Option<String>,
    pub(crate) log_format: Option<reprise_node::telemetry::LogFormat>,
    pub(crate) usual_log: &'static str,
}

/// The words of this mode where the program, or its first argument, is `gor`: clap would take some for its own.
pub(crate) fn called(args: &[OsString]) -> Option<GorArgs> {
    let program = args.first().map(Path::new).and_then(Path::file_name);
    let behind = match (program == Some(OsStr::new("gor")), args.get(1)) {
        (true, _) => 1,
        (false, Some(mode)) if mode == "gor" => 2,
        _ => return None,
    };
    Some(GorArgs {
        words: args[behind..].to_vec(),
    })
}

/// Reads the words, prints what is to be printed at once, and says what is left to do.
pub(crate) fn start(args: GorArgs) -> Start {
    let program = program();
    let asked = match ask(args.words) {
        Ok(asked) => asked,
        Err(error) => {
            eprintln!("{program}: {error}\nsee {program} -h");
            return Start::Ended(ExitCode::from(WRONG));
        }
    };
    match asked {
        Asked::Help => print(&help::text(&program, help::width())),
        Asked::Version => print(concat!("reprise ", env!("CARGO_PKG_VERSION"), "\n")),
        Asked::FileServer(address) => {
            return Start::Go(Run {
                work: Work::new(file_server::run(address)),
                log: None,
                log_format: None,
                usual_log: "warn",
            });
        }
        Asked::Replay(options) if options.globals.print_config => {
            return match print_config::text(&options) {
                Ok(text) => {
                    print(&text);
                    Start::Ended(ExitCode::SUCCESS)
                }
                Err(error) => {
                    eprintln!("{program}: {error:#}");
                    Start::Ended(ExitCode::FAILURE)
                }
            };
        }
        Asked::Replay(options) if options.file_input.dry_run => {
            return Start::Ended(match dry_run::run(&options) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{program}: {error:#}");
                    ExitCode::FAILURE
                }
            });
        }
        Asked::Replay(options) => {
            for note in &options.notes {
                eprintln!("{program}: {note}");
            }
            return Start::Go(Run {
                log: options.globals.log.clone(),
                log_format: Some(options.globals.log_format),
                usual_log: match options.globals.verbose {
                    0 => "warn",
                    1 => "info",
                    2 => "debug",
                    _ => "trace",
                },
                work: match engine::prepare(*options) {
                    Ok(work) => work,
                    Err(error) => {
                        eprintln!("{program}: {error:#}");
                        return Start::Ended(ExitCode::from(WRONG));
                    }
                },
            });
        }
    }
    Start::Ended(ExitCode::SUCCESS)
}

/// Whoever reads may have enough of it before the end.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// As it was called.
fn program() -> String {
    let program = std::env::args_os().next();
    let program = program.as_deref().map(Path::new).and_then(Path::file_name);
    match program == Some(OsStr::new("gor")) {
        true => "gor".to_owned(),
        false => "reprise gor".to_owned(),
    }
}

/// What the words ask for.
fn ask(words: Vec<OsString>) -> Result<Asked, UsageError> {
    let words = words
        .into_iter()
        .map(|word| {
            word.into_string()
                .map_err(|word| UsageError(format!("{word:?} is not UTF-8")))
        })
        .collect::<Result<Vec<String>, _>>()?;
    if words.first().is_some_and(|word| word == "file-server") {
        return file_server_asked(&words[1..]);
    }
    let all = syntax::read(&words)?;
    for given in &all {
        match given.flag.name {
            "help" if given.switch()? => return Ok(Asked::Help),
            "version" if given.switch()? => return Ok(Asked::Version),
            _ => {}
        }
    }
    assembly::options(&all).map(|options| Asked::Replay(Box::new(options)))
}

fn file_server_asked(words: &[String]) -> Result<Asked, UsageError> {
    match words {
        [word] if matches!(word.as_str(), "-h" | "--h" | "-help" | "--help") => Ok(Asked::Help),
        [address] => match address.parse() {
            Ok(address) => Ok(Asked::FileServer(address)),
            Err(_) => Err(UsageError(format!(
                "file-server {address:?}: write :PORT, HOST:PORT or [IPV6]:PORT"
            ))),
        },
        [] => Err(UsageError(
            "file-server: the address is missing; write file-server :8000".to_owned(),
        )),
        [_, more, ..] => Err(UsageError(format!(
            "file-server takes one address; {more:?} is too much"
        ))),
    }
}
