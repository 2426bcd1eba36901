//! What a listener takes requests from, opened before anything begins.
//!
//! What enters: settings. What leaves: interfaces, ports and files that are open, and where what is captured goes. What may
//! be lost: nothing; what can't be had is an error.

use std::sync::Arc;
use std::time::Instant;

use reprise_node::ListenAddress;
use reprise_node::config::ByteSize;
use reprise_traffic::exchange::{Captured, Closed};
use tokio::net::TcpListener;

use crate::budget::{Budget, Plan};
use crate::intake::Intake;
use crate::limit::{Limiter, Limits};
use crate::shed::Shed;
use crate::{capture, middleware, mirror, reading, reassembly, record_port, topic};

/// What to capture.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// Interfaces, ports, and how.
    pub capture: capture::Settings,
    /// Where proxies send copies.
    pub mirror: Vec<ListenAddress>,
    /// What proxies are answered.
    pub mirror_status: mirror::Status,
    /// Where others send streams of records.
    pub record_ports: record_port::Settings,
    /// Topics of Kafka's.
    pub topics: Vec<topic::Settings>,
    /// Whether there is a request a second of our own.
    pub dummy: bool,
    /// Capture files and recordings, each of these a stream of its own that begins at once.
    pub readings: Vec<reading::Settings>,
    /// What of all that is taken.
    pub limits: Limits,
    /// What all of it passes.
    pub middleware: Option<middleware::Settings>,
    /// Bodies without chunks and gzip.
    pub prettify: bool,
    /// A larger request is dropped whole.
    pub max_exchange: ByteSize,
    /// Resident memory of the whole process.
    pub memory: ByteSize,
    /// What of that the process takes without a request: [`budget::LISTENER`] or [`budget::RUN`].
    pub process: ByteSize,
}

impl SourceSettings {
    /// How the memory is shared out.
    pub fn plan(&self) -> Plan {
        let rings = match self.capture.specs.is_empty() {
            true => ByteSize(0),
            false => ByteSize(self.capture.ring as u64),
        };
        Plan {
            memory: self.memory,
            process: self.process,
            rings,
            max_exchange: self.max_exchange,
        }
    }
}

/// Interfaces and ports that are open, and not read yet.
pub struct Sources {
    pub(crate) captures: capture::Opened,
    pub(crate) mirrors: Vec<TcpListener>,
    pub(crate) mirror_status: mirror::Status,
    pub(crate) record_ports: record_port::Opened,
    pub(crate) topics: Vec<topic::Opened>,
    pub(crate) dummy: bool,
    pub(crate) readings: Vec<reading::Opened>,
    pub(crate) limits: Limits,
    pub(crate) middleware: Option<middleware::Settings>,
    pub(crate) prettify: bool,
    /// True where something comes as it happens, and has no end.
    pub(crate) live: bool,
    pub(crate) max_exchange: usize,
    pub(crate) budget: Arc<Budget>,
    pub(crate) shed: Arc<Shed>,
}

impl Sources {
    /// Opens all, so that nothing has begun when one of them can't be had.
    ///
    /// # Errors
    /// One line, when the memory doesn't suffice, or a file, an interface, a port or the right to capture can't be had.
    pub fn open(settings: &SourceSettings) -> anyhow::Result<Sources> {
        let max_exchange = settings.max_exchange.as_usize();
        let budget = Arc::new(Budget::new(settings.plan().budget()?));
        let read = |settings: &reading::Settings| reading::open(settings.clone(), budget.clone());
        let readings = settings.readings.iter().map(read);
        let readings = readings.collect::<anyhow::Result<Vec<_>>>()?;
        let bind = |address: &ListenAddress| address.bind("mirror", "--mirror");
        let mirrors = settings
            .mirror
            .iter()
            .map(bind)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let record_ports = record_port::open(&settings.record_ports)?;
        let topics = topic::open(&settings.topics)?;
        let shed = Arc::new(Shed::new(budget.clone()));
        let captures = capture::open(capture::Settings {
            budget: budget.clone(),
            shed: Some(shed.clone()),
            ..settings.capture.clone()
        })?;
        Ok(Sources {
            captures,
            live: !settings.capture.specs.is_empty()
                || !mirrors.is_empty()
                || !record_ports.is_empty()
                || !topics.is_empty()
                || settings.dummy,
            mirrors,
            mirror_status: settings.mirror_status,
            record_ports,
            topics,
            dummy: settings.dummy,
            readings,
            limits: settings.limits,
            middleware: settings.middleware.clone(),
            prettify: settings.prettify,
            max_exchange,
            budget,
            shed,
        })
    }

    /// What all parts of the listener may hold together.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }
}

/// Takes in what is captured. Reassembly has asked which sessions are shed.
#[derive(Clone)]
pub(crate) struct CaptureSink {
    pub(crate) intake: Arc<Intake>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) discards: bool,
}

impl reassembly::Sink for CaptureSink {
    fn take(&mut self, request: Captured) {
        if !self.limiter.takes(&request, Instant::now()) {
            return;
        }
        match self.discards {
            true => self.intake.discard(request),
            false => self.intake.admit(request),
        }
    }

    fn closed(&mut self, closed: Closed) {
        if !self.discards {
            self.intake.admit_closed(closed);
        }
    }
}

impl capture::Sink for CaptureSink {
    fn caught_up(&mut self) {
        self.intake.announce();
    }
}
