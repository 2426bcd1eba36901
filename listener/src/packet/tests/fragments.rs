//! Packets cut into parts.

use proptest::prelude::*;

use super::*;

const RAW: i32 = 101;

/// Cuts a packet's payload at multiples of eight bytes.
fn cut(packet: &[u8], id: u16, pieces: &[usize]) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(if packet[0] >> 4 == 4 { 20 } else { 40 });
    let mut bounds: Vec<usize> = pieces.iter().map(|n| n * 8).collect();
    bounds.retain(|n| *n < payload.len());
    bounds.extend([0, payload.len()]);
    bounds.sort_unstable();
    bounds.dedup();
    let pair = |w: &[usize]| part(header, id, w[0], &payload[w[0]..w[1]], w[1] < payload.len());
    bounds.windows(2).map(pair).collect()
}

fn part(header: &[u8], id: u16, offset: usize, data: &[u8], more: bool) -> Vec<u8> {
    let mut header = header.to_vec();
    if header[0] >> 4 == 4 {
        let total = (20 + data.len()) as u16;
        let place = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&id.to_be_bytes());
        header[6..8].copy_from_slice(&place.to_be_bytes());
    } else {
        let length = (8 + data.len()) as u16;
        header[4..6].copy_from_slice(&length.to_be_bytes());
        let place = offset as u16 | u16::from(more);
        header.extend([header[6], 0]);
        header.extend(place.to_be_bytes());
        header.extend([0, 0]);
        header.extend(id.to_be_bytes());
        header[6] = 44;
    }
    [&header, data].concat()
}

fn long(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % 251) as u8).collect()
}

fn at(data: &[u8], seconds: u64) -> Frame<'_> {
    Frame {
        at_ns: seconds * 1_000_000_000,
        ..frame(RAW, data)
    }
}

proptest! {
    #[test]
    fn any_cutting_in_any_order_gives_the_segment_once(
        six in any::<bool>(),
        length in 1_usize..2000,
        pieces in prop::collection::vec(1_usize..250, 1..20),
        order in any::<u64>(),
        twice in any::<u64>(),
    ) {
        let payload = long(length);
        let packet = if six { ipv6(&payload) } else { ipv4(&payload) };
        let mut parts = cut(&packet, 77, &pieces);
        prop_assume!(parts.len() > 1);
        // The order of hashes with a seed is as good as any.
        parts.sort_by_key(|part| {
            let seed = part.iter().fold(order, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
            seed >> 7
        });
        let mut decoder = Decoder::default();
        let last = parts.len() - 1;
        for (n, part) in parts.iter().enumerate() {
            if n < last {
                prop_assert_eq!(decoder.decode(&frame(RAW, part)), Err(Unusable::Held));
                if twice >> (n % 64) & 1 == 1 {
                    prop_assert_eq!(decoder.decode(&frame(RAW, part)), Err(Unusable::Held));
                }
            } else {
                check(&mut decoder, RAW, part, &payload);
            }
        }
        prop_assert_eq!(decoder.finish(), 0);
    }

    #[test]
    fn packets_cut_at_the_same_time_do_not_mix(ids in prop::collection::hash_set(any::<u16>(), 2..20)) {
        let packets: Vec<(Vec<u8>, Vec<Vec<u8>>)> = ids
            .iter()
            .map(|id| {
                let payload = id.to_be_bytes().repeat(100);
                let parts = cut(&ipv4(&payload), *id, &[5, 10]);
                (payload, parts)
            })
            .collect();
        let mut decoder = Decoder::default();
        for n in [2, 0] {
            for (_, parts) in &packets {
                prop_assert_eq!(decoder.decode(&frame(RAW, &parts[n])), Err(Unusable::Held));
            }
        }
        for (payload, parts) in &packets {
            check(&mut decoder, RAW, &parts[1], payload);
        }
    }
}

#[test]
fn a_tunnel_s_fragments_and_fragments_in_it_are_put_together() {
    let payload = long(3000);
    let mut decoder = Decoder::default();
    let inner = cut(&ipv4(&payload), 5, &[100]);
    let mut parts = Vec::new();
    for (n, inner) in inner.iter().enumerate() {
        let middle = cut(&carried(4, inner), n as u16, &[40]);
        for (m, middle) in middle.iter().enumerate() {
            parts.extend(cut(&carried(4, middle), (10 * n + m) as u16, &[20]));
        }
    }
    let (last, others) = parts.split_last().unwrap();
    for part in others {
        assert_eq!(decoder.decode(&frame(RAW, part)), Err(Unusable::Held));
    }
    check(&mut decoder, RAW, last, &payload);
}

#[test]
fn parts_that_contradict_each_other_are_given_up() {
    let payload = long(100);
    let packet = ipv4(&payload);
    let (header, body) = packet.split_at(20);
    let mut other = body.to_vec();
    other[30] ^= 1;
    let first = part(header, 1, 0, &body[..40], true);
    let last = part(header, 1, 40, &body[40..], false);
    for against in [
        part(header, 1, 0, &other[..40], true),
        part(header, 1, 24, &other[24..80], true),
        part(header, 1, 16, &body[16..32], false),
        part(header, 1, 40, &body[40..47], true),
    ] {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.decode(&frame(RAW, &first)), Err(Unusable::Held));
        assert_eq!(
            decoder.decode(&frame(RAW, &against)),
            Err(Unusable::Fragment)
        );
        assert_eq!(decoder.lost(), 1);
        assert_eq!(decoder.decode(&frame(RAW, &last)), Err(Unusable::Held));
        assert_eq!(decoder.finish(), 1);
    }
    // Where they agree they may overlap.
    let mut decoder = Decoder::default();
    let overlapping = part(header, 1, 16, &body[16..], false);
    assert_eq!(decoder.decode(&frame(RAW, &first)), Err(Unusable::Held));
    check(&mut decoder, RAW, &overlapping, &payload);
}

#[test]
fn an_end_before_what_is_there_is_no_end() {
    let packet = ipv4(&long(100));
    let (header, body) = packet.split_at(20);
    let mut decoder = Decoder::default();
    let behind = part(header, 1, 48, &body[48..80], true);
    let end = part(header, 1, 16, &body[16..40], false);
    assert_eq!(decoder.decode(&frame(RAW, &behind)), Err(Unusable::Held));
    assert_eq!(decoder.decode(&frame(RAW, &end)), Err(Unusable::Fragment));
    assert_eq!(decoder.lost(), 1);
}

#[test]
fn a_part_that_is_cut_off_is_of_no_use() {
    let parts = cut(&ipv4(&long(100)), 1, &[5]);
    let mut decoder = Decoder::default();
    let cut = Frame {
        wire_len: parts[0].len(),
        ..frame(RAW, &parts[0][..30])
    };
    assert_eq!(decoder.decode(&cut), Err(Unusable::Fragment));
    assert_eq!(decoder.decode(&frame(RAW, &parts[1])), Err(Unusable::Held));
}

#[test]
fn what_stays_incomplete_is_given_up_by_the_packets_own_clock() {
    let payload = long(100);
    let (old, new) = (cut(&ipv4(&payload), 1, &[5]), cut(&ipv4(&payload), 2, &[5]));
    let mut decoder = Decoder::default();
    assert_eq!(decoder.decode(&at(&old[0], 1)), Err(Unusable::Held));
    assert_eq!(decoder.decode(&at(&new[0], 31)), Err(Unusable::Held));
    assert_eq!(decoder.lost(), 0);
    assert_eq!(decoder.decode(&at(&old[1], 32)), Err(Unusable::Held));
    assert_eq!(decoder.lost(), 1);
    // Clocks step back.
    let segment = decoder.decode(&at(&new[1], 5)).unwrap();
    assert_eq!(segment.payload, payload);
}

/// However many come, what is held stays bounded, and each is held, joined or lost.
#[test]
fn a_flood_of_fragments_stays_within_bounds() {
    let packet = ipv4(&long(60_000));
    let parts = cut(&packet, 0, &[20]);
    let mut decoder = Decoder::default();
    let (mut held, mut lost) = (0, 0);
    for which in [0, 1] {
        for id in 0..5000_u16 {
            let mut flood = parts[which].clone();
            flood[4..6].copy_from_slice(&id.to_be_bytes());
            // Of other hosts, so that the second round completes none of the first.
            flood[15] = which as u8;
            assert_eq!(decoder.decode(&frame(RAW, &flood)), Err(Unusable::Held));
            held += 1;
            lost += decoder.lost();
            assert!(decoder.fragments.is_bounded());
        }
    }
    assert!(lost > 0);
    assert_eq!(lost + decoder.finish(), held);
}

#[test]
fn a_packet_in_too_many_pieces_is_given_up() {
    let packet = ipv4(&long(8000));
    let parts = cut(&packet, 1, &(1..1000).collect::<Vec<_>>());
    let mut decoder = Decoder::default();
    let mut every_other = parts.iter().step_by(2);
    assert!(every_other.any(|part| decoder.decode(&frame(RAW, part)) == Err(Unusable::Fragment)));
    // In order there is never more than one piece.
    let mut decoder = Decoder::default();
    let (last, others) = parts.split_last().unwrap();
    for part in others {
        assert_eq!(decoder.decode(&frame(RAW, part)), Err(Unusable::Held));
    }
    check(&mut decoder, RAW, last, &long(8000));
}

#[test]
fn fragments_that_can_t_lead_to_tcp_are_not_kept() {
    let ping = cut(&carried(1, &long(100)), 1, &[5]);
    assert_eq!(reason(RAW, &ping[0]), Unusable::NotTcp);
}
