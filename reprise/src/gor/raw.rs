//! What `--input-raw` captures: `:80`, `:80,8080`, `:`, `10.0.0.1:80`, `localhost:80`, `eth0:80`, `eth*:80`,
//! `[::1]:80`, `shop.pcap:80`, `k8s://shop/deployment/web:80`.
//!
//! What enters: text without its limit. What leaves: what is to be captured. What may be lost: nothing; nothing is
//! looked up here.

use reprise_listener::capture::CaptureSpec;
use serde::Serialize;

/// Where packets come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RawAddress {
    /// Interfaces, addresses or pods, with ports or all of them. `localhost` is two: 127.0.0.1 and ::1.
    Live(Vec<CaptureSpec>),
    /// A capture file; HTTP is recognised on all ports where there are none.
    File {
        /// As it was written.
        path: String,
        /// Of the servers, in the order given.
        ports: Vec<u16>,
    },
}

const FORMS: &str = "write :PORT[,PORT…], IFACE:PORT, IP:PORT, [IPV6]:PORT, localhost:PORT or FILE.pcap[:PORT]; `:` alone takes all ports";

const POD_FORMS: &str = "write k8s://[NAMESPACE/]KIND/NAME:PORT, where KIND is pod, deployment, daemonset, labelSelector or fieldSelector";

impl RawAddress {
    /// Reads an address. With `in_file` it is a file's, whatever its name.
    ///
    /// # Errors
    /// What is wrong and what to write, without the text.
    pub(super) fn parse(text: &str, in_file: bool) -> Result<RawAddress, String> {
        if text.starts_with("k8s://") {
            let spec = text.parse::<CaptureSpec>();
            let spec =
                spec.map_err(|error| format!("{}; {POD_FORMS}", problem(&error.to_string())));
            return Ok(RawAddress::Live(vec![spec?]));
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
        let specs = places.into_iter().map(|place| spec(place, ports));
        specs.collect::<Result<_, _>>().map(RawAddress::Live)
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

    #[test]
    fn each_form_is_read() {
        for (text, address) in [
            (":80", live(&[":80"])),
            (":80,8080", live(&[":80,8080"])),
            ("10.0.0.1:80", live(&["10.0.0.1:80"])),
            ("localhost:80", live(&["127.0.0.1:80", "[::1]:80"])),
            ("eth0:80", live(&["eth0:80"])),
            ("eth*:80", live(&["eth*:80"])),
            ("[::1]:80", live(&["[::1]:80"])),
            (":", live(&[":*"])),
            ("eth0:", live(&["eth0:*"])),
            ("localhost:", live(&["127.0.0.1:*", "[::1]:*"])),
            ("shop.pcap", file("shop.pcap", &[])),
            ("/a/b.pcapng.gz:80,81", file("/a/b.pcapng.gz", &[80, 81])),
            ("shop.pcap:", file("shop.pcap", &[])),
            (
                "k8s://deployment/web:80",
                live(&["k8s://deployment/web:80"]),
            ),
            (
                "k8s://shop/pod/web-1:80,81",
                live(&["k8s://shop/pod/web-1:80,81"]),
            ),
            (
                "k8s://labelSelector/tier in (a,b):",
                live(&["k8s://labelSelector/tier in (a,b):*"]),
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
            ("k8s://web:80", "kind or name is missing"),
            ("k8s://deployment/web", "the port is missing"),
            ("k8s://deployment/:80", "kind or name is missing"),
            ("k8s://deployment/Web:80", "small letters"),
            ("k8s://job/web:80", "pods are named by"),
            ("k8s://shop/job/web:80", "pods are named by"),
            ("k8s://Shop/pod/web:80", "no namespace has such a name"),
            ("k8s://pod/web:x", "a port is a number"),
        ] {
            let error = RawAddress::parse(text, false).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
            assert!(error.contains("write") && !error.contains('\n'), "{error}");
        }
    }
}
