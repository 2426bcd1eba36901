//! The cluster between the shops: in this process, or of processes of its own.
//!
//! What enters: the scene and how its traffic is captured. What leaves: parts that can be asked, and closed books.
//! What may be lost: see each of the two.

use std::time::Duration;

use reprise_integration_tests::Place;
use reprise_listener::{SourceSettings, budget};
use reprise_node::ListenAddress;
use reprise_node::config::ByteSize;
use reprise_traffic::ledger::EpochReport;

use super::fleet::{self, Fleet};
use super::look::{self, Part, Task};
use super::scene::Scene;
use crate::embedded::{Embedded, EmbeddedConfig};

/// Bytes; the demo's whole traffic fits.
const MEMORY: ByteSize = ByteSize::mib(128);
/// For what is under way when the demo is over.
const DRAIN: Duration = Duration::from_secs(15);

/// A running cluster.
pub(crate) struct Stage {
    kind: Kind,
    pub(crate) parts: Vec<Part>,
}

enum Kind {
    Embedded(Box<Embedded>),
    Fleet(Fleet),
}

/// What is left of a cluster.
#[derive(Debug)]
pub(crate) struct Struck {
    /// The closed books.
    pub(crate) books: Vec<EpochReport>,
    /// Parts that ended otherwise than they should.
    pub(crate) badly: Vec<String>,
    /// The ends of all logs.
    pub(crate) logs: String,
}

impl Stage {
    /// Starts all roles in this process.
    ///
    /// # Errors
    /// One line: what can't be had.
    pub(crate) async fn embedded(scene: &Scene, capture: bool) -> anyhow::Result<Stage> {
        let (capture, mirror) = match capture {
            true => (scene.captures()?, Vec::new()),
            false => (Vec::new(), vec![ListenAddress::loopback(0)]),
        };
        let listener = reprise_listener::Config {
            capture,
            mirror,
            memory: MEMORY,
            ..reprise_listener::Config::default()
        };
        let config = EmbeddedConfig {
            sources: SourceSettings {
                process: budget::RUN,
                ..listener.sources()
            },
            targets: scene.targets()?,
            // In the same range as the parts of a fleet.
            admin: ListenAddress::loopback(Place::loopback().free()?.port()),
            cpu_limit: listener.cpu_limit,
            drain_timeout: DRAIN,
            replayers: None,
            observer: None,
            tap: None,
        };
        let embedded = Embedded::start(config).await?;
        for (shop, endpoint) in scene.production.iter().zip(embedded.mirrors()) {
            shop.mirror_to(*endpoint);
        }
        let parts = vec![Part::new("Reprise", Task::Everything, embedded.admin())];
        Ok(Stage {
            kind: Kind::Embedded(Box::new(embedded)),
            parts,
        })
    }

    /// Starts processes and an etcd.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub(crate) async fn fleet(scene: &Scene, capture: bool) -> anyhow::Result<Stage> {
        let (fleet, parts) = Fleet::start(scene, capture).await?;
        Ok(Stage {
            kind: Kind::Fleet(fleet),
            parts,
        })
    }

    /// The command that asks it for its ledger while it runs.
    pub(crate) fn hint(&self) -> String {
        match &self.kind {
            Kind::Embedded(embedded) => format!("reprise ledger --admin {}", embedded.admin()),
            Kind::Fleet(fleet) => format!("reprise ledger --etcd {}", fleet.etcd()),
        }
    }

    /// Asks all parts that run.
    ///
    /// # Errors
    /// When one doesn't answer.
    pub(crate) async fn look(&mut self) -> anyhow::Result<()> {
        for part in &mut self.parts {
            part.ask().await?;
        }
        Ok(())
    }

    /// Kills a replayer, where there are several; returns its name.
    ///
    /// # Errors
    /// When it can't be killed.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<Option<&'static str>> {
        let Kind::Fleet(fleet) = &self.kind else {
            return Ok(None);
        };
        fleet.kill_victim().await?;
        for part in self
            .parts
            .iter_mut()
            .filter(|part| part.name == fleet::VICTIM)
        {
            part.admin = None;
            part.fate = Some("killed".to_owned());
        }
        Ok(Some(fleet::VICTIM))
    }

    /// Stops all parts, which drains them.
    ///
    /// # Errors
    /// When a part doesn't end in time.
    pub(crate) async fn strike(self) -> anyhow::Result<(Vec<Part>, Struck)> {
        match self.kind {
            Kind::Embedded(embedded) => {
                let books = vec![embedded.drain().await.books];
                Ok((
                    self.parts,
                    Struck {
                        books,
                        badly: Vec::new(),
                        logs: String::new(),
                    },
                ))
            }
            Kind::Fleet(fleet) => {
                let ended = fleet.stop(&self.parts).await?;
                let books = look::books(&self.parts);
                Ok((
                    self.parts,
                    Struck {
                        books,
                        badly: ended.badly,
                        logs: ended.logs,
                    },
                ))
            }
        }
    }
}
