//! Pods that come and go while traffic flows. Their addresses are those of a node's interfaces; the API server is the
//! test's own, since a cluster can't be had here.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use reprise_listener::reassembly::Answers;

use super::api::{Api, NODE};
use super::net::{Live, Net, captured_at_last};

const PORT: u16 = 8080;

/// A pod that comes or goes is followed within this time.
const SOON: Duration = Duration::from_secs(5);

struct Node {
    net: Net,
    api: Api,
}

impl Node {
    fn new() -> Option<Node> {
        let net = Net::new()?;
        for network in 1..=3 {
            net.cable(&format!("cab{network}"), network);
        }
        net.serve(PORT);
        net.serve(9090);
        let api = net.on("server", Api::start);
        Some(Node { net, api })
    }

    fn capture(&self, spec: &str) -> Live {
        let cluster = self.api.cluster.clone();
        self.net.capture(&[spec], move |settings| {
            settings.cluster = Some(cluster);
            // So the filter lets all pass that a pod says.
            settings.answers = Answers::Kept { max_body: 1024 };
        })
    }

    fn send(&self, network: u8, path: &str) {
        self.net
            .send("client", &format!("10.{network}.0.1:{PORT}"), path);
    }

    /// Sends to a pod until it is captured, or until it isn't any longer.
    fn wait_for(&self, live: &Live, network: u8, captured: bool) {
        let until = Instant::now() + SOON;
        for n in 0.. {
            let path = format!("/{network}/{captured}/{n}");
            self.send(network, &path);
            thread::sleep(Duration::from_millis(200));
            if live.has(&path) == captured {
                return;
            }
            assert!(Instant::now() < until, "{network} {captured}");
        }
    }
}

#[test]
fn pods_are_followed_and_nothing_else_is_captured() {
    let Some(node) = Node::new() else { return };
    let Node { net, api } = &node;
    api.put("web-1", "web", "10.1.0.1", NODE);
    api.put("other", "db", "10.2.0.1", NODE);
    api.put("far", "web", "10.3.0.1", "node-2");
    let live = node.capture("k8s://labelSelector/app=web:8080");
    node.wait_for(&live, 1, true);

    // One connection to a pod that stays sees all of the changes.
    let done = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let steady = scope.spawn(|| {
            let mut stream = net.on("client", || TcpStream::connect(("10.1.0.1", PORT)).unwrap());
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                let request = format!("GET /steady/{sent} HTTP/1.1\r\nHost: x\r\n\r\n");
                stream.write_all(request.as_bytes()).unwrap();
                sent += 1;
                thread::sleep(Duration::from_millis(2));
            }
            sent
        });
        api.put("web-2", "web", "10.2.0.1", NODE);
        node.wait_for(&live, 2, true);
        api.delete("web-2");
        node.wait_for(&live, 2, false);
        // What was forgotten is listed anew.
        api.expire();
        api.put("web-3", "web", "10.3.0.1", NODE);
        node.wait_for(&live, 3, true);
        // While the API can't be asked, all stays; afterwards all is as it is by then.
        api.fail(true);
        api.delete("web-3");
        thread::sleep(Duration::from_secs(2));
        node.wait_for(&live, 3, true);
        api.fail(false);
        node.wait_for(&live, 3, false);
        done.store(true, Ordering::Relaxed);
        steady.join().unwrap()
    });
    net.send("client", "10.1.0.1:9090", "/other-port");
    net.send("client", "10.2.0.1:8080", "/other-pod");
    let found = live.stop();
    let steady = found.iter().filter(|path| path.starts_with("/steady/"));
    assert_eq!(steady.count(), sent);
    assert!(
        !found.iter().any(|path| path.starts_with("/other-")),
        "{found:?}"
    );
    assert!(
        api.asked()
            .iter()
            .all(|path| path.contains("/namespaces/shop/pods?"))
    );
}

/// A deployment that isn't there has no pods, and no pods are not all pods.
#[test]
fn where_there_are_no_pods_nothing_is_captured() {
    let Some(node) = Node::new() else { return };
    let api = &node.api;
    api.put("db-1", "db", "10.1.0.1", NODE);
    let live = node.capture("k8s://shop/deployment/web:*");
    api.wait_until_asked(2);
    node.send(1, "/no-deployment");
    api.deploy("web", "web");
    api.put("web-1", "web", "10.2.0.1", NODE);
    node.wait_for(&live, 2, true);
    api.delete("web-1");
    node.wait_for(&live, 2, false);
    node.send(1, "/other");
    let found = live.stop();
    assert!(
        found.iter().all(|path| path.starts_with("/2/")),
        "{found:?}"
    );
}

#[test]
fn one_pod_is_captured_on_any_port_and_what_it_asks_is_not() {
    let Some(node) = Node::new() else { return };
    node.api.put("web-1", "web", "10.1.0.1", NODE);
    node.net.serve_on("client", PORT);
    let live = node.capture("k8s://shop/pod/web-1:");
    node.wait_for(&live, 1, true);
    node.net.send("server", "10.1.0.2:8080", "/own");
    node.net.send("client", "10.1.0.1:9090", "/any");
    let found = live.stop();
    assert!(found.contains(&"/any".to_owned()), "{found:?}");
    assert!(!found.contains(&"/own".to_owned()), "{found:?}");
}

/// Tokens are renewed in their file.
#[test]
fn the_token_is_read_again() {
    let Some(node) = Node::new() else { return };
    let Node { api, .. } = &node;
    api.forget_token();
    api.put("web-1", "web", "10.1.0.1", NODE);
    let live = node.capture("k8s://shop/pod/web-1:8080");
    api.wait_until_asked(3);
    node.send(1, "/unknown");
    api.renew_token();
    assert!(captured_at_last(&live, "/known", || node.send(1, "/known")));
    assert!(!live.has("/unknown"));
    live.stop();
}

#[test]
fn outside_of_a_cluster_there_are_no_pods() {
    let Some(net) = Net::new() else { return };
    let error = net.on("server", || {
        let settings = reprise_listener::capture::Settings {
            specs: vec!["k8s://pod/web:80".parse().unwrap()],
            ..Default::default()
        };
        reprise_listener::capture::open(settings).err()
    });
    let error = error.unwrap().to_string();
    assert!(error.contains("KUBERNETES_SERVICE_HOST"), "{error}");
}
