//! Capture files, packed or not: nothing panics, no length that is merely claimed is believed, and a pipe gives the
//! same packets as a file.
//!
//! What enters: the length of a pipe's pieces, and a file.
#![no_main]

use std::io::{self, Cursor, Read};

use libfuzzer_sys::fuzz_target;
use reprise_fuzz::input::Input;
use reprise_listener::capture_file::{CaptureFile, FileError, Packet, unpack};
use reprise_listener::packet::{DecodeSettings, Decoder};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A few bytes of gzip may be a gigabyte.
const MAX_UNPACKED: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let piece = usize::from(input.byte()) + 1;
    let file = input.rest().to_vec();
    let whole = read(Cursor::new(file.clone()));
    let pieces = read(Pieces {
        file: Cursor::new(file),
        piece,
    });
    // What a decompressor says of a flaw, and how much it gives before that, depends on how much it is given.
    let is_packed = data.get(1..3) == Some(&GZIP) || data.get(1..5) == Some(&ZSTD);
    let same = match is_packed {
        true => pieces.len().min(whole.len()) - 1,
        false => pieces.len().max(whole.len()),
    };
    assert!(pieces.iter().take(same).eq(whole.iter().take(same)));
});

/// Hands out a few bytes at a time.
struct Pieces {
    file: Cursor<Vec<u8>>,
    piece: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.piece.min(buffer.len());
        self.file.read(&mut buffer[..length])
    }
}

/// What is read of a file: its packets' lengths and times, and how it ends.
fn read(file: impl Read + 'static) -> Vec<String> {
    let Ok(unpacked) = unpack(file) else {
        return vec!["can't be unpacked".to_owned()];
    };
    let mut file = match CaptureFile::open(unpacked.take(MAX_UNPACKED)) {
        Ok(file) => file,
        Err(error) => return vec![error.to_string()],
    };
    let mut decoder = Decoder::new(DecodeSettings::default());
    let mut found = Vec::new();
    let mut bytes = 0;
    loop {
        match file.next_packet() {
            Ok(Some(Packet::Frame(frame))) => {
                assert!(frame.data.len() <= frame.wire_len);
                bytes += frame.data.len() as u64;
                let segment = decoder.decode(&frame);
                found.push(format!("{} {} {segment:?}", frame.at_ns, frame.wire_len));
            }
            Ok(Some(Packet::UnknownLink { number, wire_len })) => {
                found.push(format!("{number} {wire_len}"));
            }
            Ok(None) => {
                found.push("the end".to_owned());
                break;
            }
            Err(error) => {
                assert!(!matches!(error, FileError::NotACapture));
                found.push(error.to_string());
                break;
            }
        }
        assert!(bytes <= MAX_UNPACKED);
        // The smallest packet's header has 8 bytes.
        assert!(found.len() as u64 <= MAX_UNPACKED / 8);
    }
    found
}
