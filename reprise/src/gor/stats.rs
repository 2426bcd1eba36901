//! Counters while a run goes on: `--stats`, or `--output-http-stats`, `--output-tcp-stats` and the like.
//!
//! What enters: the books of the run. What leaves: lines on standard error, as GoReplay has them:
//! `NAME:latest,mean,max,count,count/second,gcount`. What may be lost: nothing; nobody waits for them.
//!
//! What is counted is an output's messages: `latest` of the last interval, `mean` and `max` of all intervals so far, `count`
//! of all since the last line, `gcount` of all since the start.

use std::time::Duration;

use reprise_traffic::ledger::EpochReport;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::options::{Options, Output};
use crate::embedded::Embedded;

/// GoReplay's lines come so often, where no flag says otherwise.
const USUAL: Duration = Duration::from_secs(5);

/// One output's counters.
#[derive(Debug)]
struct Gauge {
    name: &'static str,
    /// Its target.
    target: String,
    max: u64,
    /// Since the start.
    all: u64,
    lines: u64,
}

impl Gauge {
    /// The next line, by what there is by now.
    fn line(&mut self, now: u64, every: Duration) -> String {
        let latest = now - self.all;
        (self.all, self.max) = (now, self.max.max(latest));
        self.lines += 1;
        let mean = now / self.lines;
        let rate = (latest as f64 / every.as_secs_f64()).round();
        format!(
            "{}:{latest},{mean},{},{latest},{rate},{now}",
            self.name, self.max
        )
    }
}

/// Tells them until it is cancelled.
pub(super) fn tell(
    options: &Options,
    embedded: &Embedded,
    until: &CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let every = match options.http_output.stats {
        true => options.http_output.stats_interval,
        false => USUAL,
    };
    let gauges = gauges(options);
    let books = embedded.reporter();
    let task: Option<JoinHandle<()>> = (!gauges.is_empty())
        .then(|| {
            tokio::spawn(
                until
                    .clone()
                    .run_until_cancelled_owned(lines(gauges, every, books)),
            )
        })
        .map(|task| tokio::spawn(async move { drop(task.await) }));
    async move {
        if let Some(task) = task {
            // It ends when it is cancelled.
            let _ = task.await;
        }
    }
}

/// Of all outputs by `--stats`, of some by their own flag.
fn gauges(options: &Options) -> Vec<Gauge> {
    let all = options.globals.stats;
    let named = options.outputs.iter().zip(1..).filter_map(|(output, n)| {
        let (name, kind) = match output {
            Output::Http { .. } if all || options.http_output.stats => ("output_http", "http"),
            Output::Tcp { .. } if all || options.tcp_output.stats => ("output_tcp", "tcp"),
            Output::Ws { .. } if all || options.ws_output.stats => ("output_ws", "ws"),
            _ => return None,
        };
        Some((name, format!("gor/{n}-{kind}")))
    });
    let gauge = |(name, target)| Gauge {
        name,
        target,
        max: 0,
        all: 0,
        lines: 0,
    };
    named.map(gauge).collect()
}

async fn lines(
    mut gauges: Vec<Gauge>,
    every: Duration,
    books: impl Fn() -> EpochReport + Send + 'static,
) {
    let mut ticks = tokio::time::interval(every);
    ticks.tick().await;
    for gauge in &gauges {
        eprintln!("{}:latest,mean,max,count,count/second,gcount", gauge.name);
    }
    loop {
        ticks.tick().await;
        let report = books();
        for gauge in &mut gauges {
            let account = report.targets.get(&gauge.target);
            let sent = account.map_or(0, |a| {
                a.replayed.values().sum::<u64>() + a.failed.values().sum::<u64>() + a.unknown
            });
            eprintln!("{}", gauge.line(sent, every));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_goreplay_has_it() {
        let mut gauge = Gauge {
            name: "output_http",
            target: "gor/1-http".to_owned(),
            max: 0,
            all: 0,
            lines: 0,
        };
        let every = Duration::from_secs(5);
        assert_eq!(gauge.line(50, every), "output_http:50,50,50,50,10,50");
        assert_eq!(gauge.line(70, every), "output_http:20,35,50,20,4,70");
    }
}
