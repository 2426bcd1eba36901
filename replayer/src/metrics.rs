//! What a replayer measures besides its ledger: how long targets take to answer, how near requests come to what was due,
//! whether breakers are open, what connections of streams lose, and how production answered; and of which ends of its connections nobody took notice.
//!
//! What enters: answers. What leaves: metrics. What may be lost: nothing.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use reprise_traffic::{Answer, TargetName};

use crate::documents;
use crate::fidelity::{Fidelities, Fidelity};

/// All that a replayer measures, by target.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    latencies: Latencies,
    fidelities: Fidelities,
    breakers: Breakers,
    streams: Streams,
    documents: DocumentCounts,
    answers: Answers,
    closed_dropped: Family<TargetLabel, Counter>,
}

/// What is measured of one target.
#[derive(Debug)]
pub(crate) struct Meters {
    pub(crate) latency: Latency,
    pub(crate) fidelity: Fidelity,
    pub(crate) sending: SenderMeters,
    pub(crate) answers: TargetAnswers,
    /// Ends of production's connections that were passed over.
    pub(crate) closed_dropped: Counter,
}

/// What those measure who take a target's requests.
#[derive(Debug, Clone)]
pub(crate) struct SenderMeters {
    pub(crate) breaker: BreakerMeter,
    /// Of all targets: most are none.
    pub(crate) streams: Streams,
    pub(crate) documents: documents::Meter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Metrics {
        let closed_dropped = Family::<TargetLabel, Counter>::default();
        registry.register(
            "reprise_replayer_closed_dropped",
            "Ends of production's connections that were passed over, as too many were scheduled",
            closed_dropped.clone(),
        );
        Metrics {
            latencies: Latencies::register(registry),
            fidelities: Fidelities::register(registry),
            breakers: Breakers::register(registry),
            streams: Streams::register(registry),
            documents: DocumentCounts::register(registry),
            answers: Answers::register(registry),
            closed_dropped,
        }
    }

    pub(crate) fn of(&self, target: &TargetName) -> Meters {
        Meters {
            latency: self.latencies.of(target),
            fidelity: self.fidelities.of(target),
            sending: SenderMeters {
                breaker: self.breakers.of(target),
                streams: self.streams.clone(),
                documents: self.documents.of(target),
            },
            answers: self.answers.of(target),
            closed_dropped: self
                .closed_dropped
                .get_or_create(&TargetLabel {
                    target: target.to_string(),
                })
                .clone(),
        }
    }
}

/// Which target.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct TargetLabel {
    target: String,
}

impl TargetLabel {
    pub(crate) fn of(target: &TargetName) -> TargetLabel {
        TargetLabel {
            target: target.to_string(),
        }
    }
}

#[derive(Debug, Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    /// 100 µs to about 25 s, each half as long again as the one before.
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(1e-4, 1.5, 32))
    }
}

/// All latencies of a replayer, by target.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    answer: Family<TargetLabel, Histogram, Buckets>,
    lateness: Family<TargetLabel, Histogram, Buckets>,
}

impl Latencies {
    pub(crate) fn register(registry: &mut Registry) -> Latencies {
        let answer = Family::<TargetLabel, Histogram, Buckets>::new_with_constructor(Buckets);
        registry.register(
            "reprise_replay_latency_seconds",
            "From the first byte sent to a target to the last byte of its answer",
            answer.clone(),
        );
        let lateness = Family::<TargetLabel, Histogram, Buckets>::new_with_constructor(Buckets);
        registry.register(
            "reprise_replay_lateness_seconds",
            "From the instant at which a scheduled request was to be sent to that at which its sending began",
            lateness.clone(),
        );
        Latencies { answer, lateness }
    }

    pub(crate) fn of(&self, target: &TargetName) -> Latency {
        let label = TargetLabel::of(target);
        Latency {
            answer: self.answer.get_or_create(&label).clone(),
            lateness: self.lateness.get_or_create(&label).clone(),
        }
    }
}

/// The latencies of one target.
#[derive(Debug)]
pub(crate) struct Latency {
    answer: Histogram,
    lateness: Histogram,
}

impl Latency {
    /// A request was answered, so long after its first byte was sent.
    pub(crate) fn observe(&self, latency: Duration) {
        self.answer.observe(latency.as_secs_f64());
    }

    /// A request is being sent, so long after it was due.
    pub(crate) fn late(&self, lateness: Duration) {
        self.lateness.observe(lateness.as_secs_f64());
    }
}

/// All breakers of a replayer, by target.
#[derive(Debug, Clone, Default)]
pub(crate) struct Breakers {
    open: Family<TargetLabel, Gauge>,
    openings: Family<TargetLabel, Counter>,
}

impl Breakers {
    pub(crate) fn register(registry: &mut Registry) -> Breakers {
        let breakers = Breakers::default();
        registry.register(
            "reprise_breaker_open",
            "1 while a target's breaker is open or half-open, and its exchanges are dropped",
            breakers.open.clone(),
        );
        registry.register(
            "reprise_breaker_openings",
            "How often a target's breaker opened",
            breakers.openings.clone(),
        );
        breakers
    }

    pub(crate) fn of(&self, target: &TargetName) -> BreakerMeter {
        let label = TargetLabel::of(target);
        BreakerMeter {
            open: self.open.get_or_create(&label).clone(),
            openings: self.openings.get_or_create(&label).clone(),
        }
    }
}

/// The breaker of one target.
#[derive(Debug, Clone)]
pub(crate) struct BreakerMeter {
    open: Gauge,
    openings: Counter,
}

impl BreakerMeter {
    pub(crate) fn set_open(&self, is_open: bool) {
        self.open.set(i64::from(is_open));
    }

    pub(crate) fn opened(&self) {
        self.set_open(true);
        self.openings.inc();
    }
}

/// All streams of a replayer, by target.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams {
    connections: Family<TargetLabel, Gauge>,
    reconnects: Family<TargetLabel, Counter>,
    in_doubt: Family<TargetLabel, Counter>,
}

impl Streams {
    pub(crate) fn register(registry: &mut Registry) -> Streams {
        let streams = Streams::default();
        registry.register(
            "reprise_stream_connections",
            "Open connections of a target that is a stream",
            streams.connections.clone(),
        );
        registry.register(
            "reprise_stream_reconnects",
            "Connections of a stream that took the place of one that broke",
            streams.reconnects.clone(),
        );
        registry.register(
            "reprise_stream_in_doubt",
            "Exchanges whose bytes the far host acknowledged shortly before it reset the connection, so that maybe nobody \
             read them",
            streams.in_doubt.clone(),
        );
        streams
    }

    pub(crate) fn of(&self, target: &TargetName) -> StreamMeter {
        let label = TargetLabel::of(target);
        StreamMeter {
            connections: self.connections.get_or_create(&label).clone(),
            reconnects: self.reconnects.get_or_create(&label).clone(),
            in_doubt: self.in_doubt.get_or_create(&label).clone(),
        }
    }
}

/// The stream of one target.
#[derive(Debug, Clone)]
pub(crate) struct StreamMeter {
    pub(crate) connections: Gauge,
    pub(crate) reconnects: Counter,
    pub(crate) in_doubt: Counter,
}

/// What became of documents about replays, by target.
#[derive(Debug, Clone, Default)]
pub(crate) struct DocumentCounts {
    sent: Family<TargetLabel, Counter>,
    refused: Family<TargetLabel, Counter>,
    dropped: Family<TargetLabel, Counter>,
}

impl DocumentCounts {
    pub(crate) fn register(registry: &mut Registry) -> DocumentCounts {
        let counts = DocumentCounts::default();
        registry.register(
            "reprise_documents_sent",
            "Documents about replays that their server has",
            counts.sent.clone(),
        );
        registry.register(
            "reprise_documents_refused",
            "Documents about replays that their server would not have",
            counts.refused.clone(),
        );
        registry.register(
            "reprise_documents_dropped",
            "Documents about replays for which there was no room while their server was away, or no time at the end",
            counts.dropped.clone(),
        );
        counts
    }

    pub(crate) fn of(&self, target: &TargetName) -> documents::Meter {
        let label = TargetLabel::of(target);
        documents::Meter {
            sent: self.sent.get_or_create(&label).clone(),
            refused: self.refused.get_or_create(&label).clone(),
            dropped: self.dropped.get_or_create(&label).clone(),
        }
    }
}

/// How much of production's answer came with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kept {
    /// All of it.
    Whole,
    /// Its head, and not all of its body.
    Part,
    /// Nothing: answers aren't tracked, or this one wasn't seen.
    Nothing,
}

impl EncodeLabelValue for Kept {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let name = match self {
            Kept::Whole => "whole",
            Kept::Part => "part",
            Kept::Nothing => "nothing",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    target: String,
    kept: Kept,
}

/// What came of production's answers, by target.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers(Family<AnswerLabels, Counter>);

impl Answers {
    pub(crate) fn register(registry: &mut Registry) -> Answers {
        let answers = Answers::default();
        registry.register(
            "reprise_production_answers",
            "Requests taken, by what came with them of the answer that production gave",
            answers.0.clone(),
        );
        answers
    }

    /// Those of one target.
    pub(crate) fn of(&self, target: &TargetName) -> TargetAnswers {
        let counter = |kept| {
            let target = target.to_string();
            self.0.get_or_create(&AnswerLabels { target, kept }).clone()
        };
        TargetAnswers {
            whole: counter(Kept::Whole),
            part: counter(Kept::Part),
            nothing: counter(Kept::Nothing),
        }
    }
}

/// What came of production's answers to one target's requests.
#[derive(Debug)]
pub(crate) struct TargetAnswers {
    whole: Counter,
    part: Counter,
    nothing: Counter,
}

impl TargetAnswers {
    /// A request was taken, with production's answer or without.
    pub(crate) fn count(&self, answer: Option<&Answer>) {
        match answer {
            None => self.nothing.inc(),
            Some(answer) if answer.is_whole() => self.whole.inc(),
            Some(_) => self.part.inc(),
        };
    }
}
