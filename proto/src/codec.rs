//! Values to protobuf and back. Large payloads are slices on the way out, and are copied once on the way in.
//!
//! What enters from a peer is not trusted: an index out of range, a missing field or a head that is none refuses
//! the message with a reason. What may be lost: names of ends that only a newer version knows.

mod decode;
mod encode;
mod measured;

pub(crate) use decode::Decoder;
pub(crate) use encode::{encode_down, encode_hello, encode_up, encode_welcome};

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::{Buf, Bytes};
    use proptest::prelude::*;
    use prost::Message;
    use reprise_traffic::exchange::Captured;
    use reprise_traffic::{
        Answer, AnswerHead, Body, Closed, Disposition, DropReason, Epoch, Exchange, ExchangeId,
        Fault, Head, Source, TargetName,
    };

    use super::decode::protocol;
    use super::encode::{begin_piece, encode_settled};
    use super::*;
    use crate::frames::Chunks;
    use crate::message::{
        Batch, Downstream, Item, LinkError, Notice, Parcel, Settlement, in_order,
    };
    use crate::pieces::{MAX_ANSWER, PIECE, SMALL};
    use crate::wire;

    /// The messages that a batch becomes.
    fn encoded(batch: Batch) -> Vec<wire::Downstream> {
        let mut chunks = Chunks::default();
        encode_down(Downstream::Batch(batch), &mut chunks);
        let mut bytes: Vec<u8> = Vec::new();
        while let Some(chunk) = chunks.next() {
            bytes.extend_from_slice(&chunk);
        }
        let mut bytes = Bytes::from(bytes);
        let mut messages = Vec::new();
        while bytes.has_remaining() {
            assert_eq!(bytes.get_u8(), 0);
            let length = bytes.get_u32() as usize;
            messages.push(wire::Downstream::decode(bytes.split_to(length)).unwrap());
        }
        messages
    }

    /// What the other side makes of messages.
    fn decoded(messages: Vec<wire::Downstream>) -> Result<Vec<Downstream>, LinkError> {
        let mut decoder = Decoder::default();
        let results = messages
            .into_iter()
            .filter_map(|message| decoder.down(message).transpose());
        results.collect()
    }

    fn answer(body: usize) -> Box<Answer> {
        Box::new(Answer {
            first_byte_ns: 8,
            last_byte_ns: 9,
            head: AnswerHead::parse(Bytes::from_static(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"))
                .unwrap(),
            body: vec![b'a'; body].into(),
            body_len: 1 << 30,
            complete: true,
        })
    }

    fn parcel(sequence: u64, body: usize, answer: Option<Box<Answer>>) -> Parcel {
        let epoch = Arc::new(Epoch::new("web1", 99));
        let mut exchange = Exchange::clone(&exchange(&epoch, sequence));
        let byte = |n: usize| (n / 3 + n / 1000) as u8;
        exchange.request.body = (0..body).map(byte).collect::<Vec<u8>>().into();
        exchange.request.answer = answer;
        Parcel {
            exchange: Arc::new(exchange),
            target: None,
            resent: None,
            claim: None,
        }
    }

    fn batch(parcels: Vec<Parcel>) -> Batch {
        Batch {
            id: 1,
            settled_below: Vec::new(),
            parcels,
            closed: Vec::new(),
        }
    }

    fn notice(behind: usize, target: Option<&TargetName>) -> Notice {
        Notice {
            behind,
            target: target.cloned(),
            closed: Closed {
                closed_ns: 11,
                client: "[::1]:5".parse().unwrap(),
                server: "10.0.0.1:80".parse().unwrap(),
                due_ns: target.map(|_| 12),
            },
        }
    }

    fn exchange(epoch: &Arc<Epoch>, sequence: u64) -> Arc<Exchange> {
        Arc::new(Exchange {
            id: ExchangeId {
                epoch: epoch.clone(),
                sequence,
            },
            due_ns: Some(9),
            request: Captured {
                captured_ns: 7,
                client: "[::1]:5".parse().unwrap(),
                server: "10.0.0.1:80".parse().unwrap(),
                source: Source::Mirror,
                head: Head::parse(Bytes::from_static(b"POST /x HTTP/1.1\r\nA: b\r\n\r\n")).unwrap(),
                body: Body::from(&b"body"[..]),
                trailers: Bytes::from_static(b"T: 1\r\n"),
                answer: None,
                label: None,
            },
        })
    }

    #[test]
    fn batches_survive_the_wire() {
        let epoch = Arc::new(Epoch::new("web1", 99));
        let target = TargetName::new("shop/a").unwrap();
        let batch = Batch {
            id: 3,
            settled_below: vec![(epoch.clone(), 40)],
            parcels: vec![
                Parcel {
                    exchange: exchange(&epoch, 41),
                    target: None,
                    resent: None,
                    claim: None,
                },
                Parcel {
                    exchange: exchange(&epoch, 42),
                    target: Some(target.clone()),
                    resent: Some(Duration::from_millis(5)),
                    claim: None,
                },
            ],
            closed: vec![notice(1, None), notice(2, Some(&target))],
        };
        let mut messages = decoded(encoded(batch)).unwrap();
        let Some(Downstream::Batch(batch)) = messages.pop() else {
            panic!("not a batch");
        };
        assert_eq!(batch.id, 3);
        assert_eq!(batch.settled_below, vec![(epoch.clone(), 40)]);
        assert_eq!(batch.parcels[0].target, None);
        assert_eq!(batch.closed, [notice(1, None), notice(2, Some(&target))]);
        assert_eq!(batch.parcels[1].target, Some(target));
        assert_eq!(batch.parcels[1].resent, Some(Duration::from_millis(5)));
        let (sent, got) = (exchange(&epoch, 42), &batch.parcels[1].exchange);
        assert_eq!(format!("{sent:?}"), format!("{got:?}"));
    }

    #[test]
    fn settlements_survive_the_wire_and_share_entries() {
        let epoch = Arc::new(Epoch::new("web1", 99));
        let name = TargetName::new("shop/a").unwrap();
        let ends = [
            Disposition::Replayed(200),
            Disposition::Replayed(200),
            Disposition::Failed(Fault::Network),
            Disposition::Unknown,
            Disposition::Filtered,
            Disposition::SampledOut,
            Disposition::Dropped(DropReason::RateLimited),
        ];
        let settlements: Vec<Settlement> = ends
            .iter()
            .enumerate()
            .map(|(sequence, end)| Settlement {
                id: ExchangeId {
                    epoch: epoch.clone(),
                    sequence: sequence as u64,
                },
                outcomes: [(name.clone(), *end)].into(),
            })
            .collect();
        let wire = encode_settled(&settlements);
        assert_eq!(wire.runs.len(), ends.len() - 1);
        assert_eq!(Decoder::default().settled(wire).unwrap(), settlements);
    }

    #[test]
    fn ends_that_only_a_newer_neighbour_has_names_for_are_counted_as_others() {
        let epochs = vec![wire::Epoch::default()];
        let targets = vec!["shop/a".to_owned()];
        let settled = |disposition: i32, reason: &str| {
            let outcome = wire::Outcome {
                disposition,
                reason: reason.to_owned(),
                ..Default::default()
            };
            let run = wire::SettledRun {
                epoch: 0,
                sequences: vec![1, 2],
                outcomes: vec![outcome],
            };
            let message = wire::Settled {
                epochs: epochs.clone(),
                targets: targets.clone(),
                runs: vec![run],
            };
            // As it comes: over the wire.
            let message = wire::Settled::decode(&message.encode_to_vec()[..]).unwrap();
            let settlements = Decoder::default().settled(message)?;
            assert_eq!(settlements.len(), 2);
            Ok::<_, LinkError>(settlements[0].outcomes[0].1)
        };
        let dropped = wire::Disposition::Dropped as i32;
        let failed = wire::Disposition::Failed as i32;
        for (disposition, reason, end) in [
            (dropped, "moonrise", Disposition::Dropped(DropReason::Other)),
            (
                dropped,
                "expired",
                Disposition::Dropped(DropReason::Expired),
            ),
            (failed, "weather", Disposition::Failed(Fault::Other)),
            (99, "weather", Disposition::Unknown),
        ] {
            assert_eq!(settled(disposition, reason), Ok(end), "{reason}");
        }
        assert_eq!(settled(0, ""), Err(protocol("no disposition")));
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        let parcel = wire::Parcel {
            epoch: 9,
            ..Default::default()
        };
        let batch = wire::Batch {
            parcels: vec![parcel],
            ..Default::default()
        };
        let refused = Decoder::default().batch(batch).unwrap_err();
        assert_eq!(refused, protocol("a parcel's epoch is not in its batch"));
        let closed = |client: &str, target| wire::Closed {
            client: client.to_owned(),
            server: "10.0.0.1:80".to_owned(),
            target,
            ..Default::default()
        };
        for (closed, reason) in [
            (vec![closed("here", 0)], "\"here\" is no address"),
            (
                vec![closed("10.0.0.2:1", 1)],
                "a closed connection's target is not in its batch",
            ),
            (
                vec![wire::Closed::default(); (1 << 14) + 1],
                "more closed connections than a batch holds",
            ),
        ] {
            let batch = wire::Batch {
                closed,
                ..Default::default()
            };
            let refused = Decoder::default().batch(batch).unwrap_err();
            assert_eq!(refused, protocol(reason));
        }
        assert!(Decoder::default().hello(None).is_err());
        let newer = wire::Downstream { message: None };
        assert!(Decoder::default().down(newer).unwrap().is_none());
    }

    /// A sender of the version before has none, and one before it passes over what it doesn't know.
    #[test]
    fn neighbours_without_notices_get_on_with_those_who_have_them() {
        #[derive(Clone, PartialEq, prost::Message)]
        struct Before {
            #[prost(uint64, tag = "1")]
            id: u64,
            #[prost(message, repeated, tag = "4")]
            parcels: Vec<wire::Parcel>,
        }
        let sent = Batch {
            closed: vec![notice(1, None)],
            ..batch(vec![parcel(1, 3, None)])
        };
        let Some(wire::downstream::Message::Batch(sent)) = encoded(sent)[0].message.clone() else {
            panic!("not a batch");
        };
        let old = Before::decode(&sent.encode_to_vec()[..]).unwrap();
        assert_eq!((old.id, &old.parcels), (1, &sent.parcels));
    }

    #[test]
    fn items_come_in_the_order_in_which_they_were_put() {
        let parcels = |n| (0..n).map(|sequence| parcel(sequence, 0, None)).collect();
        let order = |count, behind: &[usize]| {
            let notices = behind.iter().map(|behind| notice(*behind, None)).collect();
            let items = in_order(parcels(count), notices).map(|item| match item {
                Item::Parcels(parcels) => parcels
                    .iter()
                    .map(|parcel| format!("p{}", parcel.exchange.id.sequence))
                    .collect::<Vec<_>>()
                    .join("+"),
                Item::Closed(notice) => format!("c{}", notice.behind),
            });
            items.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(order(3, &[0, 2, 2, 3]), "c0 p0+p1 c2 c2 p2 c3");
        assert_eq!(order(0, &[0]), "c0");
        // Nobody sends these.
        assert_eq!(order(1, &[9, 0]), "p0 c9 c0");
    }

    #[test]
    fn an_announced_end_of_a_piece_is_what_protobuf_has() {
        for (length, data) in [
            (SMALL + 1, 1),
            (1 << 26, 127),
            (40_000, 128),
            (300_000, 20_000),
        ] {
            let piece = wire::Piece {
                length: length as u64,
                data: Bytes::from(vec![b'x'; data]),
            };
            let message = wire::Downstream {
                message: Some(wire::downstream::Message::Piece(piece.clone())),
            };
            let mut bytes = begin_piece(length, data);
            bytes.extend_from_slice(&piece.data);
            assert_eq!(bytes, message.encode_to_vec());
        }
    }

    #[test]
    fn a_long_answer_is_carried_up_to_a_bound() {
        let sent = parcel(1, 0, Some(answer(MAX_ANSWER + 1)));
        let Downstream::Batch(got) = &decoded(encoded(batch(vec![sent]))).unwrap()[0] else {
            panic!("not a batch");
        };
        let got = got.parcels[0].exchange.request.answer.clone().unwrap();
        assert_eq!((got.body.len(), got.body_len), (MAX_ANSWER, 1 << 30));
        assert!(!got.is_whole());
    }

    #[test]
    fn pieces_that_are_lost_or_left_over_are_refused() {
        let messages = encoded(batch(vec![parcel(1, PIECE + 1, None)]));
        assert_eq!(messages.len(), 3);
        let of = |kept: &[usize]| {
            let kept = kept.iter().map(|index| messages[*index].clone());
            decoded(kept.collect()).map(|messages| messages.len())
        };
        assert_eq!(of(&[0, 1, 2]), Ok(1));
        let without = Err(protocol("an exchange without its pieces"));
        assert_eq!(of(&[2]), without);
        assert_eq!(of(&[0, 2]), without);
        assert_eq!(of(&[0, 1, 2, 2]), without);
        let left = Err(protocol("pieces that no exchange of their batch has"));
        assert_eq!(of(&[0, 1, 0, 1, 2]), left);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_batch_comes_back_equal(
            sizes in proptest::collection::vec(
                (0_usize..3 * PIECE, proptest::option::of(0_usize..2 * PIECE)),
                1..5,
            ),
        ) {
            let numbered = || (0..).zip(&sizes);
            let make = || numbered()
                .map(|(sequence, (body, kept))| parcel(sequence, *body, kept.map(answer)))
                .collect::<Vec<_>>();
            let messages = decoded(encoded(batch(make()))).unwrap();
            let [Downstream::Batch(got)] = &messages[..] else {
                panic!("not one batch");
            };
            prop_assert_eq!(got.parcels.len(), sizes.len());
            for (sent, got) in make().iter().zip(&got.parcels) {
                let (sent, got) = (&sent.exchange, &got.exchange);
                prop_assert_eq!(&sent.id, &got.id);
                prop_assert!(sent.request.body == got.request.body);
                prop_assert!(sent.request.answer == got.request.answer);
            }
        }

        #[test]
        fn messages_out_of_order_give_one_line_and_no_panic(
            order in proptest::collection::vec(0_usize..8, 0..20),
        ) {
            let mut messages = encoded(batch(vec![
                parcel(0, 2 * PIECE + 1, Some(answer(SMALL + 1))),
                parcel(1, SMALL + 1, None),
            ]));
            messages.extend(encoded(batch(vec![parcel(2, 1, None)])));
            messages.push(wire::Downstream { message: None });
            prop_assert_eq!(messages.len(), 8);
            let shuffled = order.iter().map(|index| messages[*index].clone());
            if let Err(error) = decoded(shuffled.collect()) {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }

        #[test]
        fn garbage_gives_one_line_and_no_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cut in any::<proptest::sample::Index>(),
        ) {
            // Plain garbage, and a good message with garbage in its midst.
            let target = TargetName::new("shop/a").unwrap();
            let good = Batch {
                closed: vec![notice(0, None), notice(1, Some(&target))],
                ..batch(vec![parcel(0, 9, Some(answer(9)))])
            };
            let good = encoded(good)[0].encode_to_vec();
            let at = cut.index(good.len());
            let mut spoilt = good[..at].to_vec();
            spoilt.extend_from_slice(&bytes);
            spoilt.extend_from_slice(&good[(at + bytes.len()).min(good.len())..]);
            for bytes in [bytes, spoilt] {
                let Ok(message) = wire::Downstream::decode(Bytes::from(bytes)) else {
                    continue;
                };
                if let Err(error) = decoded(vec![message]) {
                    prop_assert!(!error.to_string().contains('\n'), "{}", error);
                }
            }
        }
    }
}
