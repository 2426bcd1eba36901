//! What a taker has measured, to protobuf and back.
//!
//! What enters and leaves: values and messages. What may be lost: causes that this version doesn't know, which come from a
//! newer one; they count as broken connections.

use reprise_traffic::TargetName;
use reprise_traffic::measure::{Cause, Gaps, Measured, NoHistogram, Times};

use super::decode::{Decoded, protocol};
use crate::wire;

pub(super) fn encode(targets: &[(TargetName, Measured)]) -> wire::Measured {
    let targets = targets.iter().map(|(target, measured)| {
        let failures = measured.failures.iter();
        let statuses = measured.statuses.iter();
        wire::TargetMeasured {
            target: target.to_string(),
            sent: measured.sent,
            inversions: measured.inversions,
            statuses: statuses
                .map(|(status, n)| (u32::from(*status), *n))
                .collect(),
            failures: failures
                .map(|(cause, n)| (cause.as_str().to_owned(), *n))
                .collect(),
            lateness: measured.lateness.encode().into(),
            latency: measured.latency.encode().into(),
            service: measured.service.encode().into(),
            gaps: measured.gaps.count,
            gaps_due_ns: measured.gaps.due_ns,
            gaps_off_ns: measured.gaps.off_ns,
        }
    });
    wire::Measured {
        targets: targets.collect(),
    }
}

pub(super) fn decode(
    measured: wire::Measured,
    mut named: impl FnMut(&[String]) -> Decoded<Vec<TargetName>>,
) -> Decoded<Vec<(TargetName, Measured)>> {
    let mut targets = Vec::with_capacity(measured.targets.len());
    for target in measured.targets {
        let names = named(std::slice::from_ref(&target.target))?;
        let decoded = decode_one(target)?;
        targets.extend(names.into_iter().map(|name| (name, decoded.clone())));
    }
    Ok(targets)
}

fn decode_one(target: wire::TargetMeasured) -> Decoded<Measured> {
    let times =
        |bytes: &[u8]| Times::decode(bytes).map_err(|e: NoHistogram| protocol(e.to_string()));
    let mut decoded = Measured {
        sent: target.sent,
        inversions: target.inversions,
        lateness: times(&target.lateness)?,
        latency: times(&target.latency)?,
        service: times(&target.service)?,
        gaps: Gaps {
            count: target.gaps,
            due_ns: target.gaps_due_ns,
            off_ns: target.gaps_off_ns,
        },
        ..Measured::default()
    };
    for (status, count) in target.statuses {
        let status = u16::try_from(status).map_err(|_| protocol("status is no HTTP status"))?;
        decoded.statuses.insert(status, count);
    }
    for (cause, count) in target.failures {
        let cause = cause.parse().unwrap_or(Cause::Broken);
        *decoded.failures.entry(cause).or_default() += count;
    }
    Ok(decoded)
}
