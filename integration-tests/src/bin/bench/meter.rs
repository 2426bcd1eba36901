//! What a process has used: CPU time in nanoseconds, resident memory.
//!
//! What enters: a process id. What leaves: figures of the kernel. What may be lost: the time of threads that ended
//! before they were asked; the processes that are measured keep theirs.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

/// Ticks a second in what the kernel tells: `USER_HZ`, 100 on all but a few old architectures.
const USER_HZ: u64 = 100;
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// User and system time of all its threads, nanoseconds: `/proc/PID/stat` counts in ticks of 10 ms, this does not.
pub(crate) fn cpu_ns(pid: u32) -> Result<u64> {
    let tasks = format!("/proc/{pid}/task");
    let mut sum = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("read {tasks}"))? {
        // A thread may end between the two looks.
        if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
            sum += on_cpu(&text).with_context(|| format!("schedstat says {text:?}"))?;
        }
    }
    Ok(sum)
}

/// The same of a process that has ended and is yet to be waited for, and of threads that ended before; in steps of 10 ms.
pub(crate) fn whole_cpu_ns(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let ticks = ticks(&text).with_context(|| format!("{path} says {text:?}"))?;
    Ok(ticks * (1_000_000_000 / USER_HZ))
}

/// `utime` and `stime`, the fields 14 and 15 (proc_pid_stat(5)). The second field is a name that may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The first of three figures (Documentation/scheduler/sched-stats.rst): nanoseconds on a CPU.
fn on_cpu(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Resident memory at its highest, KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// `VmHWM`: with the kernel's ring, which is mapped.
    pub(crate) resident: u64,
    /// `RssAnon`: the process's own, without the ring and the program's text.
    pub(crate) anonymous: u64,
}

impl Memory {
    /// The higher of the two, each for itself.
    pub(crate) fn max(self, other: Memory) -> Memory {
        Memory {
            resident: self.resident.max(other.resident),
            anonymous: self.anonymous.max(other.anonymous),
        }
    }
}

/// Looks at a process's memory again and again.
#[derive(Debug)]
pub(crate) struct Sampler {
    pid: u32,
    over: Arc<AtomicBool>,
    anonymous: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    pub(crate) fn start(pid: u32) -> Sampler {
        let (over, anonymous) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (done, highest) = (over.clone(), anonymous.clone());
        let thread = thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                highest.fetch_max(status(pid, "RssAnon:").unwrap_or(0), Ordering::Relaxed);
                thread::sleep(SAMPLE_EVERY);
            }
        });
        Sampler {
            pid,
            over,
            anonymous,
            thread: Some(thread),
        }
    }

    /// The highest until now.
    pub(crate) fn memory(&self) -> Result<Memory> {
        Ok(Memory {
            resident: status(self.pid, "VmHWM:").context("read VmHWM")?,
            anonymous: self.anonymous.load(Ordering::Relaxed),
        })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only reads.
            let _ = thread.join();
        }
    }
}

/// What is resident now, at its highest, and anonymous.
pub(crate) fn memory(pid: u32) -> Option<Memory> {
    Some(Memory {
        resident: status(pid, "VmHWM:")?,
        anonymous: status(pid, "RssAnon:")?,
    })
}

fn status(pid: u32, key: &str) -> Option<u64> {
    kib(
        &fs::read_to_string(format!("/proc/{pid}/status")).ok()?,
        key,
    )
}

/// A line of `/proc/PID/status`: `VmHWM:     1234 kB`.
fn kib(status: &str, key: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
    rest.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        assert_eq!(on_cpu("2656701 12 3\n"), Some(2_656_701));
        assert_eq!(on_cpu(""), None);
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 30 5 6 20 0 9 0 1\n";
        assert_eq!((ticks(stat), ticks("7 (a)")), (Some(280), None));
        let text = "Name:\tx\nVmHWM:\t    1234 kB\nRssAnon:\t      56 kB\n";
        assert_eq!(kib(text, "VmHWM:"), Some(1234));
        assert_eq!(kib(text, "RssAnon:"), Some(56));
        assert_eq!(kib(text, "VmSwap:"), None);
    }

    #[test]
    fn our_own_figures_can_be_had() {
        let pid = std::process::id();
        assert!(cpu_ns(pid).unwrap() > 0 && whole_cpu_ns(pid).is_ok());
        assert!(memory(pid).unwrap().anonymous > 0);
        assert!(Sampler::start(pid).memory().unwrap().resident > 0);
    }
}
