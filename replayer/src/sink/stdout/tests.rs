//! Standard output, in whose place there are writers of all kinds.

use std::sync::mpsc::channel;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::*;
use crate::sink::tests::{ROOM, exchange, labelled};

const LIMIT: Duration = Duration::from_secs(20);
const TAKEN_IT: Disposition = Disposition::Replayed(TAKEN);

fn target(yaml: &str) -> Target {
    let document = TargetDocument::parse("t", &format!("{{url: 'stdout:', {yaml}}}")).unwrap();
    Target::new(TargetName::new("t/a").unwrap(), 1, document).unwrap()
}

/// What was written, each write by itself; closed for writing after so many of them.
#[derive(Clone, Default)]
struct Page(Arc<(Mutex<Written>, Condvar)>);

#[derive(Default)]
struct Written {
    writes: Vec<Vec<u8>>,
    is_held: bool,
    is_closed: bool,
}

impl Page {
    fn change(&self, change: impl FnOnce(&mut Written)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn text(&self) -> String {
        let written = self.0.0.lock().unwrap();
        String::from_utf8(written.writes.concat()).unwrap()
    }
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.0.lock().unwrap();
        let mut written = self.0.1.wait_while(written, |w| w.is_held).unwrap();
        if written.is_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        written.writes.push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has them written, and waits for their ends.
fn ends(
    stdout: &Stdout,
    exchanges: impl IntoIterator<Item = Arc<reprise_traffic::Exchange>>,
) -> Vec<Disposition> {
    let (end, ended) = channel();
    let mut count = 0;
    for exchange in exchanges {
        let end = end.clone();
        let end = move |_, disposition| end.send(disposition).unwrap();
        let end = Box::new(end);
        stdout.take(Entry { exchange, end }, ROOM);
        count += 1;
    }
    (0..count)
        .map(|_| ended.recv_timeout(LIMIT).unwrap())
        .collect()
}

#[test]
fn records_are_there_when_their_exchanges_end() {
    let page = Page::default();
    let stdout = Stdout::into(&target("set_headers: {X-A: b}"), page.clone()).unwrap();
    assert_eq!(ends(&stdout, [exchange(1, b"one")]), [TAKEN_IT]);
    let text = page.text();
    assert!(
        text.starts_with("1 ") && text.ends_with("one\n🐵🙈🙉\n"),
        "{text}"
    );
    assert!(text.contains("\r\nX-A: b\r\n"), "{text}");
    let record = labelled(b"1 c0ffee  17", 2, b"GET / HTTP/1.1\r\nA: b\r\n\r\n");
    assert_eq!(ends(&stdout, [record]), [TAKEN_IT]);
    let expected = "1 c0ffee  17\nGET / HTTP/1.1\r\nA: b\r\nX-A: b\r\n\r\n\n🐵🙈🙉\n";
    assert_eq!(page.text().strip_prefix(&text), Some(expected));
    assert_eq!(stdout.load(), 0);
}

#[test]
fn what_comes_while_the_reader_is_slow_leaves_together_or_finds_no_room() {
    let page = Page::default();
    page.change(|page| page.is_held = true);
    let stdout = Stdout::into(&target(""), page.clone()).unwrap();
    let (end, ended) = channel();
    let take = |sequence| {
        let end = end.clone();
        let end = move |_, disposition| end.send((sequence, disposition)).unwrap();
        let room = Room { jobs: 100, ..ROOM };
        let entry = Entry {
            exchange: exchange(sequence, b""),
            end: Box::new(end),
        };
        stdout.take(entry, room);
    };
    (0..101).for_each(take);
    let full = Disposition::Dropped(DropReason::ReplayerFull);
    assert_eq!(ended.recv_timeout(LIMIT).unwrap(), (100, full));
    assert_eq!(stdout.load(), 100);
    page.change(|page| page.is_held = false);
    for sequence in 0..100 {
        assert_eq!(ended.recv_timeout(LIMIT).unwrap(), (sequence, TAKEN_IT));
    }
    // What was there when it began, and all that came while it waited.
    let written = page.0.0.lock().unwrap();
    assert!(written.writes.len() <= 3, "{}", written.writes.len());
}

#[test]
fn a_closed_pipe_stops_it() {
    let page = Page::default();
    let stdout = Stdout::into(&target(""), page.clone()).unwrap();
    assert_eq!(ends(&stdout, [exchange(1, b"")]), [TAKEN_IT]);
    page.change(|page| page.is_closed = true);
    let exchanges = (2..5).map(|sequence| exchange(sequence, b""));
    assert_eq!(ends(&stdout, exchanges), [STOPPED; 3]);
    assert!(!stdout.serves(&target("")), "to be tried anew");
}

#[test]
fn what_is_no_record_fails_and_the_rest_goes_on() {
    let page = Page::default();
    let stdout = Stdout::into(&target(""), page.clone()).unwrap();
    let upload = exchange(1, "\n🐵🙈🙉\n".as_bytes());
    let ended = ends(&stdout, [upload, exchange(2, b"two")]);
    assert_eq!(ended, [Disposition::Failed(Fault::Ours), TAKEN_IT]);
    assert!(page.text().contains("POST /2 "));
}
