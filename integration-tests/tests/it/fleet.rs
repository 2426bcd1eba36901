//! The cluster that most tests stand on: a listener, two relays and two replayers with an etcd, between a production
//! nginx and a staging server, all on loopback.

use std::time::Duration;

use reprise_integration_tests::load::Running;
use reprise_integration_tests::{Cluster, Etcd, Load, Nginx, Place, Role, Shape, Staging};

use crate::rig;

/// The target that takes everything.
pub(crate) const TARGET: &str = "shop/staging";
/// Time for a cluster to come to rest behind a load.
pub(crate) const REST: Duration = Duration::from_secs(30);

// Dropped in this order: the cluster before what it depends on.
pub(crate) struct Fleet {
    pub(crate) cluster: Cluster,
    pub(crate) staging: Staging,
    pub(crate) production: Nginx,
    pub(crate) etcd: Etcd,
    pub(crate) place: Place,
}

impl Fleet {
    /// Starts everything; nothing without the right to capture.
    pub(crate) fn start() -> Option<Fleet> {
        if !rig::may_capture() {
            return None;
        }
        let place = Place::loopback();
        let mut fleet = Fleet {
            cluster: Cluster::new(rig::binary()).unwrap(),
            staging: Staging::start(&place).unwrap(),
            production: Nginx::start(&place).unwrap(),
            etcd: Etcd::start(&place).unwrap(),
            place,
        };
        let document = format!("url: {}\nmethods: [any]\n", fleet.staging.url());
        fleet.etcd.put(&target_key(TARGET), &document).unwrap();
        for name in ["replayer1", "replayer2", "relay1", "relay2", "listener1"] {
            fleet.start_part(name);
        }
        Some(fleet)
    }

    /// Starts a part of which there is none of that name (any more).
    pub(crate) fn start_part(&mut self, name: &str) {
        let etcd = self.etcd.url();
        let port = self.production.address().port();
        let capture = format!("{}:{port}", self.place.interface());
        let mut arguments = vec!["--etcd", &etcd];
        let role = match name.trim_end_matches(char::is_numeric) {
            "listener" => Role::Listener,
            "relay" => Role::Relay,
            "replayer" => Role::Replayer,
            other => panic!("no role {other}"),
        };
        if role == Role::Listener {
            arguments.extend(["--capture", &capture]);
        }
        self.cluster
            .start(role, name, &self.place, &arguments)
            .unwrap();
    }

    /// Begins a load on production, to be stopped.
    pub(crate) fn load(&self, shape: Shape, rate: u32) -> Running {
        let mut load = Load::new(&self.place, self.production.address(), shape, u64::MAX);
        load.rate = Some(rate);
        load.start().unwrap()
    }

    /// Waits until so many more requests have come to staging.
    pub(crate) fn more(&self, requests: usize) {
        let limit = Duration::from_secs(60);
        self.staging
            .until(self.staging.count() + requests, limit)
            .unwrap();
    }
}

/// Where etcd holds a target's document.
pub(crate) fn target_key(name: &str) -> String {
    format!("/reprise/v1/targets/{name}")
}
