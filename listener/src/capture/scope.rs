//! What is captured where, and the kernel's filter for it.
//!
//! What enters: the specs, what is known about tunnels and answers, the interfaces there are.
//! What leaves: a program for the socket. What may be lost: nothing; what can't be said as a filter is an error.

use super::filter::Wanted;
use super::interfaces::{Covering, Present, Selection};
use super::program::{Body, Program};
use super::{CaptureError, CaptureSpec, Settings, Tunnel};
use crate::reassembly::Answers;

/// What all threads of a listener capture.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) selection: Selection,
    tunnels: Vec<Tunnel>,
    answers: Answers,
    bpf: Option<String>,
}

impl Scope {
    pub(super) fn new(settings: &Settings) -> Scope {
        Scope {
            selection: Selection {
                specs: settings.specs.clone(),
                ignore: settings.ignore.clone(),
            },
            tunnels: settings.tunnels.clone(),
            answers: settings.answers,
            bpf: settings.bpf.clone(),
        }
    }

    /// Of all specs, in ascending order.
    pub(super) fn ports(&self) -> Vec<u16> {
        let ports = self.selection.specs.iter().flat_map(CaptureSpec::ports);
        let mut ports: Vec<u16> = ports.copied().collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// For messages that concern all.
    pub(super) fn name(&self) -> String {
        let specs: Vec<String> = self
            .selection
            .specs
            .iter()
            .map(ToString::to_string)
            .collect();
        specs.join(" ")
    }

    /// The filter of a socket that shows all interfaces, or of one that shows only the interface that all name.
    ///
    /// # Errors
    /// If an expression can't be compiled, or all together are too long.
    pub(super) fn program(&self, present: &Present) -> Result<Program, CaptureError> {
        if self.selection.only().is_some() {
            let all = (0..self.selection.specs.len()).collect();
            return Program::new(&[], &self.body(&all)?);
        }
        let groups = self
            .selection
            .groups(present)
            .into_iter()
            .map(|(covering, interfaces)| Ok((interfaces, self.body(&covering)?)))
            .collect::<Result<Vec<_>, CaptureError>>()?;
        Program::new(&groups, &self.body(&self.selection.everywhere())?)
    }

    fn body(&self, covering: &Covering) -> Result<Body, CaptureError> {
        let specs = &self.selection.specs;
        let wanted = Wanted {
            specs: covering.iter().filter_map(|n| specs.get(*n)).collect(),
            tunnels: &self.tunnels,
            answers: self.answers,
        };
        match (wanted.expression(), &self.bpf) {
            (None, _) => Ok(Body::nothing()),
            (Some(_), Some(own)) => Body::compile(own),
            (Some(expression), None) => Body::compile(&expression),
        }
    }
}
