//! The program itself: started, fed, read, and started again.
//!
//! What enters: messages from the queue. What leaves: what the program writes back. What may be lost: what it had when it
//! ended (`middleware_lost`), lines that are no messages (`middleware_bad`).

use std::io::{self, BufReader, BufWriter, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use reprise_traffic::Exchange;
use reprise_traffic::gor::{self, Encoded, Record};
use rustix::process::Pid;
use tracing::{info, warn};

use super::line::{self, Read};
use super::{Origin, Shared};
use crate::edge::EdgeEvent;

/// A program that ends at once is started again after this, and twice as long each time, up to [`MAX_PAUSE`].
const PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// One that ran for so long is not taken for one that ends at once.
const RAN: Duration = Duration::from_secs(10);

/// The digits and the line end of a header are longer than no message's.
const HEADER: usize = 4096;

/// Bytes of a pipe's buffer.
const BUFFER: usize = 64 << 10;

/// A running program.
pub(super) struct Program {
    child: Child,
    input: Option<BufWriter<ChildStdin>>,
    /// Set when its output has ended.
    ended: Arc<AtomicBool>,
    reader: JoinHandle<()>,
    since: Instant,
}

impl Program {
    /// Starts it.
    ///
    /// # Errors
    /// One line.
    pub(super) fn start(shared: &Arc<Shared>) -> anyhow::Result<Program> {
        let (name, arguments) = shared
            .settings
            .command
            .split_first()
            .context("the middleware's command is empty")?;
        let mut child = Command::new(name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for us; the program ends when its input does.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start the middleware {name:?}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            anyhow::bail!("the middleware {name:?} has no pipes");
        };
        let ended = Arc::new(AtomicBool::new(false));
        let (for_reader, is_over) = (shared.clone(), ended.clone());
        let reader = std::thread::Builder::new().name("middleware-out".to_owned());
        let reader = reader
            .spawn(move || {
                read_all(&for_reader, output);
                is_over.store(true, Ordering::Relaxed);
            })
            .context("start a thread for the middleware")?;
        *shared.running() = Pid::from_raw(child.id().cast_signed());
        info!(program = name, pid = child.id(), "middleware started");
        Ok(Program {
            child,
            input: Some(BufWriter::with_capacity(BUFFER, input)),
            ended,
            reader,
            since: Instant::now(),
        })
    }

    /// Writes what waits until the program ends, or nothing is to come.
    fn feed(&mut self, shared: &Shared) -> io::Result<()> {
        while !shared.stopping.load(Ordering::Relaxed) && !self.ended.load(Ordering::Relaxed) {
            let Some(input) = &mut self.input else {
                break;
            };
            match shared.queue.take() {
                Some(message) => {
                    let written = write(shared, input, &message);
                    shared.queue.done();
                    written?;
                    if shared.queue.is_empty() {
                        input.flush()?;
                    }
                }
                None if shared.queue.is_over() => break,
                None => {}
            }
        }
        Ok(())
    }

    /// Ends it: its input is closed, and it is killed where it doesn't end by itself while it may.
    fn end(mut self, shared: &Shared) {
        // Dropped, a writer tries once more to write.
        if let Some(input) = self.input.take() {
            drop(input.into_parts().0);
        }
        let may_go_on =
            || shared.finishing.load(Ordering::Relaxed) && !shared.stopping.load(Ordering::Relaxed);
        while may_go_on() && !self.ended.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(2));
        }
        shared.kill();
        let status = self.child.wait();
        // A child of its own may hold its output open; the reader then ends with that.
        if self.ended.load(Ordering::Relaxed) && self.reader.join().is_err() {
            warn!("the middleware's reader failed");
        }
        if !shared.finishing.load(Ordering::Relaxed) {
            let status = status.map_or_else(|e| e.to_string(), |status| status.to_string());
            let lost = shared.pending().clear() as u64;
            shared.edge.count(EdgeEvent::MiddlewareLost, lost);
            warn!(
                lost,
                "the middleware ended ({status}) and is started again; what it had is lost"
            );
        }
    }
}

/// Feeds the program, and starts it again whenever it ends, until it is to finish.
pub(super) fn keep_running(shared: &Arc<Shared>, first: Program) {
    let mut running = Some(first);
    let mut pause = PAUSE;
    loop {
        if let Some(mut program) = running.take() {
            if let Err(error) = program.feed(shared)
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                warn!(%error, "can't write to the middleware");
            }
            if program.since.elapsed() > RAN {
                pause = PAUSE;
            }
            program.end(shared);
        }
        let is_over =
            || shared.stopping.load(Ordering::Relaxed) || shared.finishing.load(Ordering::Relaxed);
        if is_over() {
            // What waits for a program that is gone.
            while shared.queue.take().is_some() {
                shared.edge.count(EdgeEvent::MiddlewareLost, 1);
            }
            return shared.queue.done();
        }
        let until = Instant::now() + pause;
        pause = (pause * 2).min(MAX_PAUSE);
        while Instant::now() < until && !is_over() {
            std::thread::sleep(Duration::from_millis(5));
        }
        match Program::start(shared) {
            Ok(program) => running = Some(program),
            Err(error) => warn!("{error:#}; trying again"),
        }
    }
}

fn write(
    shared: &Shared,
    input: &mut BufWriter<ChildStdin>,
    exchange: &Exchange,
) -> io::Result<()> {
    let request = &exchange.request;
    let origin = Origin {
        client: request.client,
        server: request.server,
        turn: request.label.as_ref().map_or(0, |label| label.turn()),
    };
    let (first, second) = match gor::messages(exchange, &request.head) {
        Ok(messages) => messages,
        Err(error) => {
            warn!("a message can't be given to the middleware: {error}");
            shared.edge.count(EdgeEvent::MiddlewareBad, 1);
            return Ok(());
        }
    };
    for message in [Some(&first), second.as_ref()].into_iter().flatten() {
        // Before it is written: it may be back before we are.
        let given_up = shared
            .pending()
            .sent(message.kind, &message.id, origin, Instant::now());
        shared.edge.count(EdgeEvent::MiddlewareLeftOut, given_up);
        line::write(parts(message), input)?;
    }
    Ok(())
}

fn parts<'a>(message: &'a Encoded<'_>) -> impl Iterator<Item = &'a [u8]> {
    [message.header(), b"\n"]
        .into_iter()
        .chain(message.payload())
}

fn read_all(shared: &Shared, output: ChildStdout) {
    let mut input = BufReader::with_capacity(BUFFER, output);
    let most = 2 * (shared.settings.max_message + HEADER);
    let mut line = Vec::new();
    let bad = |why: &str| {
        if shared.edge.get(EdgeEvent::MiddlewareBad) < 10 {
            warn!("the middleware wrote a line that is no message: {why}");
        }
        shared.edge.count(EdgeEvent::MiddlewareBad, 1);
    };
    loop {
        match line::read(&mut input, most, &mut line) {
            Ok(Read::End) => return,
            Ok(Read::TooLong) => bad("it is too long"),
            Ok(Read::Line) => match line::message(&line) {
                None => bad("not hexadecimal digits"),
                Some(message) => match Record::parse(&message, 0) {
                    Err(flaw) => bad(&flaw.to_string()),
                    Ok(record) => give_back(shared, &record),
                },
            },
            Err(error) => return warn!(%error, "can't read from the middleware"),
        }
        // A large line's memory is not kept.
        line.shrink_to(BUFFER);
    }
}

fn give_back(shared: &Shared, record: &Record<'_>) {
    let origin = shared.pending().origin(record.kind, record.id);
    (shared.back)(record, origin);
    // Only now: in between it would be nowhere.
    shared
        .pending()
        .came_back(record.kind, record.id, Instant::now());
}
