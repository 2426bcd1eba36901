//! A TCP server of the test's own at the far end of `--output-tcp`: it keeps what comes, byte for byte.

use std::io::Read as _;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use memchr::memmem;
use reprise_integration_tests::{Place, eventually};

use super::records::{self, Came, SEPARATOR};

/// It listens until it is dropped or killed.
#[derive(Debug)]
pub(crate) struct Far {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    connections: Mutex<Vec<Heard>>,
    over: AtomicBool,
}

/// What came over a connection.
#[derive(Debug)]
struct Heard {
    began: Instant,
    bytes: Vec<u8>,
    /// Separators among them, and how far they were looked for.
    records: usize,
    looked: usize,
    stream: TcpStream,
}

impl Heard {
    fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let from = self.looked.saturating_sub(SEPARATOR.len() - 1);
        for at in memmem::find_iter(&self.bytes[from..], SEPARATOR) {
            self.records += usize::from(from + at + SEPARATOR.len() > self.looked);
        }
        self.looked = self.bytes.len();
    }
}

impl Far {
    pub(crate) fn start() -> Far {
        Far::serve(Place::loopback().listen().unwrap())
    }

    pub(crate) fn start_at(address: SocketAddr) -> Far {
        Far::serve(TcpListener::bind(address).unwrap())
    }

    fn serve(socket: TcpListener) -> Far {
        let shared: Arc<Shared> = Arc::default();
        let address = socket.local_addr().unwrap();
        let inner = Arc::clone(&shared);
        let accept = move || {
            let mut readers = Vec::new();
            for stream in socket.incoming() {
                if inner.over.load(Ordering::SeqCst) {
                    break;
                }
                let (stream, inner) = (stream.unwrap(), Arc::clone(&inner));
                let mut connections = inner.connections.lock().unwrap();
                let number = connections.len();
                connections.push(Heard {
                    began: Instant::now(),
                    bytes: Vec::new(),
                    records: 0,
                    looked: 0,
                    stream: stream.try_clone().unwrap(),
                });
                drop(connections);
                readers.push(thread::spawn(move || listen(stream, &inner, number)));
            }
            readers
                .into_iter()
                .for_each(|reader| reader.join().unwrap());
        };
        Far {
            address,
            shared,
            thread: Some(thread::spawn(accept)),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whole records so far.
    pub(crate) fn count(&self) -> usize {
        let connections = self.shared.connections.lock().unwrap();
        connections.iter().map(|heard| heard.records).sum()
    }

    pub(crate) fn until(&self, records: usize, limit: Duration) {
        let come = eventually("records at the far end", limit, || {
            let now = self.count();
            anyhow::ensure!(now >= records, "{now} of {records} came");
            Ok(())
        });
        come.unwrap();
    }

    /// What came so far, a part for each connection.
    pub(crate) fn heard(&self) -> Vec<Vec<u8>> {
        let connections = self.shared.connections.lock().unwrap();
        connections
            .iter()
            .map(|heard| heard.bytes.clone())
            .collect()
    }

    /// The records that came so far, in order on each connection.
    pub(crate) fn records(&self) -> Vec<Came> {
        self.heard()
            .iter()
            .flat_map(|part| records::read(part))
            .collect()
    }

    /// When the first connection came.
    pub(crate) fn began(&self) -> Option<Instant> {
        let connections = self.shared.connections.lock().unwrap();
        connections.first().map(|heard| heard.began)
    }

    /// Ends as a server does that is killed: its connections are closed, its port is free. What came until then.
    pub(crate) fn kill(mut self) -> Vec<Vec<u8>> {
        self.end();
        self.heard()
    }

    fn end(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        for heard in self.shared.connections.lock().unwrap().iter() {
            let _ = heard.stream.shutdown(Shutdown::Both);
        }
        // It waits for a connection.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.end();
    }
}

fn listen(mut stream: TcpStream, shared: &Shared, number: usize) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => shared.connections.lock().unwrap()[number].take(&buffer[..n]),
        }
    }
}
