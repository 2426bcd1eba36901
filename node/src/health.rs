//! What this node says of itself to probes and people.
//!
//! What enters: conditions, set by whoever knows. What leaves: ready or not, with the reasons.
//! What may be lost: earlier states of a condition; only the last counts.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde::Serialize;

/// A handle on a node's conditions; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<RwLock<BTreeMap<&'static str, Condition>>>);

/// One thing that is as it should be, or isn't.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// As it should be.
    pub ok: bool,
    /// The node isn't ready without it.
    pub required: bool,
    /// Why it isn't as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer at `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Every required condition is as it should be.
    pub ready: bool,
    /// All of them, by name.
    pub conditions: BTreeMap<&'static str, Condition>,
}

impl Health {
    /// No conditions: ready.
    pub fn new() -> Health {
        Health::default()
    }

    /// Sets a condition without which the node isn't ready.
    pub fn set(&self, name: &'static str, state: Result<(), String>) {
        self.put(name, true, state);
    }

    /// Sets a condition that people should know of while the node stays ready.
    pub fn inform(&self, name: &'static str, state: Result<(), String>) {
        self.put(name, false, state);
    }

    /// Ready or not, and why.
    pub fn readiness(&self) -> Readiness {
        let conditions = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Readiness {
            ready: conditions.values().all(|c| c.ok || !c.required),
            conditions: conditions.clone(),
        }
    }

    fn put(&self, name: &'static str, required: bool, state: Result<(), String>) {
        let condition = Condition {
            ok: state.is_ok(),
            required,
            reason: state.err(),
        };
        let mut conditions = self.0.write().unwrap_or_else(PoisonError::into_inner);
        conditions.insert(name, condition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_required_conditions_make_unready() {
        let health = Health::new();
        assert!(health.readiness().ready);
        health.inform("etcd", Err("connection refused".to_owned()));
        assert!(health.readiness().ready);
        health.set("relay", Err("none found".to_owned()));
        assert!(!health.readiness().ready);
        health.clone().set("relay", Ok(()));
        let readiness = health.readiness();
        assert!(readiness.ready);
        assert_eq!(
            readiness.conditions["etcd"].reason.as_deref(),
            Some("connection refused")
        );
    }
}
