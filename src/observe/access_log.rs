//! The access log: which requests it takes and how its lines get to the file without anybody waiting for it.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use jiff::tz::TimeZone;

use super::access_line::write_line;
use super::access_record::{Record, Selection};
use super::log_file::{LogFile, Written};
use crate::config::install;

/// Lines that wait for the writing thread are written together up to this size.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// How many may wait for a flush at once; one does, at shutdown.
const FLUSHES_MAX: usize = 4;

/// How often at most it is said that lines are lost because too many wait.
const OVERFLOW_REPORT_SECONDS: i64 = 60;

/// One for the process; requests share it.
#[derive(Debug)]
pub struct AccessLog {
    format: install::AccessLogFormat,
    filters: install::AccessLogFilters,
    add_internals: bool,
    selection: Selection,
    zone: TimeZone,
    count: AtomicU64,
    file: Arc<LogFile>,
    /// To the writing thread; `None` when every request writes its own line.
    queue: Option<Queue>,
    dropped: Arc<AtomicU64>,
    overflow_reported: AtomicI64,
}

/// The way to the writing thread.
#[derive(Debug)]
struct Queue {
    /// Whole lines. An empty one only wakes the thread.
    lines: SyncSender<Vec<u8>>,
    /// Answered once all lines that waited before are written.
    flushes: SyncSender<SyncSender<()>>,
}

impl AccessLog {
    /// Opens it. `dropped` counts the lines that are lost, to a full disk or because more than `bufferingSize` wait.
    pub fn open(settings: &install::AccessLog, zone: TimeZone, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let file = Arc::new(match &settings.file_path {
            Some(path) => LogFile::open(path)?,
            None => LogFile::output(),
        });
        let queue = if settings.buffering_size > 0 {
            let (lines, waiting) = sync_channel(settings.buffering_size);
            let (flushes, asked) = sync_channel(FLUSHES_MAX);
            let (file, dropped) = (Arc::clone(&file), Arc::clone(&dropped));
            let run = move || write_queued(&waiting, &asked, &file, &dropped);
            thread::Builder::new().name("access-log".to_owned()).spawn(run)?;
            Some(Queue { lines, flushes })
        } else {
            None
        };
        Ok(Self {
            format: settings.format,
            filters: settings.filters.clone(),
            add_internals: settings.add_internals,
            selection: Selection::new(&settings.fields),
            zone,
            count: AtomicU64::new(0),
            file,
            queue,
            dropped,
            overflow_reported: AtomicI64::new(i64::MIN),
        })
    }

    /// Called when a request begins: its number, from 1.
    pub fn begin(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether requests for ping, API, metrics and challenges are logged too.
    pub fn has_internals(&self) -> bool {
        self.add_internals
    }

    /// Those of a server's headers that a line has. Mostly there are none, and then nothing is allocated.
    pub fn pick_headers(&self, headers: &HeaderMap) -> HeaderMap {
        let mut picked = HeaderMap::new();
        if self.format == install::AccessLogFormat::Json {
            self.selection.each_present(headers, |name| {
                for value in headers.get_all(name) {
                    picked.append(name.clone(), value.clone());
                }
            });
        }
        picked
    }

    /// Logs a request if a filter takes it. Waits for nothing but, unbuffered, one write.
    pub fn log(&self, record: &Record<'_>) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        if !self.takes(record) {
            return;
        }
        if let Some(queue) = &self.queue {
            let mut line = Vec::with_capacity(1024);
            write_line(&mut line, record, self.format, &self.selection, &self.zone);
            match queue.lines.try_send(line) {
                Ok(()) => {}
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.overflowed(record.start),
            }
            return;
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            write_line(line, record, self.format, &self.selection, &self.zone);
            write(&self.file, line, &self.dropped);
        });
    }

    /// Filters are alternatives; none at all takes everything.
    fn takes(&self, record: &Record<'_>) -> bool {
        let install::AccessLogFilters { status_codes, retry_attempts, duration_min } = &self.filters;
        let takes_all = status_codes.is_empty() && !retry_attempts && duration_min.is_none_or(|min| min.is_zero());
        takes_all
            || status_codes.iter().any(|(first, last)| (*first..=*last).contains(&record.status))
            || *retry_attempts && record.retries > 0
            || duration_min.is_some_and(|min| !min.is_zero() && record.duration >= min)
    }

    fn overflowed(&self, now: SystemTime) {
        let lost = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
        let last = self.overflow_reported.load(Ordering::Relaxed);
        let is_due = now.saturating_sub(last) >= OVERFLOW_REPORT_SECONDS;
        if is_due && self.overflow_reported.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::warn!(lost, "lost access log lines, more wait than bufferingSize allows");
        }
    }

    /// Goes on in a new file, after somebody renamed the old one (SIGUSR1).
    pub fn reopen(&self) -> io::Result<()> {
        self.file.reopen()
    }

    /// Waits until the lines that wait are written, at most for `timeout`; false if it took longer. For shutdown.
    pub fn flush(&self, timeout: Duration) -> bool {
        let Some(queue) = &self.queue else { return true };
        let (done, is_done) = sync_channel(1);
        let is_asked = queue.flushes.try_send(done).is_ok();
        // A full queue needs no waking.
        let _ = queue.lines.try_send(Vec::new());
        is_asked && is_done.recv_timeout(timeout).is_ok()
    }
}

/// The writing thread. It ends with the last sender.
fn write_queued(waiting: &Receiver<Vec<u8>>, flushes: &Receiver<SyncSender<()>>, file: &LogFile, dropped: &AtomicU64) {
    let mut batch = Vec::with_capacity(BATCH_BYTES_MAX);
    while let Ok(first) = waiting.recv() {
        batch.extend_from_slice(&first);
        let mut asked: Vec<SyncSender<()>> = Vec::new();
        loop {
            write_all(&mut batch, waiting, file, dropped);
            for done in asked.drain(..) {
                // Whoever asked may have stopped waiting.
                let _ = done.try_send(());
            }
            // Looked at after the queue was empty, so that what was asked while it was full is seen too.
            asked.extend(flushes.try_iter());
            if asked.is_empty() {
                break;
            }
        }
    }
}

/// Writes the batch and all lines that wait.
fn write_all(batch: &mut Vec<u8>, waiting: &Receiver<Vec<u8>>, file: &LogFile, dropped: &AtomicU64) {
    loop {
        let next = if batch.len() < BATCH_BYTES_MAX { waiting.try_recv().ok() } else { None };
        if let Some(line) = next {
            batch.extend_from_slice(&line);
            continue;
        }
        if batch.is_empty() {
            return;
        }
        write(file, batch, dropped);
        batch.clear();
    }
}

fn write(file: &LogFile, lines: &[u8], dropped: &AtomicU64) {
    let written = file.write(lines);
    if written.is_lost() {
        let count = memchr::memchr_iter(b'\n', lines).count();
        dropped.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
    match written {
        Written::Fine | Written::LostAgain => {}
        Written::Lost(error) => {
            tracing::error!(path = ?file.path(), %error, "could not write the access log, its lines are lost");
        }
        Written::FineAgain(lost) => tracing::info!(path = ?file.path(), lost, "wrote the access log again"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use http::HeaderMap;

    use super::*;
    use crate::config::install::{AccessLogFields, AccessLogFilters, AccessLogFormat, FieldMode};

    fn settings(path: &Path, buffering_size: usize, filters: AccessLogFilters) -> install::AccessLog {
        let fields = AccessLogFields { headers_default: FieldMode::Drop, ..AccessLogFields::default() };
        let format = AccessLogFormat::GenericClf;
        install::AccessLog { file_path: Some(path.to_owned()), format, buffering_size, filters, fields, add_internals: false }
    }

    fn open(path: &Path, buffering_size: usize, filters: AccessLogFilters) -> (AccessLog, Arc<AtomicU64>) {
        let dropped = Arc::new(AtomicU64::new(0));
        (AccessLog::open(&settings(path, buffering_size, filters), TimeZone::UTC, Arc::clone(&dropped)).unwrap(), dropped)
    }

    fn log(log: &AccessLog, status: u16, retries: u32, duration: Duration) {
        log.log(&Record {
            start: UNIX_EPOCH,
            duration,
            count: log.begin(),
            client: "127.0.0.1:1".parse().unwrap(),
            forwarded_for: None,
            username: None,
            host: None,
            method: "GET",
            target: "/",
            protocol: "HTTP/1.1",
            request_bytes: 0,
            entrypoint: "web",
            router: None,
            service: None,
            server_url: None,
            server_address: None,
            origin: None,
            status,
            response_bytes: 0,
            retries,
            tls: None,
            request_headers: &HeaderMap::new(),
            response_headers: None,
        });
    }

    fn temporary() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        (folder, path)
    }

    #[track_caller]
    fn check(filters: AccessLogFilters, expected: &[u16]) {
        let (_folder, path) = temporary();
        let (access, _) = open(&path, 0, filters);
        log(&access, 200, 0, Duration::ZERO);
        log(&access, 201, 1, Duration::ZERO);
        log(&access, 202, 0, Duration::from_secs(1));
        log(&access, 404, 0, Duration::ZERO);
        log(&access, 503, 0, Duration::ZERO);
        let lines = fs::read_to_string(path).unwrap();
        let statuses: Vec<u16> = lines.lines().map(|line| line.split(' ').nth(8).unwrap().parse().unwrap()).collect();
        assert_eq!(statuses, expected);
    }

    #[test]
    fn filters_are_alternatives() {
        let none = AccessLogFilters::default;
        check(none(), &[200, 201, 202, 404, 503]);
        check(AccessLogFilters { duration_min: Some(Duration::ZERO), ..none() }, &[200, 201, 202, 404, 503]);
        check(AccessLogFilters { status_codes: vec![(404, 404), (500, 599)], ..none() }, &[404, 503]);
        check(AccessLogFilters { retry_attempts: true, ..none() }, &[201]);
        check(
            AccessLogFilters { status_codes: vec![(404, 404)], duration_min: Some(Duration::from_secs(1)), ..none() },
            &[202, 404],
        );
    }

    #[test]
    fn buffered_lines_are_there_after_a_flush() {
        let (_folder, path) = temporary();
        let (access, dropped) = open(&path, 10_000, AccessLogFilters::default());
        for _ in 0..5_000 {
            log(&access, 200, 0, Duration::ZERO);
        }
        assert!(access.flush(Duration::from_secs(10)));
        assert_eq!(fs::read_to_string(path).unwrap().lines().count(), 5_000);
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn too_many_waiting_lines_are_dropped_and_counted() {
        let (_folder, path) = temporary();
        let (mut access, dropped) = open(&path, 0, AccessLogFilters::default());
        // A queue that nobody reads.
        let (lines, _waiting) = sync_channel(3);
        let (flushes, _asked) = sync_channel(1);
        access.queue = Some(Queue { lines, flushes });
        for _ in 0..5 {
            log(&access, 200, 0, Duration::ZERO);
        }
        assert_eq!(dropped.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        for buffering_size in [0, 100] {
            let (access, dropped) = open(Path::new("/dev/full"), buffering_size, AccessLogFilters::default());
            for _ in 0..5 {
                log(&access, 200, 0, Duration::ZERO);
            }
            assert!(access.flush(Duration::from_secs(10)));
            assert_eq!(dropped.load(Ordering::Relaxed), 5);
        }
    }

    #[test]
    fn a_rotated_log_goes_on_in_a_new_file() {
        let (folder, path) = temporary();
        let (access, _) = open(&path, 0, AccessLogFilters::default());
        log(&access, 200, 0, Duration::ZERO);
        fs::rename(&path, folder.path().join("access.log.1")).unwrap();
        access.reopen().unwrap();
        log(&access, 404, 0, Duration::ZERO);
        assert!(fs::read_to_string(folder.path().join("access.log.1")).unwrap().contains(" 200 "));
        assert!(fs::read_to_string(path).unwrap().contains(" 404 "));
    }
}
