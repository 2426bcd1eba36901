//! A recorder, from exchanges to files and back.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use reprise_traffic::exchange::Captured;
use reprise_traffic::gor::Reader;
use reprise_traffic::outcome::TAKEN;
use reprise_traffic::recording::RecordingSettings;
use reprise_traffic::{
    Answer, AnswerHead, Body, ByteSize, Disposition, DropReason, Epoch, Exchange, ExchangeId,
    Fault, Head, Source,
};

use super::*;

const RECORDED: Disposition = Disposition::Replayed(TAKEN);
const STOPPED: Disposition = Disposition::Dropped(DropReason::RecordingStopped);
const LIMIT: Duration = Duration::from_secs(20);
const ROOM: Room = Room {
    bytes: 64 << 20,
    jobs: 10_000,
};

/// Long enough to come only when asked for.
fn settings() -> RecordingSettings {
    RecordingSettings {
        flush_interval: Duration::from_millis(20),
        ..RecordingSettings::default()
    }
}

fn exchange(sequence: u64, body: &[u8]) -> Arc<Exchange> {
    let head = format!(
        "POST /{sequence} HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    Arc::new(Exchange {
        id: ExchangeId {
            epoch: Arc::new(Epoch::new("web", 1)),
            sequence,
        },
        due_ns: None,
        request: Captured {
            captured_ns: 17,
            client: "10.0.0.2:1".parse().unwrap(),
            server: "10.0.0.1:80".parse().unwrap(),
            source: Source::Wire,
            head: Head::parse(Bytes::from(head)).unwrap(),
            body: Body::from(body.to_vec()),
            trailers: Bytes::new(),
            answer: None,
            label: None,
        },
    })
}

/// Bytes that don't pack.
fn noise(seed: &mut u64, len: usize) -> Vec<u8> {
    let next = |_| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*seed >> 56) as u8
    };
    (0..len).map(next).collect()
}

fn answered(sequence: u64) -> Arc<Exchange> {
    let head = Bytes::from_static(b"HTTP/1.1 204 No Content\r\n\r\n");
    let mut exchange = Arc::unwrap_or_clone(exchange(sequence, b""));
    exchange.request.answer = Some(Box::new(Answer {
        first_byte_ns: 20,
        last_byte_ns: 25,
        head: AnswerHead::parse(head).unwrap(),
        body: Body::default(),
        body_len: 0,
        complete: true,
    }));
    Arc::new(exchange)
}

/// A recorder into a directory of its own, and how its exchanges ended.
struct Tape {
    directory: PathBuf,
    recorder: Recorder,
    ended: Receiver<(u64, Disposition)>,
    end: Sender<(u64, Disposition)>,
}

fn target(directory: &Path, name: &str, settings: RecordingSettings) -> Target {
    let mut document = TargetDocument::new(&format!("file://{}/{name}", directory.display()));
    document.recording = Some(settings);
    Target::new(TargetName::new("t/a").unwrap(), 1, document).unwrap()
}

fn start(target: &Target) -> Recorder {
    let Destination::Recording(recording) = &target.destination else {
        panic!("{target:?}");
    };
    Recorder::start(target, recording).unwrap()
}

impl Tape {
    fn start(directory: &Path, name: &str, settings: RecordingSettings) -> Tape {
        let target = target(directory, name, settings);
        let (end, ended) = channel();
        Tape {
            directory: directory.to_owned(),
            recorder: start(&target),
            ended,
            end,
        }
    }

    fn record_with(&self, exchange: Arc<Exchange>, room: Room) {
        let end = self.end.clone();
        let end = move |exchange: Arc<Exchange>, disposition| {
            end.send((exchange.id.sequence, disposition)).unwrap();
        };
        let end = Box::new(end);
        self.recorder.take(Entry { exchange, end }, room);
    }

    fn record(&self, exchange: Arc<Exchange>) {
        self.record_with(exchange, ROOM);
    }

    fn end(&self) -> (u64, Disposition) {
        self.ended.recv_timeout(LIMIT).unwrap()
    }

    /// Records one and waits for its end.
    fn one(&self, sequence: u64) -> Disposition {
        self.record(exchange(sequence, b"body"));
        let (ended, disposition) = self.end();
        assert_eq!(ended, sequence);
        disposition
    }

    fn files(&self) -> BTreeMap<String, Vec<String>> {
        files(&self.directory)
    }
}

/// For each file the first lines of the messages in it.
fn files(directory: &Path) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        found.insert(name, lines(&path));
    }
    found
}

fn lines(path: &Path) -> Vec<String> {
    let mut bytes = fs::read(path).unwrap();
    let packed = std::mem::take(&mut bytes);
    match path.extension().and_then(|suffix| suffix.to_str()) {
        Some("gz") => {
            let read = flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut bytes);
            read.unwrap();
        }
        Some("zst") => bytes = zstd::decode_all(&packed[..]).unwrap(),
        _ => bytes = packed,
    }
    let mut reader = Reader::new(&bytes[..]);
    let mut lines = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        let payload = String::from_utf8_lossy(record.unwrap().payload).into_owned();
        lines.push(payload.lines().next().unwrap_or_default().to_owned());
    }
    lines
}

fn posts(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    let line = |n| format!("POST /{n} HTTP/1.1");
    numbers.into_iter().map(line).collect()
}

#[test]
fn what_ended_is_in_the_file_in_the_order_in_which_it_came() {
    for name in ["shop.gor", "shop.gor.gz", "shop.gor.zst"] {
        let dir = tempfile::tempdir().unwrap();
        let tape = Tape::start(dir.path(), name, settings());
        for sequence in 0..100 {
            tape.record(exchange(sequence, b"body"));
        }
        for sequence in 0..100 {
            assert_eq!(tape.end(), (sequence, RECORDED));
            let (_, lines) = tape.files().pop_first().unwrap();
            assert!(lines.len() as u64 > sequence, "{lines:?}");
        }
        assert_eq!(tape.recorder.load(), 0);
        let (file, lines) = tape.files().pop_first().unwrap();
        assert_eq!(lines, posts(0..100), "{file}");
        let mode = fs::metadata(dir.path().join(&file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
    }
}

#[test]
fn chunks_are_bounded_by_records_and_size_and_numbered_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a_9.gor"), "").unwrap();
    let by_records = RecordingSettings {
        queue_limit: 2,
        ..settings()
    };
    let tape = Tape::start(dir.path(), "a.gor", by_records.clone());
    for sequence in 0..5 {
        assert_eq!(tape.one(sequence), RECORDED);
    }
    let mut files = tape.files();
    assert_eq!(files.remove("a_9.gor"), Some(Vec::new()));
    let expected = [("a_10.gor", 0..2), ("a_11.gor", 2..4), ("a_12.gor", 4..5)];
    let expected = expected.map(|(name, numbers)| (name.to_owned(), posts(numbers)));
    assert_eq!(files, BTreeMap::from(expected));
    drop(tape);
    // The next life never touches what is there.
    let tape = Tape::start(dir.path(), "a.gor", by_records);
    tape.one(5);
    assert_eq!(tape.files()["a_13.gor"], posts(5..6));

    let dir = tempfile::tempdir().unwrap();
    let by_size = RecordingSettings {
        size_limit: ByteSize(10_000),
        queue_limit: 0,
        ..settings()
    };
    for name in ["a.gor", "a.zst"] {
        let tape = Tape::start(dir.path(), name, by_size.clone());
        let mut seed = 1;
        for sequence in 0..9 {
            tape.record(exchange(sequence, &noise(&mut seed, 4000)));
            assert_eq!(tape.end(), (sequence, RECORDED));
        }
        let name = |n: u64| name.replace('.', &format!("_{n}."));
        for n in 0..3 {
            let numbers = 3 * n..3 * n + 3;
            assert_eq!(tape.files()[&name(n)], posts(numbers), "{}", name(n));
        }
    }
}

#[test]
fn append_goes_on_in_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let append = RecordingSettings {
        append: true,
        queue_limit: 1,
        ..settings()
    };
    for life in 0..3 {
        let tape = Tape::start(dir.path(), "a.gor.gz", append.clone());
        for sequence in 3 * life..3 * life + 3 {
            assert_eq!(tape.one(sequence), RECORDED);
        }
        // A newer document doesn't wait until the one before has let go.
        let newer = Tape::start(dir.path(), "a.gor.gz", append.clone());
        newer.record(exchange(100 + life, b"body"));
        drop(tape);
        assert_eq!(newer.end(), (100 + life, RECORDED));
    }
    let expected = [0, 1, 2, 100, 3, 4, 5, 101, 6, 7, 8, 102];
    assert_eq!(files(dir.path())["a.gor.gz"], posts(expected));
}

#[test]
fn records_go_where_the_name_says() {
    let dir = tempfile::tempdir().unwrap();
    let tape = Tape::start(dir.path(), "%Y/%r.gor", settings());
    for sequence in 0..3 {
        tape.record(answered(sequence));
        assert_eq!(tape.end(), (sequence, RECORDED));
    }
    let year = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap();
    let found = files(&year.path());
    assert_eq!(found.len(), 3);
    for (name, lines) in found {
        assert!(name.len() == 30 && name.ends_with("_0.gor"), "{name}");
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], "HTTP/1.1 204 No Content");
    }

    let dir = tempfile::tempdir().unwrap();
    let tape = Tape::start(dir.path(), "kind%t.gor", settings());
    for sequence in 0..3 {
        tape.record(answered(sequence));
    }
    for sequence in 0..3 {
        assert_eq!(tape.end(), (sequence, RECORDED));
    }
    let found = tape.files();
    assert_eq!(found["kind1_0.gor"], posts(0..3));
    assert_eq!(found["kind2_0.gor"], ["HTTP/1.1 204 No Content"; 3]);
}

#[test]
fn a_file_that_was_deleted_or_emptied_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let append = RecordingSettings {
        append: true,
        ..settings()
    };
    let path = dir.path().join("a.gor");
    let tape = Tape::start(dir.path(), "a.gor", append);
    assert_eq!(tape.one(0), RECORDED);
    fs::remove_file(&path).unwrap();
    assert_eq!(tape.one(1), RECORDED);
    assert_eq!(lines(&path), posts([1]));
    fs::write(&path, "").unwrap();
    assert_eq!(tape.one(2), RECORDED);
    assert_eq!(lines(&path), posts([2]));
    fs::write(&path, "1 a 17 -1\n").unwrap();
    assert_eq!(tape.one(3), STOPPED);
}

#[test]
fn what_finds_no_room_is_dropped_and_one_is_always_taken() {
    let dir = tempfile::tempdir().unwrap();
    let slow = RecordingSettings {
        flush_interval: Duration::from_millis(300),
        ..settings()
    };
    let tape = Tape::start(dir.path(), "a.gor", slow);
    let room = Room { bytes: 1, jobs: 5 };
    let full = Disposition::Dropped(DropReason::ReplayerFull);
    tape.record_with(exchange(0, b""), room);
    tape.record_with(exchange(1, b""), room);
    assert_eq!(tape.end(), (1, full));
    assert_eq!(tape.end(), (0, RECORDED));
    let room = Room { jobs: 1, ..ROOM };
    tape.record_with(exchange(2, b""), room);
    tape.record_with(exchange(3, b""), room);
    assert_eq!(tape.end(), (3, full));
    assert_eq!(tape.end(), (2, RECORDED));
}

#[test]
fn an_upload_of_a_recording_is_refused_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let tape = Tape::start(dir.path(), "a.gor", settings());
    let body = "x\n🐵🙈🙉\n1 a 17 -1\nDELETE / HTTP/1.1\r\n\r\n";
    tape.record(exchange(0, body.as_bytes()));
    assert_eq!(tape.end(), (0, Disposition::Failed(Fault::Ours)));
    assert_eq!(tape.one(1), RECORDED);
    assert_eq!(tape.files()["a_0.gor"], posts([1]));
}

#[test]
fn what_all_files_may_take_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let small = RecordingSettings {
        max_size: ByteSize(1000),
        queue_limit: 1,
        ..settings()
    };
    let tape = Tape::start(dir.path(), "a.gor", small.clone());
    let ends: Vec<Disposition> = (0..20).map(|sequence| tape.one(sequence)).collect();
    let recorded = ends.iter().filter(|end| **end == RECORDED).count();
    assert!(recorded > 5, "{ends:?}");
    assert!(
        ends[recorded..].iter().all(|end| *end == STOPPED),
        "{ends:?}"
    );
    let files = tape.files();
    let lines: usize = files.values().map(Vec::len).sum();
    assert_eq!(lines, recorded);
    let same = target(dir.path(), "a.gor", small);
    assert!(!tape.recorder.serves(&same), "to be tried anew");
}

#[test]
fn what_is_wrong_at_the_start_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes");
    fs::write(&file, "remember the milk").unwrap();
    let check = |path: &str, append| {
        let mut document = TargetDocument::new(&format!("file://{path}"));
        document.recording = Some(RecordingSettings {
            append,
            ..settings()
        });
        let target = Target::new(TargetName::new("t/a").unwrap(), 1, document).unwrap();
        check_recording(&target).map_err(|error| error.to_string())
    };
    let path = dir.path().display();
    check(&format!("{path}/a.gor"), true).unwrap();
    check(&format!("{path}/%d/a.gor"), false).unwrap();
    check(&format!("{path}/notes"), false).unwrap();
    for (name, part) in [
        ("none/a.gor", "/none; make it"),
        ("notes/a.gor", "/notes; make it"),
        ("notes", "no recording"),
    ] {
        let error = check(&format!("{path}/{name}"), true).unwrap_err();
        assert!(
            error.starts_with("target t/a: ") && error.contains(part),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    // Found out by the recorder itself, it fails what comes.
    let append = RecordingSettings {
        append: true,
        ..settings()
    };
    let tape = Tape::start(dir.path(), "notes", append);
    assert_eq!(tape.one(0), Disposition::Failed(Fault::Ours));
    assert_eq!(fs::read(&file).unwrap(), b"remember the milk");
}

/// A file system of its own, of one MiB; gone when it is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let disk = SmallDisk(tempfile::tempdir().unwrap());
        let mounted = disk.call(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"]);
        if !mounted {
            let skipped =
                b"skipped a_full_disk_stops_its_recording_and_no_other: no right to mount\n";
            let _ = io::Write::write_all(&mut io::stderr(), skipped);
        }
        mounted.then_some(disk)
    }

    fn resize(&self, size: &str) {
        assert!(self.call(&["-o", &format!("remount,size={size}")]));
    }

    fn call(&self, arguments: &[&str]) -> bool {
        let mut mount = Command::new("mount");
        let done = mount.args(arguments).arg(self.0.path()).output();
        done.is_ok_and(|done| done.status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        let _ = umount.arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn a_full_disk_stops_its_recording_and_no_other() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let elsewhere = tempfile::tempdir().unwrap();
    for name in ["a.gor", "a.gor.gz", "a.gor.zst"] {
        let append = RecordingSettings {
            append: true,
            ..settings()
        };
        let tape = Tape::start(disk.0.path(), name, append.clone());
        let other = Tape::start(elsewhere.path(), name, settings());
        let mut seed = 1;
        let mut recorded = 0;
        for sequence in 0..100 {
            let exchange = exchange(sequence, &noise(&mut seed, 50_000));
            tape.record(exchange.clone());
            other.record(exchange);
            let (_, disposition) = tape.end();
            match disposition {
                RECORDED => recorded += 1,
                STOPPED => break,
                other => panic!("{other:?}"),
            }
            assert_eq!(other.end(), (sequence, RECORDED));
        }
        assert!(recorded > 5, "{recorded}");
        assert_eq!(tape.one(999), STOPPED);
        let path = disk.0.path().join(name);
        assert_eq!(lines(&path), posts(0..recorded), "{name}");
        // With room again it goes on behind what is there.
        drop(tape);
        disk.resize("2m");
        let tape = Tape::start(disk.0.path(), name, append);
        assert_eq!(tape.one(7), RECORDED);
        assert_eq!(lines(&path).len() as u64, recorded + 1);
        drop(tape);
        fs::remove_file(&path).unwrap();
        disk.resize("1m");
    }
}
