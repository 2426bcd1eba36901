//! `reprise inspect`: the requests in capture files and recordings.
//!
//! What enters: files, packed or not, of packets (pcap, pcapng) or of GoReplay's records (`.gor`); `-` is standard
//! input. What leaves: a line for each request on standard output as soon as it is complete, a summary for each
//! file on standard error. What may be lost: what can't be read or is no whole request; the summary counts it by
//! reason.

mod capture;
mod listing;
mod reasons;
mod recording;
mod row;
mod source;
mod summary;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use reprise_listener::packet::{VniFilter, VniRule};
use reprise_listener::reassembly::Ports;
use reprise_traffic::{Answer, Body, Head};

use listing::Listing;
use source::{Content, Source};
use summary::{Summary, Totals};

const EXAMPLES: &str = "\
Examples:
  reprise inspect --port 8080 shop.pcap
      a table of the requests to port 8080
  reprise inspect --json --responses shop.pcapng.gz requests.gor
      requests with their answers, one JSON object a line, of two files
  tcpdump -i lo -U -w - port 8080 | reprise inspect -
      requests as they happen";

/// Show the requests in capture files (pcap, pcapng) and recordings (.gor)
///
/// Files may be packed by gzip or zstd; what a file is, its content tells. Requests are listed as they complete, in order
/// within a connection. A summary on stderr counts what was read and each reason for leaving something out. Exits with
/// 1 where a file can't be read at all.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InspectArgs {
    /// Files to read; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only requests to this port; repeatable [default: HTTP is recognised on any port]
    #[arg(long, value_name = "N")]
    port: Vec<u16>,
    /// Look only into this VXLAN or GENEVE network, or with '!N' not into that one; repeatable [default: all]
    #[arg(long, value_name = "N")]
    vni: Vec<VniRule>,
    /// Show the answers too
    #[arg(long)]
    responses: bool,
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

/// What to look for in a file.
#[derive(Debug)]
struct Wanted {
    ports: Ports,
    vni: VniFilter,
    answers: bool,
}

/// A request as it was found in a file.
#[derive(Debug)]
struct Seen {
    /// Client and server, which recordings don't tell.
    ends: Option<(SocketAddr, SocketAddr)>,
    /// Its first byte on the wire, unix nanoseconds.
    at_ns: u64,
    head: Head,
    body: Body,
    answer: Option<Box<Answer>>,
}

pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let ports = match args.port.is_empty() {
        true => Ports::Any,
        false => Ports::only(&args.port),
    };
    let wanted = Wanted {
        ports,
        vni: args.vni.iter().copied().collect(),
        answers: args.responses,
    };
    let mut listing = Listing::new(args);
    match all(&args.files, &wanted, &mut listing) {
        // Whoever read the lines has enough of them.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(anyhow::Error::new(error).context("write to standard output")),
        Ok(0) => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(ExitCode::FAILURE),
    }
}

/// Goes through all files. Returns the number of those that can't be read; fails when the lines can't be written.
fn all(files: &[PathBuf], wanted: &Wanted, listing: &mut Listing) -> io::Result<u64> {
    let mut totals = Totals::default();
    for file in files {
        let name = file.display().to_string();
        let source = match source::open(file) {
            Ok(source) => source,
            Err(error) => {
                totals.unreadable += 1;
                summary::say(&format!("reprise: {name}: {error:#}\n"));
                continue;
            }
        };
        listing.begin(&name);
        let summary = one(&name, source, wanted, listing)?;
        listing.flush()?;
        totals.add(&summary);
        summary::say(&summary.to_string());
    }
    if files.len() > 1 {
        summary::say(&totals.to_string());
    }
    Ok(totals.unreadable)
}

fn one(name: &str, source: Source, wanted: &Wanted, listing: &mut Listing) -> io::Result<Summary> {
    let Source { content, progress } = source;
    let mut summary = Summary::new(name, progress);
    match content {
        Content::Capture(file) => {
            capture::requests(file, wanted, &mut summary, &mut |seen| listing.line(&seen))?;
        }
        Content::Recording(file) => {
            recording::requests(*file, wanted, &mut summary, &mut |seen| listing.line(&seen))?;
        }
    }
    summary.end();
    Ok(summary)
}
