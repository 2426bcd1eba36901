//! What is captured where, and the kernel's filter for it.
//!
//! What enters: the specs, what is known about tunnels and answers, the interfaces there are.
//! What leaves: a program for the socket. What may be lost: nothing; what can't be said as a filter is an error.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::filter::Wanted;
use super::interfaces::{Covering, Present, Selection};
use super::pods::{Addresses, Followed};
use super::program::{Body, Program};
use super::{CaptureError, CaptureSpec, Place, Pods, Settings, Tunnel};
use crate::reassembly::{Answers, Ports};

/// What all threads of a listener capture.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) selection: Selection,
    /// Where the pods are that specs name.
    pub(super) pods: Arc<Followed>,
    tunnels: Vec<Tunnel>,
    answers: Answers,
    bpf: Option<String>,
    vlans: Vec<u16>,
    promiscuous: bool,
    real_ip_header: Option<String>,
}

impl Scope {
    pub(super) fn new(settings: &Settings) -> Scope {
        Scope {
            selection: Selection {
                specs: settings.specs.clone(),
                ignore: settings.ignore.clone(),
            },
            pods: Arc::default(),
            tunnels: settings.tunnels.clone(),
            answers: settings.answers,
            bpf: settings.bpf.clone(),
            vlans: settings.vlans.clone(),
            promiscuous: settings.promiscuous,
            real_ip_header: settings.real_ip_header.clone(),
        }
    }

    /// Of all specs.
    pub(super) fn ports(&self) -> Ports {
        let specs = &self.selection.specs;
        if specs.iter().any(|spec| spec.ports().is_empty()) {
            return Ports::Any;
        }
        let ports = specs.iter().flat_map(CaptureSpec::ports);
        Ports::only(&ports.copied().collect::<Vec<_>>())
    }

    /// Whether requests to a server were asked for. Addresses say nothing about packets within tunnels, nor beside a
    /// filter of one's own.
    pub(super) fn asks_for(&self, server: SocketAddr) -> bool {
        let any_address = self.bpf.is_some() || !self.tunnels.is_empty();
        self.selection.specs.iter().any(|spec| {
            let host = match spec.place() {
                Place::Address(host) => any_address || *host == server.ip(),
                // Of these all is looked up, however their packets came.
                Place::Pods(pods) => self.pods.has(pods, server.ip()),
                Place::All | Place::Interface(_) | Place::Pattern(_) => true,
            };
            host && (spec.ports().is_empty() || spec.ports().contains(&server.port()))
        })
    }

    /// The pods that specs name.
    pub(super) fn choices(&self) -> BTreeSet<Pods> {
        let specs = self.selection.specs.iter();
        specs.filter_map(CaptureSpec::pods).cloned().collect()
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

    /// The header that each request gets.
    pub(super) fn real_ip_header(&self) -> Option<&str> {
        self.real_ip_header.as_deref()
    }

    /// Interfaces that are to take packets to other hosts too.
    pub(super) fn promiscuous(&self, present: &Present) -> Vec<u32> {
        match self.promiscuous {
            true => self.selection.meant(present).collect(),
            false => Vec::new(),
        }
    }

    /// The filter of a socket that shows all interfaces, or of one that shows only the interface that all name.
    ///
    /// # Errors
    /// If an expression can't be compiled, or all together are too long.
    pub(super) fn program(
        &self,
        present: &Present,
        pods: &Addresses,
    ) -> Result<Program, CaptureError> {
        if self.selection.only().is_some() {
            let all = (0..self.selection.specs.len()).collect();
            return Program::new(&[], &self.body(&all, pods)?, &self.vlans);
        }
        let groups = self
            .selection
            .groups(present)
            .into_iter()
            .map(|(covering, interfaces)| Ok((interfaces, self.body(&covering, pods)?)))
            .collect::<Result<Vec<_>, CaptureError>>()?;
        let rest = self.body(&self.selection.everywhere(), pods)?;
        Program::new(&groups, &rest, &self.vlans)
    }

    fn body(&self, covering: &Covering, pods: &Addresses) -> Result<Body, CaptureError> {
        let specs = &self.selection.specs;
        let wanted = Wanted {
            specs: covering.iter().filter_map(|n| specs.get(*n)).collect(),
            pods,
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
