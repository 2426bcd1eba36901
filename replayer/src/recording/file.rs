//! One file of a recording.
//!
//! What enters: packed records, to be written behind those that are there. What leaves: one write for each batch. What may
//! be lost: of a batch that can't be written whole, all; the file keeps what it had.
//!
//! A file never gets shorter, with one exception: what a write left that failed half-way (a full disk) is taken off again,
//! and that was never told to be recorded. Torn bytes of a process that was killed within a write are written over, see
//! [`tail`](super::tail) and [`pack`](super::pack). In a plain file they are first made into something that no reader takes
//! for a record, and then covered by a header's line: whatever a second kill leaves there, it isn't the beginning of one
//! request with the end of another.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use reprise_traffic::recording::Packing;

use super::name;
use super::pack::Packer;
use super::tail::{self, Unfit};

/// Production's data is not for everybody on the host.
const FILE_MODE: u32 = 0o640;
const DIRECTORY_MODE: u32 = 0o750;

/// The recorder before this one, of the same target in this process, lets go of its file as soon as it has written all.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// What makes torn bytes unreadable: it is in no header.
const SCRAWL: u8 = b'~';
/// Bytes of a torn header that are left.
const KEPT: usize = 2;

/// Why there is no file to record into.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Recordings don't make directories, but for those whose names have placeholders.
    #[error("there is no directory {}; make it, or change the target's url", .0.display())]
    NoDirectory(PathBuf),
    /// It is none of ours.
    #[error("may not write into directory {}; give this user (see --user) the right", .0.display())]
    NotWritable(PathBuf),
    /// Two writers would tear each other's records apart.
    #[error("another process records into {}; give each a name of its own, as with %i", .0.display())]
    Locked(PathBuf),
    /// It can't be gone on with.
    #[error("append to {}: {reason}", path.display())]
    Unfit {
        /// Of the file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system says no.
    #[error("open {}: {source}", path.display())]
    Io {
        /// Of the file.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

/// An open file, locked against other processes.
#[derive(Debug)]
pub(super) struct RecordFile {
    path: PathBuf,
    file: File,
    /// Where the next write goes.
    at: u64,
    /// Bytes there that it has to cover.
    torn: u64,
}

impl RecordFile {
    /// A new chunk behind those that are there. `next` is its number where it is known.
    ///
    /// # Errors
    /// When it can't be made.
    pub(super) fn create(name: &str, next: &mut Option<u64>) -> Result<RecordFile, OpenError> {
        loop {
            let failed = |source| OpenError::Io {
                path: name.into(),
                source,
            };
            let index = match *next {
                Some(index) => index,
                None => name::next_index(name).map_err(failed)?,
            };
            let path = name::chunk(name, index);
            match options().create_new(true).open(&path) {
                Ok(file) => {
                    *next = Some(index + 1);
                    lock(&file, &path, Duration::ZERO)?;
                    return Ok(RecordFile {
                        path,
                        file,
                        at: 0,
                        torn: 0,
                    });
                }
                // Somebody else was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => *next = None,
                Err(source) => return Err(OpenError::Io { path, source }),
            }
        }
    }

    /// The file of that name, new or gone on with. Puts what has to be written first into `pending`.
    ///
    /// # Errors
    /// When it can't be opened, is somebody else's, or is no recording.
    pub(super) fn append(
        name: &str,
        packing: Packing,
        pending: &mut Vec<u8>,
    ) -> Result<RecordFile, OpenError> {
        let path = PathBuf::from(name);
        let opened = options().create(true).truncate(false).open(&path);
        let file = opened.map_err(|source| OpenError::Io {
            path: path.clone(),
            source,
        })?;
        lock(&file, &path, LOCK_PATIENCE)?;
        let tail = tail::find(&file, packing).map_err(|unfit| unfit_for(&path, &unfit))?;
        pending.extend_from_slice(&tail.carried);
        Ok(RecordFile {
            path,
            file,
            at: tail.at,
            torn: tail.torn,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of it.
    pub(super) fn size(&self) -> u64 {
        self.at
    }

    /// True where it was deleted: what is written into it now is lost.
    pub(super) fn is_gone(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() == 0)
    }

    /// Packs records to be written here next.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(super) fn pack<'a>(
        &self,
        packer: &'a mut Packer,
        records: &'a [u8],
    ) -> io::Result<&'a [u8]> {
        packer.pack(records, self.torn)
    }

    /// Writes what [`RecordFile::pack`] made.
    ///
    /// # Errors
    /// When not all of it can be written; the file is then good up to the records before.
    pub(super) fn write(&mut self, packed: &[u8], packing: Packing) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        if len == 0 {
            // Emptied in place, as logrotate's copytruncate does. A hole before the next record would be unreadable.
            (self.at, self.torn) = (0, 0);
        } else if len != self.at + self.torn {
            return Err(io::Error::other("somebody else has changed it"));
        }
        let written = self
            .scrawl(packing)
            .and_then(|()| self.file.write_all_at(packed, self.at));
        if let Err(error) = written {
            // Back to what it was. Where even that fails, a reader finds the records before the torn ones all the same.
            let _ = self.file.set_len(len);
            return Err(error);
        }
        self.at += packed.len() as u64;
        self.torn = 0;
        Ok(())
    }

    /// Makes torn bytes of a plain file unreadable, in an order in which they are no whole record at any time: the payload
    /// first, which lacks as many bytes then as before, and its header when nothing is behind it. Of that two bytes stay,
    /// as a recording begins with them.
    fn scrawl(&self, packing: Packing) -> io::Result<()> {
        if packing != Packing::Plain || self.torn == 0 {
            return Ok(());
        }
        // Bounded by the largest record.
        let mut torn = vec![0; self.torn as usize];
        self.file.read_exact_at(&mut torn, self.at)?;
        let header = memchr::memchr(b'\n', &torn).map_or(torn.len(), |at| at + 1);
        torn.fill(SCRAWL);
        let payload = &torn[header..];
        self.file.write_all_at(payload, self.at + header as u64)?;
        let rest = torn[..header].get(KEPT..).unwrap_or_default();
        self.file.write_all_at(rest, self.at + KEPT as u64)
    }
}

/// Makes the directory of a file whose name has placeholders there.
///
/// # Errors
/// When it can't be made.
pub(super) fn make_directory(name: &str) -> Result<(), OpenError> {
    let directory = Path::new(name).parent().unwrap_or(Path::new("/"));
    let mut builder = DirBuilder::new();
    let made = builder
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory);
    made.map_err(|source| OpenError::Io {
        path: directory.to_owned(),
        source,
    })
}

/// Whether files can be made in a directory.
///
/// # Errors
/// When it isn't there, or may not be written into.
pub(super) fn check_directory(directory: &Path) -> Result<(), OpenError> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    if !fs::metadata(directory).is_ok_and(|found| found.is_dir()) {
        return Err(OpenError::NoDirectory(directory.to_owned()));
    }
    let rights = Access::WRITE_OK | Access::EXEC_OK;
    accessat(CWD, directory, rights, AtFlags::EACCESS)
        .map_err(|_| OpenError::NotWritable(directory.to_owned()))
}

/// Whether a file can be gone on with, if it is there.
///
/// # Errors
/// When it can't be opened, is somebody else's, or is no recording.
pub(super) fn check_append(path: &Path, packing: Packing) -> Result<(), OpenError> {
    let file = match options().open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            let path = path.to_owned();
            return Err(OpenError::Io { path, source });
        }
    };
    lock(&file, path, Duration::ZERO)?;
    match tail::find(&file, packing) {
        Ok(_) => Ok(()),
        Err(unfit) => Err(unfit_for(path, &unfit)),
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    options
}

fn lock(file: &File, path: &Path, patience: Duration) -> Result<(), OpenError> {
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => {
                let path = path.to_owned();
                return Err(OpenError::Io { path, source });
            }
        }
    }
}

fn unfit_for(path: &Path, unfit: &Unfit) -> OpenError {
    OpenError::Unfit {
        path: path.to_owned(),
        reason: unfit.to_string(),
    }
}
