//! Tags that a cooked capture hides.
//!
//! What enters: a packet of the `any` device. What leaves: the place of its IP header, where that isn't the one that
//! the packet's header claims. What may be lost: nothing.
//!
//! The kernel takes the outer VLAN tag off. An inner one stays before the IP header, but since Linux 6.10 a packet's
//! protocol is said to be the one behind it, as if it were not there.

/// Length of the header of LINKTYPE_LINUX_SLL2; its first two bytes are the protocol.
const HEADER: usize = 20;

/// EtherTypes of VLAN tags.
const TAGS: [u16; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];

/// The IP packet behind a tag that isn't mentioned; `None` where all is as it should be.
pub(super) fn behind_hidden_tags(packet: &[u8]) -> Option<&[u8]> {
    let protocol = u16_at(packet, 0)?;
    let mut rest = packet.get(HEADER..)?;
    if is_ip(protocol, rest) || !matches!(protocol, 0x0800 | 0x86dd) {
        return None;
    }
    // As many as the kernel's filter looks behind.
    for _ in 0..2 {
        let inner = u16_at(rest, 2)?;
        rest = rest.get(4..)?;
        if inner == protocol {
            return is_ip(protocol, rest).then_some(rest);
        }
        if !TAGS.contains(&inner) {
            return None;
        }
    }
    None
}

/// Whether it looks like an IP header: a tag may begin with the same four bits, but not with the same length.
fn is_ip(protocol: u16, packet: &[u8]) -> bool {
    let Some(first) = packet.first() else {
        return false;
    };
    match protocol {
        0x0800 => {
            let header = usize::from(first & 0x0f) * 4;
            let total = u16_at(packet, 2).map_or(0, usize::from);
            let fits = total == 0 || (header..=packet.len()).contains(&total);
            first >> 4 == 4 && header >= 20 && fits
        }
        _ => {
            let length = u16_at(packet, 4).map_or(0, usize::from);
            first >> 4 == 6 && (length == 0 || 40 + length <= packet.len())
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes(two.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    fn packet(v6: bool, tags: &[u16]) -> (Vec<u8>, Vec<u8>) {
        let mut ip = Vec::new();
        match v6 {
            false => PacketBuilder::ipv4([1; 4], [2; 4], 64)
                .tcp(1, 80, 7, 9)
                .write(&mut ip, b"x")
                .unwrap(),
            true => PacketBuilder::ipv6([1; 16], [2; 16], 64)
                .tcp(1, 80, 7, 9)
                .write(&mut ip, b"x")
                .unwrap(),
        }
        let protocol: u16 = if v6 { 0x86dd } else { 0x0800 };
        let mut cooked = [&protocol.to_be_bytes()[..], &[0; 18]].concat();
        for (n, tag) in tags.iter().enumerate() {
            let inner = if n + 1 < tags.len() { 0x8100 } else { protocol };
            cooked.extend_from_slice(&tag.to_be_bytes());
            cooked.extend_from_slice(&inner.to_be_bytes());
        }
        cooked.extend_from_slice(&ip);
        (cooked, ip)
    }

    proptest! {
        #[test]
        fn whatever_the_tags_the_header_is_found(v6: bool, tags in prop::collection::vec(any::<u16>(), 0..=2)) {
            let (cooked, ip) = packet(v6, &tags);
            let found = behind_hidden_tags(&cooked);
            prop_assert_eq!(found, (!tags.is_empty()).then_some(&ip[..]));
        }

        #[test]
        fn garbage_never_panics(packet in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = behind_hidden_tags(&packet);
        }
    }
}
