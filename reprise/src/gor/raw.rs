//! What `--input-raw` captures: `:80`, `:80,8080`, `:`, `10.0.0.1:80`, `localhost:80`, `eth0:80`, `eth*:80`,
//! `[::1]:80`, `shop.pcap:80`, `k8s://shop/deployment/web:80`.
//!
//! What enters: text without its limit. What leaves: what is to be captured. What may be lost: nothing; nothing is
//! looked up here.

use std::fmt;

use reprise_listener::capture::CaptureSpec;
use serde::Serialize;

/// Where packets come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RawAddress {
    /// Interfaces or addresses, with ports. `localhost` is two: 127.0.0.1 and ::1.
    Live(Vec<CaptureSpec>),
    /// The same with all ports: an interface, a pattern, an address (an IPv6 one in brackets), or all of them where
    /// it is empty.
    AllPorts(Vec<String>),
    /// A capture file; HTTP is recognised on all ports where there are none.
    File {
        /// As it was written.
        path: String,
        /// Of the servers, in the order given.
        ports: Vec<u16>,
    },
    /// What reaches pods of this node. Where none matches, nothing is captured.
    Pods(Pods),
}

/// A choice of pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Pods {
    /// None: that of this process's own pod.
    pub(crate) namespace: Option<String>,
    /// Which of its pods.
    pub(crate) choice: PodChoice,
    /// Of the servers; all where it is empty.
    pub(crate) ports: Vec<u16>,
}

/// How pods are chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PodChoice {
    /// One, by its name.
    Pod(String),
    /// Those of a deployment.
    Deployment(String),
    /// Those of a daemon set.
    DaemonSet(String),
    /// Those that a label selector takes.
    Labels(String),
    /// Those that a field selector takes.
    Fields(String),
}

impl fmt::Display for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match &self.choice {
            PodChoice::Pod(name) => ("pod", name),
            PodChoice::Deployment(name) => ("deployment", name),
            PodChoice::DaemonSet(name) => ("daemonset", name),
            PodChoice::Labels(selector) => ("labelSelector", selector),
            PodChoice::Fields(selector) => ("fieldSelector", selector),
        };
        f.write_str("k8s://")?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{kind}/{name}:")?;
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        match ports.is_empty() {
            true => f.write_str("*"),
            false => f.write_str(&ports.join(",")),
        }
    }
}

const FORMS: &str = "write :PORT[,PORT…], IFACE:PORT, IP:PORT, [IPV6]:PORT, localhost:PORT or FILE.pcap[:PORT]; `:` alone takes all ports";

const POD_FORMS: &str = "write k8s://[NAMESPACE/]KIND/NAME:PORT, where KIND is pod, deployment, daemonset, labelSelector or fieldSelector";

impl RawAddress {
    /// Reads an address. With `in_file` it is a file's, whatever its name.
    ///
    /// # Errors
    /// What is wrong and what to write, without the text.
    pub(super) fn parse(text: &str, in_file: bool) -> Result<RawAddress, String> {
        if let Some(pods) = text.strip_prefix("k8s://") {
            return Pods::parse(pods).map(RawAddress::Pods);
        }
        if let Some((path, ports)) = capture_file(text, in_file) {
            let path = path.to_owned();
            return Ok(RawAddress::File { path, ports });
        }
        let (place, ports) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("the port is missing; {FORMS}"))?;
        let places = match place {
            "localhost" => vec!["127.0.0.1", "[::1]"],
            _ => vec![place],
        };
        let spec = |place, ports| {
            let spec = format!("{place}:{ports}").parse::<CaptureSpec>();
            spec.map_err(|error| format!("{}; {FORMS}", problem(&error.to_string())))
        };
        if !ports.is_empty() {
            let specs = places.into_iter().map(|place| spec(place, ports));
            return specs.collect::<Result<_, _>>().map(RawAddress::Live);
        }
        for place in &places {
            spec(place, "1")?;
        }
        Ok(RawAddress::AllPorts(
            places.into_iter().map(str::to_owned).collect(),
        ))
    }
}

/// A capture's own error also has its text and its forms.
fn problem(error: &str) -> &str {
    let error = error.split_once("\": ").map_or(error, |(_, rest)| rest);
    error
        .split_once("; write")
        .map_or(error, |(first, _)| first)
}

/// A file's path and ports.
fn capture_file(text: &str, in_file: bool) -> Option<(&str, Vec<u16>)> {
    let (path, list) = match text.rsplit_once(':') {
        Some((path, "")) if !path.is_empty() => (path, Vec::new()),
        Some((path, list)) if !path.is_empty() => match ports(list) {
            Some(list) => (path, list),
            None => (text, Vec::new()),
        },
        _ => (text, Vec::new()),
    };
    let name = path.trim_end_matches(".gz").trim_end_matches(".zst");
    let named_so = [".pcap", ".pcapng", ".cap"]
        .iter()
        .any(|suffix| name.ends_with(suffix));
    (in_file || named_so).then_some((path, list))
}

fn ports(list: &str) -> Option<Vec<u16>> {
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
    list.split(',').map(port).collect()
}

impl Pods {
    fn parse(text: &str) -> Result<Pods, String> {
        let wrong = |problem: &str| format!("{problem}; {POD_FORMS}");
        let (rest, list) = text
            .rsplit_once(':')
            .ok_or_else(|| wrong("the port is missing"))?;
        let ports = match list {
            "" => Vec::new(),
            list => ports(list).ok_or_else(|| wrong("a port is a number from 1 to 65535"))?,
        };
        let (first, behind) = rest
            .split_once('/')
            .ok_or_else(|| wrong("the kind or the name is missing"))?;
        if let Some(choice) = PodChoice::parse(first, behind) {
            let choice = choice.map_err(wrong)?;
            return Ok(Pods {
                namespace: None,
                choice,
                ports,
            });
        }
        let choice = behind
            .split_once('/')
            .and_then(|(kind, name)| PodChoice::parse(kind, name))
            .ok_or_else(|| wrong("there is no such kind"))?;
        if !is_name(first) {
            return Err(wrong("the namespace is no name"));
        }
        Ok(Pods {
            namespace: Some(first.to_owned()),
            choice: choice.map_err(wrong)?,
            ports,
        })
    }
}

impl PodChoice {
    /// None where there is no such kind.
    fn parse(kind: &str, name: &str) -> Option<Result<PodChoice, &'static str>> {
        let (make, selects): (fn(String) -> PodChoice, bool) = match kind {
            "pod" | "pods" => (PodChoice::Pod, false),
            "deployment" | "deployments" => (PodChoice::Deployment, false),
            "daemonset" | "daemonsets" => (PodChoice::DaemonSet, false),
            "labelSelector" => (PodChoice::Labels, true),
            "fieldSelector" => (PodChoice::Fields, true),
            _ => return None,
        };
        Some(match (name.is_empty(), selects || is_name(name)) {
            (true, _) => Err("the name is missing"),
            (false, false) => Err("a name has small letters, digits, - and ."),
            (false, true) => Ok(make(name.to_owned())),
        })
    }
}

/// As of RFC 1123, which Kubernetes' names follow.
fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    !text.is_empty() && text.len() <= 253 && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(specs: &[&str]) -> RawAddress {
        RawAddress::Live(specs.iter().map(|spec| spec.parse().unwrap()).collect())
    }

    fn file(path: &str, ports: &[u16]) -> RawAddress {
        RawAddress::File {
            path: path.to_owned(),
            ports: ports.to_vec(),
        }
    }

    fn pods(namespace: Option<&str>, choice: PodChoice, ports: &[u16]) -> RawAddress {
        RawAddress::Pods(Pods {
            namespace: namespace.map(str::to_owned),
            choice,
            ports: ports.to_vec(),
        })
    }

    #[test]
    fn each_form_is_read() {
        let all = |places: &[&str]| {
            RawAddress::AllPorts(places.iter().map(|place| (*place).to_owned()).collect())
        };
        let name = str::to_owned;
        for (text, address) in [
            (":80", live(&[":80"])),
            (":80,8080", live(&[":80,8080"])),
            ("10.0.0.1:80", live(&["10.0.0.1:80"])),
            ("localhost:80", live(&["127.0.0.1:80", "[::1]:80"])),
            ("eth0:80", live(&["eth0:80"])),
            ("eth*:80", live(&["eth*:80"])),
            ("[::1]:80", live(&["[::1]:80"])),
            (":", all(&[""])),
            ("eth0:", all(&["eth0"])),
            ("localhost:", all(&["127.0.0.1", "[::1]"])),
            ("shop.pcap", file("shop.pcap", &[])),
            ("/a/b.pcapng.gz:80,81", file("/a/b.pcapng.gz", &[80, 81])),
            ("shop.pcap:", file("shop.pcap", &[])),
            (
                "k8s://deployment/web:80",
                pods(None, PodChoice::Deployment(name("web")), &[80]),
            ),
            (
                "k8s://shop/pod/web-1:80,81",
                pods(Some("shop"), PodChoice::Pod(name("web-1")), &[80, 81]),
            ),
            (
                "k8s://shop/labelSelector/app.kubernetes.io/name=web,tier in (a,b):",
                pods(
                    Some("shop"),
                    PodChoice::Labels(name("app.kubernetes.io/name=web,tier in (a,b)")),
                    &[],
                ),
            ),
            (
                "k8s://fieldSelector/spec.nodeName=n1:80",
                pods(None, PodChoice::Fields(name("spec.nodeName=n1")), &[80]),
            ),
            (
                "k8s://daemonset/d:80",
                pods(None, PodChoice::DaemonSet(name("d")), &[80]),
            ),
        ] {
            assert_eq!(RawAddress::parse(text, false), Ok(address), "{text}");
        }
        assert_eq!(RawAddress::parse("dump:80", true), Ok(file("dump", &[80])));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (text, what) in [
            ("80", "the port is missing"),
            (":0", "a port is a number"),
            ("eth0:http", "a port is a number"),
            ("::1:80", "brackets"),
            ("a/b:", "no interface has such a name"),
            ("k8s://web:80", "the kind or the name is missing"),
            ("k8s://deployment/web", "the port is missing"),
            ("k8s://deployment/:80", "the name is missing"),
            ("k8s://deployment/Web:80", "small letters"),
            ("k8s://job/web:80", "no such kind"),
            ("k8s://shop/job/web:80", "no such kind"),
            ("k8s://Shop/pod/web:80", "the namespace"),
            ("k8s://pod/web:x", "a port is a number"),
        ] {
            let error = RawAddress::parse(text, false).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
            assert!(error.contains("write") && !error.contains('\n'), "{error}");
        }
    }
}
