//! The end of a file that isn't packed.
//!
//! What enters: a file. What leaves: the place behind its last separator, or behind a whole record whose separator was
//! torn off. What may be lost: nothing.

use std::fs::File;
use std::io;

use memchr::memmem;
use reprise_traffic::gor::{self, MAX_RECORD, SEPARATOR};

use super::{Tail, Unfit, array_at, missing_behind, read_at};

/// Bytes that are looked at together.
const WINDOW: u64 = 256 << 10;

pub(super) fn find(file: &File) -> Result<Tail, Unfit> {
    let len = file.metadata()?.len();
    if let Some(first) = array_at::<4>(file, 0)?
        && !gor::is_recording(&first)
    {
        return Err(Unfit::NotARecording);
    }
    let at = behind_last_separator(file, len)?;
    let torn = len - at;
    if torn > MAX_RECORD as u64 {
        return Err(Unfit::NotARecording);
    }
    let mut rest = vec![0; torn as usize];
    read_at(file, at, &mut rest)?;
    if let Some(missing) = missing_behind(&rest) {
        return Ok(Tail {
            at: len,
            torn: 0,
            carried: missing.to_vec(),
        });
    }
    Ok(Tail {
        at,
        torn,
        carried: Vec::new(),
    })
}

/// From the end to the front, as far back as it takes.
fn behind_last_separator(file: &File, len: u64) -> io::Result<u64> {
    let mut window = vec![0; WINDOW as usize];
    let mut end = len;
    while end > 0 {
        let begin = end.saturating_sub(WINDOW);
        let window = &mut window[..(end - begin) as usize];
        read_at(file, begin, window)?;
        if let Some(at) = memmem::rfind(window, SEPARATOR) {
            return Ok(begin + (at + SEPARATOR.len()) as u64);
        }
        // What has none for so long is no recording.
        if begin == 0 || len - begin > MAX_RECORD as u64 + WINDOW {
            break;
        }
        // One may lie across the border.
        end = begin + SEPARATOR.len() as u64 - 1;
    }
    Ok(0)
}
