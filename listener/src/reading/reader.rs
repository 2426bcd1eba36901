//! The thread that reads: from files to whole requests, one file after the other.
//!
//! What enters: packets of a file. What leaves: requests, as soon as each is complete and the window has room.
//! What may be lost: see [`crate::reading`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use reprise_traffic::exchange::Captured;
use tracing::{error, info, warn};

use super::is_stdin;
use super::pipe::{self, Stop, Stoppable};
use crate::capture_file::{self, CaptureFile, Packet};
use crate::edge::{Edge, EdgeEvent};
use crate::intake::Intake;
use crate::packet::{DecodeSettings, Decoder, Frame, VniFilter};
use crate::reassembly::{self, Reassembler};

type File = CaptureFile<Box<dyn std::io::BufRead>>;

pub(super) struct Reader {
    pub(super) reassembly: reassembly::Settings,
    pub(super) vni: VniFilter,
    pub(super) edge: Arc<Edge>,
    pub(super) intake: Arc<Intake>,
    pub(super) discards: bool,
    pub(super) stop: Arc<Stop>,
}

/// Looks whether a file can be read and is a capture.
///
/// # Errors
/// One line, when it isn't.
pub(super) fn look_at(path: &Path) -> anyhow::Result<()> {
    let seen = || {
        if pipe::is_pipe(path)? || is_stdin(path) {
            return Ok(());
        }
        open(std::fs::File::open(path)?).map(drop)
    };
    seen().with_context(|| format!("read {}", path.display()))
}

fn open(input: impl std::io::Read + 'static) -> anyhow::Result<File> {
    let unpacked = capture_file::unpack(input)?;
    Ok(CaptureFile::open(unpacked)?)
}

impl Reader {
    /// Reads all, or until it is told to stop. Returns the number of files that could not be read.
    pub(super) fn read_all(&mut self, files: &[PathBuf]) -> usize {
        let mut unreadable = 0;
        for path in files {
            let name = path.display();
            match self.read_one(path) {
                _ if self.stop.is_asked() => break,
                Ok(()) => {}
                Err(error) => {
                    unreadable += 1;
                    error!("read {name}: {error:#}");
                }
            }
        }
        unreadable
    }

    fn read_one(&mut self, path: &Path) -> anyhow::Result<()> {
        let file = path.display().to_string();
        info!(file, "reading");
        let is_pipe = pipe::is_pipe(path)?;
        let input: Stoppable = pipe::open(path, &self.stop)?;
        let capture = open(input)?;
        let mut reassembly = self.reassembly.clone();
        if !is_pipe {
            reassembly.limits = capture_file::without_hurry(reassembly.limits);
        }
        let mut reassembler = Reassembler::new(reassembly, self.edge.clone());
        let mut decoder = Decoder::new(DecodeSettings {
            vni: self.vni.clone(),
            ..DecodeSettings::default()
        });
        let ended = self.packets(capture, &mut decoder, &mut reassembler);
        let held = reassembler.held();
        reassembler.finish(&mut |request| self.hand_over(request, held));
        self.edge.count(EdgeEvent::Fragments, decoder.finish());
        match ended {
            _ if self.stop.is_asked() => info!(file, "stopped before its end"),
            Ok(packets) => info!(file, packets, "read to its end"),
            Err(error @ capture_file::FileError::Io { .. }) => return Err(anyhow!(error)),
            Err(error) => warn!("{file}: {error}; what comes before is replayed"),
        }
        Ok(())
    }

    /// Takes all packets, and returns their number.
    fn packets(
        &self,
        mut capture: File,
        decoder: &mut Decoder,
        reassembler: &mut Reassembler,
    ) -> Result<u64, capture_file::FileError> {
        let mut packets = 0;
        while !self.stop.is_asked()
            && let Some(packet) = capture.next_packet()?
        {
            packets += 1;
            match packet {
                Packet::Frame(frame) => {
                    // So that unfinished requests find room too: nothing is given up that could have waited.
                    self.wait(reassembler.held());
                    self.take(&frame, decoder, reassembler);
                }
                Packet::UnknownLink { wire_len, .. } => {
                    self.seen(wire_len);
                    self.edge.count(EdgeEvent::Undecodable, 1);
                }
            }
        }
        Ok(packets)
    }

    fn take(&self, frame: &Frame<'_>, decoder: &mut Decoder, reassembler: &mut Reassembler) {
        self.seen(frame.wire_len);
        let held = reassembler.held();
        match decoder.decode(frame) {
            Ok(segment) => {
                let mut sink = |request| self.hand_over(request, held);
                reassembler.push(&segment, frame.at_ns, &mut sink);
            }
            Err(reason) => self.edge.count(reason.into(), 1),
        }
        self.edge.count(EdgeEvent::Fragments, decoder.lost());
    }

    fn seen(&self, wire_len: usize) {
        self.edge.count(EdgeEvent::Packets, 1);
        self.edge.count(EdgeEvent::Bytes, wire_len as u64);
    }

    fn wait(&self, held: usize) {
        if !self.discards {
            self.intake.wait_for_room(held, self.stop.flag());
        }
    }

    /// Gives a whole request away, once there is room. The reassembly held so much before.
    fn hand_over(&self, request: Captured, held: usize) {
        match self.discards {
            true => self.intake.discard(request),
            false => {
                self.wait(held);
                self.intake.admit_waited(request);
            }
        }
    }
}
