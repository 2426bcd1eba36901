//! Values to protobuf and back. Payloads are shared on the way out and sliced on the way in, not copied.
//!
//! What enters from a peer is not trusted: an index out of range, a missing field or a head that is none refuses
//! the message with a reason. What may be lost: nothing.

mod decode;
mod encode;

pub(crate) use decode::Decoder;
pub(crate) use encode::{encode_down, encode_hello, encode_up, encode_welcome};

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;
    use reprise_traffic::{DropReason, Fault};

    use std::sync::Arc;
    use std::time::Duration;

    use reprise_traffic::exchange::Captured;
    use reprise_traffic::{Disposition, Epoch, Exchange, ExchangeId, Head, Source, TargetName};

    use super::decode::protocol;
    use super::encode::encode_settled;
    use super::*;
    use crate::message::{Batch, Downstream, Parcel, Settlement};
    use crate::wire;

    fn exchange(epoch: &Arc<Epoch>, sequence: u64) -> Arc<Exchange> {
        Arc::new(Exchange {
            id: ExchangeId {
                epoch: epoch.clone(),
                sequence,
            },
            request: Captured {
                captured_ns: 7,
                client: "[::1]:5".parse().unwrap(),
                server: "10.0.0.1:80".parse().unwrap(),
                source: Source::Mirror,
                head: Head::parse(Bytes::from_static(b"POST /x HTTP/1.1\r\nA: b\r\n\r\n")).unwrap(),
                body: Bytes::from_static(b"body"),
                trailers: Bytes::from_static(b"T: 1\r\n"),
                answer: None,
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
                },
                Parcel {
                    exchange: exchange(&epoch, 42),
                    target: Some(target.clone()),
                    resent: Some(Duration::from_millis(5)),
                },
            ],
        };
        let bytes = encode_down(Downstream::Batch(batch)).encode_to_vec();
        let wire = wire::Downstream::decode(Bytes::from(bytes)).unwrap();
        let Some(Downstream::Batch(batch)) = Decoder::default().down(wire).unwrap() else {
            panic!("not a batch");
        };
        assert_eq!(batch.id, 3);
        assert_eq!(batch.settled_below, vec![(epoch.clone(), 40)]);
        assert_eq!(batch.parcels[0].target, None);
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
                outcomes: vec![(name.clone(), *end)],
            })
            .collect();
        let wire = encode_settled(settlements.clone());
        assert_eq!(wire.runs.len(), ends.len() - 1);
        assert_eq!(Decoder::default().settled(wire).unwrap(), settlements);
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
        assert!(Decoder::default().hello(None).is_err());
        let newer = wire::Downstream { message: None };
        assert!(Decoder::default().down(newer).unwrap().is_none());
    }
}
