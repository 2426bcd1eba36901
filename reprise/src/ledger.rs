//! `reprise ledger`: the books of the whole cluster.
//!
//! What enters: the ledgers of the listeners, which know the end of each of their exchanges. What leaves: a table or
//! JSON, and whether the books balance. What may be lost: the books of a listener that does not answer; it is named,
//! and the exit status is 1.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use reprise_node::Health;
use reprise_node::membership::{Etcd, EtcdSettings, Role};
use reprise_traffic::ledger::LedgerReport;
use serde_json::json;

use crate::{fetch, table};

const EXAMPLES: &str = "\
Examples:
  reprise ledger --etcd http://etcd-1:2379
      what became of every exchange of every listener in the cluster
  reprise ledger --admin 127.0.0.1:28490 --json
      one node's books, as JSON";

/// What became of every exchange, and whether the books balance
///
/// Exits with 1 where they do not, or where a listener does not answer.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LedgerArgs {
    /// Ask all listeners that are members in etcd at this endpoint, http://HOST:PORT; repeatable [default: none]
    #[arg(long, value_name = "URL", required_unless_present = "admin")]
    etcd: Vec<String>,
    /// Ask the node with this admin port; repeatable; instead of --etcd [default: none]
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "etcd")]
    admin: Vec<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: LedgerArgs) -> anyhow::Result<ExitCode> {
    let admins = match args.admin.is_empty() {
        false => args.admin,
        true => listeners(args.etcd).await?,
    };
    let mut reports: Vec<LedgerReport> = Vec::new();
    let mut silent = Vec::new();
    for admin in admins {
        match fetch::page(&admin, "/ledger").await.and_then(|body| {
            serde_json::from_slice(&body).with_context(|| format!("read the ledger of {admin}"))
        }) {
            Ok(report) => reports.push(report),
            Err(error) => silent.push(format!("{error:#}")),
        }
    }
    for error in &silent {
        eprintln!("reprise: {error}");
    }
    // Relays and replayers know what passed through them; only a listener knows what there was.
    let own = |report: &&LedgerReport| report.role != "relay" && report.role != "replayer";
    let balances = reports
        .iter()
        .filter(own)
        .flat_map(|r| &r.epochs)
        .all(|e| e.residue() == 0);
    if args.json {
        let shown = json!({ "balances": balances && silent.is_empty(), "nodes": reports });
        println!(
            "{}",
            serde_json::to_string_pretty(&shown).context("render the ledger")?
        );
    } else {
        print!("{}", table::ledgers(&reports));
    }
    Ok(if balances && silent.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn listeners(endpoints: Vec<String>) -> anyhow::Result<Vec<String>> {
    let etcd = Etcd::connect(&EtcdSettings { endpoints }, Health::new()).await?;
    let members = etcd.watch_members(Role::Listener).await?;
    let members = members.borrow().clone();
    if members.is_empty() {
        bail!("no listener is a member of the cluster");
    }
    members
        .iter()
        .map(|(id, member)| {
            member
                .admin
                .clone()
                .with_context(|| format!("listener {id} has no admin port"))
        })
        .collect()
}
