//! Keeps the state of rollouts on disk: it is read at the start, and one task beside control writes it, always the newest.
//!
//! Control never waits for a disk. It puts a document and gets a number; [`Standing`] tells up to which number everything is safe.
//! Whoever is about to do what must not be forgotten (an intent) puts first and waits for that number. While nothing can be
//! written, traffic and rollouts go on, [`Keeper::can_write`] is false, and writing is tried again and again.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use super::state::{self, Clocks, Document, Kept, Key, Services, Timeline};
use crate::clock;
use crate::config::problem::{At, Problem, Problems};
use crate::durable::{self, owner_hint};

/// The document's name in the folder `tidegate.state`.
const FILE: &str = "rollouts.json";
/// Where one is put that is not understood.
const BROKEN: &str = "rollouts.json.broken";
/// Held as long as we run: two proxies that write one file would each undo what the other did.
const LOCK: &str = "rollouts.lock";
/// After a write that failed the next one comes so soon ...
const RETRY_MIN: Duration = Duration::from_secs(1);
/// ... then after twice the time, and so on up to this.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How far the disk has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// The number of the newest document on disk; 0 before the first.
    pub durable: u64,
    /// Why the last write failed.
    pub problem: Option<Problem>,
}

/// Control's side.
#[derive(Debug)]
pub struct Keeper {
    boot: Option<String>,
    documents: watch::Sender<(u64, Arc<Document>)>,
    standing: watch::Receiver<Standing>,
    generation: u64,
    /// When the next document has to be put, and when the last one was.
    due: Option<Instant>,
    put_at: Option<Instant>,
    /// Services that are kept but not there.
    away: Services,
    deploys: Value,
    found_wrong: Problems,
}

impl Keeper {
    /// Reads what an earlier process left in `folder`. One that cannot be read is a problem, put aside, and begun anew.
    pub fn open(folder: &Path, now: Instant) -> (Self, Timeline, Writer) {
        let path = folder.join(FILE);
        let (document, found_wrong) = match read(&path) {
            Ok(document) => (document, Problems::new()),
            Err(problem) => (Document::default(), vec![problem]),
        };
        let boot = clock::boot_id();
        let base = document.resumed_at(&read_clocks(boot.clone()));
        let (away, deploys) = document.into_parts();
        let (documents, unwritten) = watch::channel((0, Arc::default()));
        let (reports, standing) = watch::channel(Standing::default());
        let store = Store { folder: folder.to_owned(), path, lock: OnceLock::new() };
        let writer = Writer { store: Arc::new(store), documents: unwritten, standing: reports };
        // The first one shows whether the folder can be written at all.
        let (due, put_at) = (Some(now), None);
        let keeper = Self { boot, documents, standing, generation: 0, due, put_at, away, deploys, found_wrong };
        (keeper, Timeline::new(now, base), writer)
    }

    /// What is kept of a service that appears.
    pub fn take(&mut self, key: &Key) -> Option<Kept> {
        self.away.remove(key).map(|(_, kept)| kept)
    }

    /// Keeps what is known of a service that has gone, for a day.
    pub fn leave(&mut self, key: Key, seen: Duration, kept: Kept) {
        self.away.insert(key, (seen, kept));
    }

    /// What the deployments' machine kept.
    pub fn deploys(&self) -> &Value {
        &self.deploys
    }

    /// What it keeps from now on. On disk with the next document that is put.
    pub fn set_deploys(&mut self, deploys: Value) {
        self.deploys = deploys;
    }

    /// Something has changed that is to be put `within` some time of the last document.
    pub fn touch(&mut self, now: Instant, within: Duration) {
        let at = self.put_at.map_or(now, |last| (last + within).max(now));
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// When a document has to be put. Not before the last one is written: whatever changes meanwhile goes in one.
    pub fn deadline(&self) -> Option<Instant> {
        let standing = self.standing.borrow();
        self.due.filter(|_| standing.durable == self.generation || standing.problem.is_some())
    }

    /// Hands a document to the disk, made of the services that are there. The number to wait for where it matters.
    pub fn put(&mut self, now: Instant, timeline: Duration, present: impl Iterator<Item = (Key, Kept)>) -> u64 {
        let present = present.map(|(key, kept)| (key, (timeline, kept)));
        let services = state::within_limits(self.away.clone().into_iter().chain(present).collect(), timeline);
        self.away.retain(|key, _| services.contains_key(key));
        let document = Document::new(timeline, read_clocks(self.boot.clone()), services, self.deploys.clone());
        self.generation += 1;
        (self.due, self.put_at) = (None, Some(now));
        self.documents.send_replace((self.generation, Arc::new(document)));
        self.generation
    }

    /// Follows how far the disk has come.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Whether the document of that number, or a newer one, is on disk.
    pub fn is_durable(&self, generation: u64) -> bool {
        self.standing.borrow().durable >= generation
    }

    /// Whether the last write succeeded. While it is not so, nothing may be done that must not be forgotten.
    pub fn can_write(&self) -> bool {
        let standing = self.standing.borrow();
        standing.durable > 0 && standing.problem.is_none()
    }

    /// What is wrong with the state.
    pub fn problems(&self) -> Problems {
        self.found_wrong.iter().chain(&self.standing.borrow().problem).cloned().collect()
    }
}

fn read_clocks(boot: Option<String>) -> Clocks {
    Clocks::new(boot, clock::uptime(), clock::wall())
}

fn read(path: &Path) -> Result<Document, Problem> {
    let reason = match durable::read(path, Document::parse) {
        Ok((Ok(document), _)) => return Ok(document),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Document::default()),
        Ok((Err(unreadable), _)) => unreadable.to_string(),
        Err(error) => format!("{error}{}", owner_hint(path, &error)),
    };
    let at = At::whole(path.display().to_string());
    let problem = Problem::error(&at, format!("the state of rollouts cannot be read, it begins anew: {reason}"));
    Err(match std::fs::rename(path, path.with_file_name(BROKEN)) {
        Ok(()) => problem.hint(format!("it is put aside as `{BROKEN}`")),
        Err(error) => problem.hint(format!("it could not be put aside as `{BROKEN}`: {error}")),
    })
}

/// The task that writes.
#[derive(Debug)]
pub struct Writer {
    store: Arc<Store>,
    documents: watch::Receiver<(u64, Arc<Document>)>,
    standing: watch::Sender<Standing>,
}

impl Writer {
    /// Writes whatever is put until nobody can put any more.
    pub async fn run(mut self) {
        while self.documents.changed().await.is_ok() {
            let mut pause = RETRY_MIN;
            while let Err(problem) = self.write_newest().await {
                self.standing.send_modify(|standing| standing.problem = Some(problem));
                tokio::time::sleep(pause).await;
                if self.documents.has_changed().is_err() {
                    return;
                }
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }

    async fn write_newest(&mut self) -> Result<(), Problem> {
        let (generation, document) = self.documents.borrow_and_update().clone();
        let store = Arc::clone(&self.store);
        let written = tokio::task::spawn_blocking(move || store.write(&document)).await;
        let outcome = written.unwrap_or_else(|error| Err(WriteError::Io("written", io::Error::other(error))));
        outcome.map_err(|error| self.store.problem(&error))?;
        self.standing.send_replace(Standing { durable: generation, problem: None });
        Ok(())
    }
}

#[derive(Debug)]
struct Store {
    folder: PathBuf,
    path: PathBuf,
    lock: OnceLock<File>,
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("another process holds `{LOCK}`")]
    Busy,
    #[error("it cannot be {0}: {1}")]
    Io(&'static str, #[source] io::Error),
}

impl Store {
    fn write(&self, document: &Document) -> Result<(), WriteError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|error| WriteError::Io("created", error))?;
        self.lock()?;
        let text = document.to_text().map_err(|error| WriteError::Io("written", error.into()))?;
        durable::replace(&self.path, &text).map_err(|error| WriteError::Io("written", error))
    }

    fn lock(&self) -> Result<(), WriteError> {
        if self.lock.get().is_some() {
            return Ok(());
        }
        let path = self.folder.join(LOCK);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|error| WriteError::Io("locked", error))?;
        match file.try_lock() {
            Ok(()) => {
                // There is one writer, so nobody has set it meanwhile.
                let _ = self.lock.set(file);
                Ok(())
            }
            Err(TryLockError::WouldBlock) => Err(WriteError::Busy),
            Err(TryLockError::Error(error)) => Err(WriteError::Io("locked", error)),
        }
    }

    fn problem(&self, error: &WriteError) -> Problem {
        let hint = match error {
            WriteError::Io(_, source) if source.kind() == ErrorKind::PermissionDenied && !self.folder.exists() => {
                // Whoever may not make a folder is not to own the one above it.
                let user = rustix::process::geteuid().as_raw();
                format!(" (make the folder {} for user {user}, or name another one as `tidegate.state`)", self.folder.display())
            }
            WriteError::Io(_, source) => owner_hint(&self.path, source),
            WriteError::Busy => String::new(),
        };
        let message = format!("the state of rollouts is not written: {error}{hint}");
        Problem::warning(&At::whole(self.path.display().to_string()), message)
            .hint("traffic and rollouts go on, but Nomad is asked for nothing until it is")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::super::registry::Layer;
    use super::*;
    use crate::names::Name;

    fn key(name: &str) -> Key {
        (Layer::Http, Name::new(name, "file"))
    }

    /// A keeper on `folder` whose writer runs.
    fn open(folder: &Path) -> (Keeper, Timeline) {
        let (keeper, timeline, writer) = Keeper::open(folder, clock::now());
        tokio::spawn(writer.run());
        (keeper, timeline)
    }

    fn put(keeper: &mut Keeper, timeline: &Timeline, services: &[&str]) -> u64 {
        let now = clock::now();
        keeper.put(now, timeline.at(now), services.iter().map(|name| (key(name), Kept::default())))
    }

    async fn wait(keeper: &Keeper, is_so: impl FnMut(&Standing) -> bool) -> Standing {
        let mut standing = keeper.standing();
        let waiting = standing.wait_for(is_so);
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("in time").expect("a writer").clone()
    }

    #[tokio::test]
    async fn what_was_put_is_there_for_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("deep/state");
        let (mut keeper, timeline) = open(&place);
        assert!(!keeper.can_write(), "nobody knows before the first write");
        keeper.set_deploys(json!({ "paused": ["d-1"] }));
        let number = put(&mut keeper, &timeline, &["a", "b"]);
        wait(&keeper, |standing| standing.durable >= number).await;
        assert!(keeper.can_write() && keeper.is_durable(number) && keeper.problems().is_empty());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&place), mode(&place.join(FILE))), (0o700, 0o600));
        drop(keeper);

        let (mut keeper, _) = open(&place);
        assert_eq!(keeper.deploys(), &json!({ "paused": ["d-1"] }));
        assert!(keeper.take(&key("a")).is_some() && keeper.take(&key("a")).is_none());
        assert!(keeper.take(&(Layer::Tcp, Name::new("b", "file"))).is_none());
        // One that does not appear again is kept all the same.
        let number = put(&mut keeper, &timeline, &["a"]);
        wait(&keeper, |standing| standing.durable >= number).await;
        drop(keeper);
        assert!(open(&place).0.take(&key("b")).is_some());
    }

    #[tokio::test]
    async fn the_newest_is_written_and_older_ones_need_not_be() {
        let folder = tempfile::tempdir().unwrap();
        let (mut keeper, timeline) = open(folder.path());
        let last = (0..100).map(|n| put(&mut keeper, &timeline, &[&format!("s{n}")])).last().unwrap();
        assert_eq!(wait(&keeper, |standing| standing.durable > 0).await.durable, last);
        assert!(Keeper::open(folder.path(), clock::now()).0.take(&key("s99")).is_some());
    }

    #[tokio::test]
    async fn what_stands_in_the_way_is_named_and_when_it_is_gone_all_is_well() {
        let folder = tempfile::tempdir().unwrap();
        let (mut keeper, timeline) = open(folder.path());
        std::fs::create_dir(folder.path().join(FILE)).unwrap();
        let number = put(&mut keeper, &timeline, &["a"]);
        wait(&keeper, |standing| standing.problem.is_some()).await;
        assert!(!keeper.can_write() && !keeper.is_durable(number));
        let said = keeper.problems()[0].to_string();
        assert!(said.contains("the state of rollouts is not written: it cannot be written: Is a directory"), "{said}");
        // What changes meanwhile is not put off until that is mended.
        keeper.touch(clock::now(), Duration::ZERO);
        assert!(keeper.deadline().is_some());
        std::fs::remove_dir(folder.path().join(FILE)).unwrap();
        wait(&keeper, |standing| standing.durable >= number).await;
        assert!(keeper.can_write() && keeper.problems().is_empty());
    }

    #[tokio::test]
    async fn two_proxies_do_not_write_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let ((mut first, timeline), (mut second, _)) = (open(folder.path()), open(folder.path()));
        let number = put(&mut first, &timeline, &["a"]);
        wait(&first, |standing| standing.durable >= number).await;
        let number = put(&mut second, &timeline, &["b"]);
        let standing = wait(&second, |standing| standing.problem.is_some()).await;
        assert!(standing.problem.unwrap().to_string().contains("another process holds `rollouts.lock`"));
        drop(first);
        wait(&second, |standing| standing.durable >= number).await;
    }

    /// What an earlier process left is refused with these words, and put aside.
    #[track_caller]
    fn check_broken(leave: impl FnOnce(&Path), words: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        leave(&path);
        let (keeper, ..) = Keeper::open(folder.path(), clock::now());
        let problems = keeper.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        let said = problems[0].to_string();
        assert!(said.contains(words) && said.ends_with("(it is put aside as `rollouts.json.broken`)"), "{said}");
        assert!(!path.exists() && folder.path().join(BROKEN).exists());
        assert!(Keeper::open(folder.path(), clock::now()).0.problems().is_empty());
    }

    #[test]
    fn a_broken_file_is_put_aside_and_begun_anew() {
        check_broken(|path| std::fs::write(path, "{").unwrap(), "it begins anew: it is not what tidegate writes");
        check_broken(|path| std::fs::write(path, "{\"schema\":7}").unwrap(), "its schema is 7, this version reads 1");
        check_broken(|path| std::fs::create_dir(path).unwrap(), "Is a directory");
    }

    #[test]
    fn a_folder_that_may_not_be_made_is_to_be_made_by_somebody_else() {
        let folder = tempfile::tempdir().unwrap();
        let check = |place: PathBuf, expected: &str| {
            let store = Store { path: place.join(FILE), folder: place, lock: OnceLock::new() };
            let denied = io::Error::from(ErrorKind::PermissionDenied);
            let said = store.problem(&WriteError::Io("created", denied)).to_string();
            assert!(said.contains(expected), "{said}");
        };
        let missing = folder.path().join("missing");
        check(missing.clone(), &format!("(make the folder {} for user ", missing.display()));
        check(folder.path().to_owned(), &format!("(look at the permissions of {})", folder.path().display()));
    }

    #[test]
    fn many_changes_make_one_document_and_slow_ones_wait() {
        let folder = tempfile::tempdir().unwrap();
        // Nobody writes here.
        let (mut keeper, timeline, _writer) = Keeper::open(folder.path(), clock::now());
        let (now, second) = (clock::now(), Duration::from_secs(1));
        assert!(keeper.deadline().is_some_and(|due| due <= now), "the first is due at once");
        keeper.put(now, timeline.at(now), std::iter::empty());
        keeper.touch(now + second, second * 60);
        assert_eq!(keeper.deadline(), None, "the last is not written yet");
        assert_eq!(keeper.due, Some(now + second * 60));
        keeper.touch(now + second, second * 5);
        assert_eq!(keeper.due, Some(now + second * 5));
        keeper.touch(now + second * 2, Duration::ZERO);
        assert_eq!(keeper.due, Some(now + second * 2));
    }
}
