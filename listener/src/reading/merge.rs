//! Several recordings as one stream, in the order in which production saw the requests.
//!
//! What enters: files, each roughly in order of time. What leaves: their requests, and the
//! ends of connections between them, in order of time. What may be lost:
//! nothing; a request that lies further out of place in its file than is [`AtHand`] comes too late.
//!
//! A file is opened when its time comes, so that a recording of a thousand files needs one at a time. A request lies in a
//! file where it was complete, and is replayed when it began, so those of each file are put in order first.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use tracing::error;

use super::at_hand::AtHand;
use super::found::Found;
use super::pipe;
use super::recording::{self, Recording, Wanted};
use super::{Records, is_stdin};
use crate::reassembly::Answers;

/// Files that can be read, and when what is in each begins.
#[derive(Debug, Clone, Default)]
pub(super) struct Files(Vec<(u64, PathBuf)>);

impl Files {
    /// Looks at the begin of each file. A pipe can't be looked at twice; it is opened at the start.
    ///
    /// # Errors
    /// The first that can't be read, or is no recording, in one line.
    pub(super) fn look_at(paths: &[PathBuf]) -> anyhow::Result<Files> {
        let first_at = |path: &PathBuf| {
            let at = match is_pipe(path)? {
                true => Ok(0),
                false => recording::first_at(path).map_err(|error| of_file(path, &error)),
            };
            at.map(|at| (at, path.clone()))
        };
        let mut files: Vec<(u64, PathBuf)> =
            paths.iter().map(first_at).collect::<Result<_, _>>()?;
        files.sort_by_key(|(at, _)| *at);
        Ok(Files(files))
    }
}

/// True where what is at `path` can be read once only.
///
/// # Errors
/// One line, when there is nothing.
pub(super) fn is_pipe(path: &Path) -> anyhow::Result<bool> {
    Ok(is_stdin(path) || pipe::is_pipe(path).map_err(|error| of_file(path, &error.into()))?)
}

/// An error with the file that it is about.
pub(super) fn of_file(path: &Path, error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("read {}: {error:#}", path.display())
}

/// All files of a recording, while they are read.
pub(super) struct Merge {
    /// Those whose time is to come.
    closed: VecDeque<(u64, PathBuf)>,
    open: Vec<InOrder>,
    wanted: Wanted,
    /// Files that could not be read, or not to their end.
    unreadable: usize,
}

impl Merge {
    pub(super) fn new(files: Files, wanted: Wanted) -> Merge {
        Merge {
            closed: files.0.into(),
            open: Vec::new(),
            wanted,
            unreadable: 0,
        }
    }

    /// The next request or end of a connection of all files; nothing at the end, or once told to stop.
    pub(super) fn next(&mut self) -> Option<Found> {
        loop {
            let earliest = self.earliest();
            let next = earliest.map(|(at, _)| at);
            match self.closed.front() {
                Some((at, _)) if next.is_none_or(|next| *at <= next) => self.open_next(),
                _ => break,
            }
        }
        let (_, place) = self.earliest()?;
        let found = self.open[place].pop();
        if self.open[place].first_at().is_none() {
            self.close(place);
        }
        found
    }

    /// Bytes of requests that have begun and aren't whole, and of those that are put in order.
    pub(super) fn held(&self) -> usize {
        self.open.iter().map(InOrder::held).sum()
    }

    /// Files so far that could not be read, or not to their end.
    pub(super) fn unreadable(&self) -> usize {
        self.unreadable
    }

    fn close(&mut self, place: usize) {
        let file = self.open.swap_remove(place);
        self.unreadable += usize::from(file.is_unreadable);
    }

    /// When the earliest request begins, and which of the open files has it.
    fn earliest(&self) -> Option<(u64, usize)> {
        let firsts = self.open.iter().enumerate();
        firsts
            .filter_map(|(place, file)| Some((file.first_at()?, place)))
            .min()
    }

    fn open_next(&mut self) {
        let Some((_, path)) = self.closed.pop_front() else {
            return;
        };
        if self.wanted.stop.is_asked() {
            return;
        }
        match Recording::open(&path, &self.wanted) {
            Ok(recording) => {
                let settings = &self.wanted.reassembly;
                let answers = match self.wanted.records {
                    Records::Joined => settings.answers,
                    Records::Apart => Answers::Unseen,
                };
                let at_hand = AtHand::new(answers, settings.budget.clone());
                let mut file = InOrder::new(path, recording, at_hand);
                file.fill();
                self.open.push(file);
                // It may hold nothing.
                if self
                    .open
                    .last()
                    .is_some_and(|file| file.first_at().is_none())
                {
                    self.close(self.open.len() - 1);
                }
            }
            Err(error) => {
                self.unreadable += 1;
                error!("{:#}", of_file(&path, &error));
            }
        }
    }
}

/// One file's requests in order of time.
struct InOrder {
    path: PathBuf,
    /// `None` once it is read.
    recording: Option<Recording>,
    at_hand: AtHand,
    is_unreadable: bool,
}

impl InOrder {
    fn new(path: PathBuf, recording: Recording, at_hand: AtHand) -> InOrder {
        InOrder {
            path,
            recording: Some(recording),
            at_hand,
            is_unreadable: false,
        }
    }

    fn first_at(&self) -> Option<u64> {
        self.at_hand.first_at()
    }

    fn held(&self) -> usize {
        self.at_hand.bytes() + self.recording.as_ref().map_or(0, Recording::held)
    }

    fn pop(&mut self) -> Option<Found> {
        let found = self.at_hand.pop()?;
        self.fill();
        Some(found)
    }

    /// Reads on until no request can come any more that was captured before the first.
    fn fill(&mut self) {
        while !self.at_hand.is_ripe()
            && let Some(recording) = &mut self.recording
        {
            match recording.next(Some(&mut self.at_hand)) {
                Ok(Some((id, found))) => self.at_hand.put(id, found),
                Ok(None) => self.recording = None,
                Err(error) => {
                    error!("{:#}", of_file(&self.path, &error));
                    self.is_unreadable = true;
                    self.recording = None;
                }
            }
        }
    }
}
