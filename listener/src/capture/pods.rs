//! Pods of a Kubernetes cluster, as written on a command line: `k8s://shop/deployment/web:80`,
//! `k8s://labelSelector/app=web:80`.
//!
//! What enters: text; what the cluster's API says of its pods ([`follow`]). What leaves: a choice of pods, and their
//! addresses as they come and go. What may be lost: nothing; while the API can't be asked, those known last stay.

pub(super) mod api;
pub(super) mod cluster;
pub(super) mod follow;
pub(super) mod members;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;

pub use cluster::Cluster;

/// A choice of pods.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pods {
    /// None: that of this process's own pod.
    pub namespace: Option<String>,
    /// Which of its pods.
    pub choice: PodChoice,
}

/// How pods are chosen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodChoice {
    /// One, by its name.
    Pod(String),
    /// Those of a deployment.
    Deployment(String),
    /// Those of a daemon set.
    DaemonSet(String),
    /// Those that a label selector takes.
    Labels(String),
    /// Those that a field selector takes.
    Fields(String),
}

impl FromStr for Pods {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Pods, &'static str> {
        let missing = "the pods' kind or name is missing";
        let (first, behind) = text.split_once('/').ok_or(missing)?;
        if let Some(choice) = PodChoice::parse(first, behind) {
            let namespace = None;
            return choice.map(|choice| Pods { namespace, choice });
        }
        let choice = behind.split_once('/');
        let choice = choice.and_then(|(kind, name)| PodChoice::parse(kind, name));
        let choice = choice.ok_or(
            "pods are named by pod, deployment, daemonset, labelSelector or fieldSelector",
        )??;
        match is_name(first) {
            true => Ok(Pods {
                namespace: Some(first.to_owned()),
                choice,
            }),
            false => Err("no namespace has such a name"),
        }
    }
}

impl PodChoice {
    /// None where there is no such kind.
    fn parse(kind: &str, name: &str) -> Option<Result<PodChoice, &'static str>> {
        let (make, selects): (fn(String) -> PodChoice, bool) = match kind {
            "pod" | "pods" => (PodChoice::Pod, false),
            "deployment" | "deployments" => (PodChoice::Deployment, false),
            "daemonset" | "daemonsets" => (PodChoice::DaemonSet, false),
            "labelSelector" => (PodChoice::Labels, true),
            "fieldSelector" => (PodChoice::Fields, true),
            _ => return None,
        };
        Some(match (name.is_empty(), selects || is_name(name)) {
            (true, _) => Err("the pods' kind or name is missing"),
            (false, false) => Err("a pod's name has small letters, digits, - and ."),
            (false, true) => Ok(make(name.to_owned())),
        })
    }

    fn parts(&self) -> (&'static str, &str) {
        match self {
            PodChoice::Pod(name) => ("pod", name),
            PodChoice::Deployment(name) => ("deployment", name),
            PodChoice::DaemonSet(name) => ("daemonset", name),
            PodChoice::Labels(selector) => ("labelSelector", selector),
            PodChoice::Fields(selector) => ("fieldSelector", selector),
        }
    }
}

impl fmt::Display for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        let (kind, name) = self.choice.parts();
        write!(f, "{kind}/{name}")
    }
}

/// As of RFC 1123, which Kubernetes' names follow.
fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    !text.is_empty() && text.len() <= 253 && text.bytes().all(fits)
}

/// The addresses of each choice's pods.
pub(super) type Addresses = BTreeMap<Pods, BTreeSet<IpAddr>>;

/// The same as they come and go: one writes, capture threads read.
#[derive(Debug, Default)]
pub(super) struct Followed(ArcSwap<Addresses>);

impl Followed {
    /// As they are known now.
    pub(super) fn now(&self) -> Arc<Addresses> {
        self.0.load_full()
    }

    /// Whether a pod of that choice has the address now.
    pub(super) fn has(&self, pods: &Pods, address: IpAddr) -> bool {
        let known = self.0.load();
        let of_choice = known.get(pods);
        of_choice.is_some_and(|addresses| addresses.contains(&address))
    }

    /// Takes what a choice has now; true where that is something else than before.
    fn set(&self, pods: &Pods, addresses: BTreeSet<IpAddr>) -> bool {
        let known = self.0.load();
        if known.get(pods) == Some(&addresses) {
            return false;
        }
        self.0.rcu(|known| {
            let mut known = Addresses::clone(known);
            known.insert(pods.clone(), addresses.clone());
            known
        });
        true
    }
}
