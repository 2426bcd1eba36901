//! Live capture: one thread and one ring for each [`CaptureSpec`].
//!
//! What enters: packets off the wire, chosen by a filter in the kernel. What leaves: whole requests, into a sink
//! that must not wait.
//! What may be lost: packets that come while a ring is full (`kernel_dropped`) or a device is gone; what the parts
//! behind lose, they count.
//!
//! capture --packets--> reassembly. When the ring is full: the kernel drops and counts; the wire cannot wait.

mod device;
mod spec;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use reprise_traffic::exchange::Captured;

use crate::budget::Budget;
use crate::edge::Edge;
use crate::packet::Decoder;
use crate::reassembly::Limits;
use crate::shed::Shed;
use device::Device;
pub use spec::{CaptureSpec, Place, SpecError};
use worker::Worker;

/// How to capture.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes of each capture's ring, which the kernel allocates.
    pub ring: usize,
    /// Bounds of the reassembly.
    pub limits: Limits,
    /// What its bytes come out of.
    pub budget: Arc<Budget>,
    /// Which sessions are left out.
    pub shed: Option<Arc<Shed>>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            ring: 64 << 20,
            limits: Limits::default(),
            budget: Arc::new(Budget::new(64 << 20)),
            shed: None,
        }
    }
}

/// Why a capture can't begin; one line that says what to change.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No such interface.
    #[error("no network interface is named {name:?}; there are {there}")]
    UnknownInterface {
        /// As written.
        name: String,
        /// What could be meant.
        there: String,
    },
    /// The process may not open packet sockets.
    #[error(
        "capture {spec} needs the capability CAP_NET_RAW: run as root, or `setcap cap_net_raw+ep` the executable"
    )]
    NoRights {
        /// The first that needs it.
        spec: CaptureSpec,
    },
    /// The interface is there, but down.
    #[error("capture {spec}: the interface is down")]
    Down {
        /// Where.
        spec: CaptureSpec,
    },
    /// Requests would be reported twice.
    #[error("captures {first} and {second} would both take port {port}: leave one out")]
    Twice {
        /// One of them.
        first: CaptureSpec,
        /// The other.
        second: CaptureSpec,
        /// In both.
        port: u16,
    },
    /// Packets that nobody here can read.
    #[error("capture {spec}: packets of link type {number} can't be decoded")]
    LinkType {
        /// Where.
        spec: CaptureSpec,
        /// libpcap's number.
        number: i32,
    },
    /// Whatever else libpcap says.
    #[error("open capture {spec}: {reason}")]
    Open {
        /// Where.
        spec: CaptureSpec,
        /// libpcap's words.
        reason: String,
    },
    /// No thread could be started.
    #[error("start the thread of capture {spec}: {source}")]
    Thread {
        /// For which.
        spec: CaptureSpec,
        /// The system's words.
        source: std::io::Error,
    },
}

/// Captures whose rings fill already, but whose packets nobody reads yet.
pub struct Opened {
    devices: Vec<(CaptureSpec, Device)>,
    settings: Settings,
}

/// Opens all captures.
///
/// # Errors
/// If one of them can't be opened, or if two would report the same requests.
pub fn open(specs: &[CaptureSpec], settings: Settings) -> Result<Opened, CaptureError> {
    for (n, first) in specs.iter().enumerate() {
        for second in &specs[n + 1..] {
            if let Some(port) = first.overlap(second) {
                return Err(CaptureError::Twice {
                    first: first.clone(),
                    second: second.clone(),
                    port,
                });
            }
        }
    }
    let devices = specs
        .iter()
        .map(|spec| Ok((spec.clone(), Device::open(spec, settings.ring)?)))
        .collect::<Result<_, CaptureError>>()?;
    Ok(Opened { devices, settings })
}

impl Opened {
    /// Starts a thread for each capture. Every one gets its own copy of the sink.
    ///
    /// # Errors
    /// If the system grants no thread; those started before are stopped.
    pub fn start<S>(self, edge: &Arc<Edge>, sink: S) -> Result<Captures, CaptureError>
    where
        S: FnMut(Captured) + Clone + Send + 'static,
    {
        let mut captures = Captures {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let settings = self.settings;
        for (spec, device) in self.devices {
            let worker = Worker {
                spec: spec.clone(),
                settings: settings.clone(),
                edge: edge.clone(),
                sink: sink.clone(),
                stop: captures.stop.clone(),
                decoder: Decoder::default(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("capture {spec}"))
                .spawn(move || worker.run(device))
                .map_err(|source| CaptureError::Thread { spec, source })?;
            captures.threads.push(thread);
        }
        Ok(captures)
    }
}

/// Captures that run.
#[must_use = "captures stop when this is dropped"]
pub struct Captures {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Captures {
    /// Takes what was on the wire until now, and ends. Blocks for some 0.2 s, at most for 2 s and a bit.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a capture thread has panicked");
            }
        }
    }
}

impl Drop for Captures {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
