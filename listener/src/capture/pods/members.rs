//! Which pods there are, by what the API says.
//!
//! What enters: a list of pods, then events, as JSON. What leaves: the addresses of those that run.
//! What may be lost: nothing; what can't be understood is an error, upon which all is listed again.
//!
//! Nothing here opens a socket or reads a clock.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use anyhow::{Context as _, bail};
use serde::Deserialize;

/// More than the kernel's filter could tell apart.
const MOST: usize = 4096;

#[derive(Deserialize)]
struct List {
    metadata: ListMetadata,
    items: Option<Vec<Pod>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: serde_json::Value,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    status: Option<PodStatus>,
}

#[derive(Deserialize)]
struct Metadata {
    /// A name may be given again.
    uid: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodAddress>>,
}

#[derive(Deserialize)]
struct PodAddress {
    ip: Option<String>,
}

/// Why an event ends a watch.
#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    message: String,
}

impl Pod {
    /// Of a pod that has ended others may have the addresses by now.
    fn addresses(&self) -> anyhow::Result<Vec<IpAddr>> {
        let Some(status) = &self.status else {
            return Ok(Vec::new());
        };
        if let Some("Succeeded" | "Failed") = status.phase.as_deref() {
            return Ok(Vec::new());
        }
        let several = status.pod_ips.iter().flatten();
        let several = several.filter_map(|address| address.ip.as_deref());
        let all = several.chain(status.pod_ip.as_deref());
        all.filter(|text| !text.is_empty())
            .map(|text| {
                text.parse()
                    .with_context(|| format!("{text:?} is no address"))
            })
            .collect()
    }
}

/// The pods of a choice.
#[derive(Debug)]
pub(super) struct Members {
    by_uid: HashMap<String, Vec<IpAddr>>,
    /// From where on events are to be heard.
    pub(super) version: String,
}

impl Members {
    /// Those of a list.
    pub(super) fn of_list(json: &[u8]) -> anyhow::Result<Members> {
        let list: List = serde_json::from_slice(json).context("read the list of pods")?;
        let mut members = Members {
            by_uid: HashMap::new(),
            version: list.metadata.resource_version,
        };
        for pod in list.items.unwrap_or_default() {
            members.take(pod)?;
        }
        Ok(members)
    }

    /// Takes a line of a watch.
    pub(super) fn apply(&mut self, line: &[u8]) -> anyhow::Result<()> {
        const READ: &str = "read an event about pods";
        let Event { kind, object } = serde_json::from_slice(line).context(READ)?;
        match kind.as_str() {
            "ADDED" | "MODIFIED" => self.take(serde_json::from_value(object).context(READ)?)?,
            "DELETED" => {
                let pod: Pod = serde_json::from_value(object).context(READ)?;
                self.by_uid.remove(&pod.metadata.uid);
            }
            // Says that nothing happened; nobody has asked for it.
            "BOOKMARK" => {}
            "ERROR" => {
                let problem: Problem = serde_json::from_value(object).context(READ)?;
                bail!("the API server ends the watch: {}", problem.message);
            }
            other => bail!("the API server says {other:?} of a pod"),
        }
        Ok(())
    }

    fn take(&mut self, pod: Pod) -> anyhow::Result<()> {
        let addresses = pod.addresses()?;
        self.by_uid.insert(pod.metadata.uid, addresses);
        match self.by_uid.len() > MOST {
            true => bail!("there are more than {MOST} such pods; NODE_NAME says whose are wanted"),
            false => Ok(()),
        }
    }

    /// Of all, as far as they have one and run.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.by_uid.values().flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, status: &str) -> String {
        format!(
            r#"{{"kind":"Pod","metadata":{{"uid":"{uid}","name":"x"}},"spec":{{}},"status":{status}}}"#
        )
    }

    fn running(addresses: &[&str]) -> String {
        let ips: Vec<String> = addresses
            .iter()
            .map(|ip| format!(r#"{{"ip":"{ip}"}}"#))
            .collect();
        let (first, ips) = (addresses[0], ips.join(","));
        format!(r#"{{"phase":"Running","podIP":"{first}","podIPs":[{ips}]}}"#)
    }

    fn list(pods: &[String]) -> String {
        let pods = pods.join(",");
        format!(r#"{{"kind":"PodList","metadata":{{"resourceVersion":"7"}},"items":[{pods}]}}"#)
    }

    fn event(kind: &str, object: &str) -> String {
        format!(r#"{{"type":"{kind}","object":{object}}}"#)
    }

    fn said(members: &Members) -> Vec<String> {
        members
            .addresses()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn pods_come_and_go() {
        let pods = [
            pod("a", &running(&["10.0.0.1", "fd00::1"])),
            pod("b", r#"{"phase":"Pending"}"#),
        ];
        let mut members = Members::of_list(list(&pods).as_bytes()).unwrap();
        assert_eq!(members.version, "7");
        assert_eq!(said(&members), ["10.0.0.1", "fd00::1"]);
        for (kind, object, expected) in [
            (
                "MODIFIED",
                pod("b", &running(&["10.0.0.2"])),
                &["10.0.0.1", "10.0.0.2", "fd00::1"][..],
            ),
            (
                "ADDED",
                pod("c", r#"{"podIP":"10.0.0.3"}"#),
                &["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"],
            ),
            (
                "BOOKMARK",
                r#"{"metadata":{"resourceVersion":"9"}}"#.to_owned(),
                &["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"],
            ),
            (
                "DELETED",
                pod("a", &running(&["10.0.0.1"])),
                &["10.0.0.2", "10.0.0.3"],
            ),
            // A job's pod is there for long, its address is not.
            (
                "MODIFIED",
                pod("b", r#"{"phase":"Succeeded","podIP":"10.0.0.2"}"#),
                &["10.0.0.3"],
            ),
            ("DELETED", pod("nobody", "null"), &["10.0.0.3"]),
        ] {
            members.apply(event(kind, &object).as_bytes()).unwrap();
            assert_eq!(said(&members), expected, "{kind}");
        }
    }

    #[test]
    fn an_empty_list_has_no_address() {
        for items in ["[]", "null"] {
            let json = format!(r#"{{"metadata":{{"resourceVersion":"7"}},"items":{items}}}"#);
            assert!(
                Members::of_list(json.as_bytes())
                    .unwrap()
                    .addresses()
                    .is_empty()
            );
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let mut members = Members::of_list(list(&[]).as_bytes()).unwrap();
        for (line, what) in [
            (
                event("ERROR", r#"{"code":410,"message":"too old"}"#),
                "too old",
            ),
            (event("EXPLODED", "{}"), "EXPLODED"),
            (event("ADDED", "{}"), "read an event"),
            (
                event("ADDED", &pod("a", r#"{"podIP":"x"}"#)),
                "\"x\" is no address",
            ),
            ("garbage".to_owned(), "read an event"),
        ] {
            let error = members.apply(line.as_bytes()).unwrap_err();
            assert!(format!("{error:#}").contains(what), "{error:#}");
        }
        let many: Vec<String> = (0..=MOST).map(|n| pod(&n.to_string(), "null")).collect();
        let error = Members::of_list(list(&many).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("NODE_NAME"), "{error}");
        assert!(Members::of_list(b"{}").is_err());
    }
}
