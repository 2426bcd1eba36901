//! Opens packet sockets for a scope, and says in one line why that fails.
//!
//! What enters: the scope, the interfaces and pods there are. What leaves: devices, or an error for people.
//! What may be lost: nothing.

use rustix::io::Errno;

use super::CaptureError;
use super::device::{Device, OpenError};
use super::interfaces::Present;
use super::pods::Addresses;
use super::scope::Scope;

/// Opens one device with its share of the ring.
pub(super) fn open(
    scope: &Scope,
    present: &Present,
    pods: &Addresses,
    ring: usize,
) -> Result<Device, CaptureError> {
    let interface = match scope.selection.only() {
        None => None,
        Some(name) => {
            scope.selection.require_named(present)?;
            let there = present.iter().find(|(_, there)| *there == name);
            there.map(|(index, _)| *index)
        }
    };
    let program = scope.program(present, pods)?;
    let explained = |error| explain(scope.name(), error);
    let device = Device::open(ring, interface, &program).map_err(explained)?;
    for interface in scope.promiscuous(present) {
        let asked = device.ask_for_all(interface);
        asked.map_err(|error| explained(OpenError::System("set promiscuous mode", error)))?;
    }
    Ok(device)
}

/// libpcap's codes are lost in the `pcap` crate; its texts are all that is left.
fn explain(spec: String, error: OpenError) -> CaptureError {
    let reason = match error {
        OpenError::LinkType(number) => return CaptureError::LinkType { spec, number },
        OpenError::System(_, error) if Errno::from_io_error(&error) == Some(Errno::NETDOWN) => {
            return CaptureError::Down { spec };
        }
        OpenError::System(action, error) => format!("{action}: {error}"),
        OpenError::Pcap(pcap::Error::PcapError(text)) => text.trim().replace('\n', " "),
        OpenError::Pcap(other) => other.to_string(),
    };
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if says(&["CAP_NET_RAW", "ermission", "not permitted"]) {
        CaptureError::NoRights { spec }
    } else {
        CaptureError::Open { spec, reason }
    }
}
