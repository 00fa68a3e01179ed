//! Dynamic configuration from a file, or from a directory of `.toml`, `.yaml` and `.yml` files (sub-directories too).
//!
//! [`run`] reads the texts and publishes them whenever they change; it does not understand them
//! ([`super::last_good::LastGood`] does). What cannot be read (a directory that vanished, a file without permission)
//! keeps its last words; a file that was removed from a directory that can be read is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::install::FileProvider;
use crate::config::problem::{At, Problem};

/// After the last sign of a change so long must be quiet before the files are read: an editor writes in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// But no longer than this after the first sign.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// The files are read again so often without any sign: not every file system gives one.
const RESCAN: Duration = Duration::from_secs(30);
/// The same where the kernel cannot tell us at all.
const RESCAN_UNWATCHED: Duration = Duration::from_secs(2);
/// More files than these are not read.
const FILES_MAX: usize = 10_000;
/// A larger file is not read.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Sub-directories below this depth are not read; symbolic links are followed so often.
const DEPTH_MAX: usize = 16;
/// So many directories are watched for symbolic links that lead out of the one configured.
const PLACES_MAX: usize = 256;

/// The texts of all files at one moment.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct FileState {
    /// By path. What cannot be read now is here with its last text.
    pub files: BTreeMap<PathBuf, FileContent>,
    /// What cannot be read now, and why.
    pub unreadable: BTreeMap<PathBuf, Problem>,
}

/// One file's text.
#[derive(Clone, Debug, PartialEq)]
pub struct FileContent {
    /// All of it.
    pub text: Arc<str>,
    /// When it was last written, if the file system says.
    pub modified: Option<SystemTime>,
}

/// Reads and publishes until `shutdown`: at start, whenever the files change (if they are to be watched), and whenever `reload` does.
pub async fn run(
    settings: FileProvider,
    mut reload: watch::Receiver<u64>,
    state: watch::Sender<Option<FileState>>,
    shutdown: CancellationToken,
) {
    let settings = Arc::new(settings);
    // One sign waiting says all there is to say.
    let (sign, mut signs) = mpsc::channel(1);
    let mut can_reload = true;
    let mut watched = Watched::default();
    loop {
        // First watch, then read: what changes in between is a sign.
        if settings.watch {
            watched = watched.renew(&settings, &sign);
        }
        read_and_publish(&settings, &state).await;
        let rescan = if watched.watcher.is_some() { RESCAN } else { RESCAN_UNWATCHED };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = reload.changed(), if can_reload => can_reload = changed.is_ok(),
            _ = signs.recv() => quiet(&mut signs).await,
            () = tokio::time::sleep(rescan), if settings.watch => {}
        }
    }
}

/// Waits until there was no sign for a while.
async fn quiet(signs: &mut mpsc::Receiver<()>) {
    let settle = async { while let Ok(Some(())) = tokio::time::timeout(QUIET, signs.recv()).await {} };
    // Files that are written without end are read all the same.
    if tokio::time::timeout(QUIET_MAX, settle).await.is_err() {
        tracing::debug!("files go on changing, they are read meanwhile");
    }
}

async fn read_and_publish(settings: &Arc<FileProvider>, state: &watch::Sender<Option<FileState>>) {
    let settings = Arc::clone(settings);
    let Ok(mut new) = tokio::task::spawn_blocking(move || read(&settings)).await else { return };
    state.send_if_modified(|old| {
        if let Some(old) = old {
            new.keep_last_words(old);
        }
        let is_new = old.as_ref().is_none_or(|old| !old.says_the_same(&new));
        if is_new {
            *old = Some(std::mem::take(&mut new));
        }
        is_new
    });
}

impl FileState {
    /// What cannot be read now goes on saying what it said.
    fn keep_last_words(&mut self, old: &Self) {
        for (path, content) in &old.files {
            if self.unreadable.keys().any(|unreadable| path.starts_with(unreadable)) {
                self.files.entry(path.clone()).or_insert_with(|| content.clone());
            }
        }
    }

    /// Apart from the times.
    fn says_the_same(&self, other: &Self) -> bool {
        let texts = |state: &Self| {
            state.files.iter().map(|(path, content)| (path.clone(), Arc::clone(&content.text))).collect::<Vec<_>>()
        };
        self.unreadable == other.unreadable && texts(self) == texts(other)
    }

    fn cannot_read(&mut self, path: &Path, reason: impl std::fmt::Display) {
        let problem = Problem::error(&At::whole(path.display().to_string()), format!("cannot be read: {reason}"));
        self.unreadable.insert(path.to_owned(), problem);
    }
}

/// Reads all files now.
pub fn read(settings: &FileProvider) -> FileState {
    let mut state = FileState::default();
    if let Some(directory) = &settings.directory {
        read_directory(directory, 0, &mut state);
    }
    if let Some(file) = &settings.filename {
        // Here a missing file is no file that was removed but one that cannot be read: it was asked for by name.
        read_file(file, &mut state);
    }
    state
}

fn read_directory(directory: &Path, depth: usize, state: &mut FileState) {
    if depth > DEPTH_MAX {
        return state.cannot_read(directory, format!("it lies more than {DEPTH_MAX} directories deep"));
    }
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        // A sub-directory may go while we read; only the one that was asked for must be there.
        Err(error) if depth > 0 && error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => return state.cannot_read(directory, error),
    };
    for entry in entries {
        match entry {
            Ok(entry) => read_entry(&entry, depth, state),
            Err(error) => state.cannot_read(directory, error),
        }
    }
}

fn read_entry(entry: &std::fs::DirEntry, depth: usize, state: &mut FileState) {
    let name = entry.file_name();
    // `..data` is how Kubernetes swaps whole directories, `.#name` is Emacs' lock; neither is meant for us.
    if ["..", ".#"].iter().any(|start| name.to_string_lossy().starts_with(start)) {
        return;
    }
    let path = entry.path();
    // As in Traefik a symbolic link to a file is read, one to a directory is not entered.
    if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
        return read_directory(&path, depth + 1, state);
    }
    if !has_known_ending(&path) || path.is_dir() {
        return;
    }
    if state.files.len() >= FILES_MAX {
        return state.cannot_read(&path, format!("there are more than {FILES_MAX} files"));
    }
    match text(&path) {
        // Gone since we saw it, or a link to nothing: it does not exist.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => state.cannot_read(&path, error),
        Ok(content) => _ = state.files.insert(path, content),
    }
}

fn has_known_ending(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ["toml", "yaml", "yml"].iter().any(|known| ending == *known))
}

fn read_file(path: &Path, state: &mut FileState) {
    match text(path) {
        Ok(content) => _ = state.files.insert(path.to_owned(), content),
        Err(error) => state.cannot_read(path, error),
    }
}

fn text(path: &Path) -> std::io::Result<FileContent> {
    let file = std::fs::File::open(path)?;
    let modified = file.metadata()?.modified().ok();
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_invalid| std::io::Error::other("it is not UTF-8"))?;
    Ok(FileContent { text: text.into(), modified })
}

/// What the kernel is asked to tell us about.
#[derive(Default)]
struct Watched {
    watcher: Option<RecommendedWatcher>,
    /// So that a failure is said once.
    has_failed: bool,
}

impl Watched {
    /// Watches anew: directories come and go, and a watch stays with the old one.
    fn renew(self, settings: &FileProvider, sign: &mpsc::Sender<()>) -> Self {
        match watch_places(&places(settings), names(settings), sign) {
            Ok(watcher) => Self { watcher: Some(watcher), has_failed: false },
            Err(error) => {
                if !self.has_failed {
                    let seconds = RESCAN_UNWATCHED.as_secs();
                    tracing::warn!(%error, seconds, "configuration files cannot be watched, they are read again and again");
                }
                Self { watcher: None, has_failed: true }
            }
        }
    }
}

fn watch_places(
    places: &BTreeSet<(PathBuf, bool)>,
    names: BTreeSet<OsString>,
    sign: &mpsc::Sender<()>,
) -> notify::Result<RecommendedWatcher> {
    let sign = sign.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is no change.
        let is_change = event.as_ref().map_or(true, |event| match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Access(_) => false,
            _ => true,
        });
        let is_ours = |event: &notify::Event| event.paths.is_empty() || event.paths.iter().any(|path| may_matter(path, &names));
        let is_change = is_change && event.as_ref().map_or(true, is_ours);
        if is_change {
            // A full channel has said it already.
            _ = sign.try_send(());
        }
    })?;
    for (place, is_whole_tree) in places {
        let mode = if *is_whole_tree { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        watcher.watch(place, mode)?;
    }
    Ok(watcher)
}

/// The names of what is read, those that its symbolic links lead to included.
fn names(settings: &FileProvider) -> BTreeSet<OsString> {
    let mut paths: Vec<PathBuf> = settings.filename.iter().cloned().collect();
    if settings.directory.is_some() {
        paths.extend(read(settings).files.into_keys().filter(|path| path.is_symlink()));
    }
    let targets: Vec<PathBuf> = paths.iter().filter_map(|path| path.canonicalize().ok()).collect();
    paths.iter().chain(&targets).filter_map(|path| path.file_name()).map(OsStr::to_owned).collect()
}

/// Whether a change of this path may change what is read. A log that is written beside it all the time does not; whatever is no
/// plain file (any more) may.
fn may_matter(path: &Path, names: &BTreeSet<OsString>) -> bool {
    let is_named = path.file_name().is_none_or(|name| names.contains(name)) || has_known_ending(path);
    is_named || !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
}

/// The directories in which a change may change what is read, and whether all below counts too.
fn places(settings: &FileProvider) -> BTreeSet<(PathBuf, bool)> {
    let mut single = BTreeSet::new();
    let mut places = BTreeSet::new();
    if let Some(directory) = &settings.directory {
        if directory.is_dir() {
            places.insert((directory.clone(), true));
        }
        add_way(directory, 0, &mut single);
        for path in read(settings).files.keys().filter(|path| path.is_symlink()) {
            add_way(path, 0, &mut single);
        }
    }
    if let Some(file) = &settings.filename {
        add_way(file, 0, &mut single);
    }
    places.extend(single.into_iter().take(PLACES_MAX).map(|place| (place, false)));
    places
}

/// Adds the directory a path stands in, and those of every symbolic link on the way to it.
fn add_way(path: &Path, depth: usize, places: &mut BTreeSet<PathBuf>) {
    let Ok(path) = std::path::absolute(path) else { return };
    if depth > DEPTH_MAX || places.len() > PLACES_MAX {
        return;
    }
    places.extend(path.ancestors().skip(1).find(|ancestor| ancestor.is_dir()).map(Path::to_owned));
    for link in path.ancestors() {
        let (Ok(target), Some(parent)) = (std::fs::read_link(link), link.parent()) else { continue };
        places.insert(parent.to_owned());
        let rest = path.strip_prefix(link).unwrap_or(Path::new(""));
        let target = parent.join(target);
        add_way(&if rest.as_os_str().is_empty() { target } else { target.join(rest) }, depth + 1, places);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A provider that watches a directory of its own.
    struct Running {
        root: tempfile::TempDir,
        reload: watch::Sender<u64>,
        state: watch::Receiver<Option<FileState>>,
        _end: tokio_util::sync::DropGuard,
    }

    impl Running {
        async fn start(prepare: impl FnOnce(&Path) -> FileProvider) -> Self {
            let root = tempfile::tempdir().unwrap();
            let settings = prepare(root.path());
            let (reload, reloaded) = watch::channel(0);
            let (sender, state) = watch::channel(None);
            let end = CancellationToken::new();
            tokio::spawn(run(settings, reloaded, sender, end.clone()));
            let mut running = Self { root, reload, state, _end: end.drop_guard() };
            let first = tokio::time::timeout(Duration::from_secs(10), running.state.wait_for(Option::is_some)).await;
            first.unwrap().unwrap();
            running
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        /// Waits until the state is `name=text` of all files and `!name` of all that cannot be read.
        #[track_caller]
        fn shows(&mut self, expected: &str) -> impl Future<Output = ()> {
            let root = self.root.path().to_owned();
            let short = move |path: &Path| path.strip_prefix(&root).unwrap().display().to_string();
            let show = move |state: &Option<FileState>| {
                let state = state.clone().unwrap_or_default();
                let files = state.files.iter().map(|(path, content)| format!("{}={}", short(path), content.text.trim()));
                let unreadable = state.unreadable.keys().map(|path| format!("!{}", short(path)));
                files.chain(unreadable).collect::<Vec<_>>().join(" ")
            };
            async move {
                let seen =
                    tokio::time::timeout(Duration::from_secs(10), self.state.wait_for(|state| show(state) == expected)).await;
                let seen = seen.map(|_| ());
                assert!(seen.is_ok(), "waited for `{expected}`, last was `{}`", show(&self.state.borrow()));
            }
        }
    }

    fn directory(path: &Path) -> FileProvider {
        FileProvider { filename: None, directory: Some(path.join("conf")), watch: true }
    }

    #[tokio::test]
    async fn a_directory_is_read_with_its_sub_directories_and_without_editors_files() {
        let mut running = Running::start(|root| {
            std::fs::create_dir_all(root.join("conf/sub")).unwrap();
            for (name, text) in
                [("a.yaml", "1"), ("b.toml", "2"), ("c.json", "x"), (".a.yaml.swp", "x"), ("a.yaml~", "x"), ("sub/d.yml", "3")]
            {
                std::fs::write(root.join("conf").join(name), text).unwrap();
            }
            std::os::unix::fs::symlink("nobody@nowhere", root.join("conf/.#a.yaml")).unwrap();
            directory(root)
        })
        .await;
        running.shows("conf/a.yaml=1 conf/b.toml=2 conf/sub/d.yml=3").await;
        std::fs::write(running.path("conf/sub/e.yaml"), "4").unwrap();
        running.shows("conf/a.yaml=1 conf/b.toml=2 conf/sub/d.yml=3 conf/sub/e.yaml=4").await;
        std::fs::create_dir(running.path("conf/new")).unwrap();
        std::fs::write(running.path("conf/new/f.yaml"), "5").unwrap();
        std::fs::remove_dir_all(running.path("conf/sub")).unwrap();
        running.shows("conf/a.yaml=1 conf/b.toml=2 conf/new/f.yaml=5").await;
    }

    #[tokio::test]
    async fn a_file_replaced_by_renaming_is_read_again() {
        let mut running = Running::start(|root| {
            std::fs::write(root.join("a.yaml"), "1").unwrap();
            FileProvider { filename: Some(root.join("a.yaml")), directory: None, watch: true }
        })
        .await;
        running.shows("a.yaml=1").await;
        for round in ["2", "3", "4"] {
            std::fs::write(running.path("a.tmp"), round).unwrap();
            std::fs::rename(running.path("a.tmp"), running.path("a.yaml")).unwrap();
            running.shows(&format!("a.yaml={round}")).await;
        }
        std::fs::remove_file(running.path("a.yaml")).unwrap();
        running.shows("a.yaml=4 !a.yaml").await;
        std::fs::write(running.path("a.yaml"), "5").unwrap();
        running.shows("a.yaml=5").await;
    }

    #[tokio::test]
    async fn a_directory_that_vanished_keeps_its_last_words_and_may_come_back() {
        let mut running = Running::start(|root| {
            std::fs::create_dir(root.join("conf")).unwrap();
            std::fs::write(root.join("conf/a.yaml"), "1").unwrap();
            directory(root)
        })
        .await;
        running.shows("conf/a.yaml=1").await;
        std::fs::remove_dir_all(running.path("conf")).unwrap();
        // On the way the file was seen to be gone, or the directory was: both are right.
        let gone = |state: &Option<FileState>| state.as_ref().is_some_and(|state| !state.unreadable.is_empty());
        tokio::time::timeout(Duration::from_secs(10), running.state.wait_for(gone)).await.unwrap().unwrap();
        std::fs::create_dir(running.path("conf")).unwrap();
        std::fs::write(running.path("conf/b.yaml"), "2").unwrap();
        running.shows("conf/b.yaml=2").await;
        std::fs::write(running.path("conf/b.yaml"), "3").unwrap();
        running.shows("conf/b.yaml=3").await;
    }

    #[tokio::test]
    async fn a_swapped_symbolic_link_is_noticed() {
        let mut running = Running::start(|root| {
            for version in ["v1", "v2"] {
                std::fs::create_dir_all(root.join("releases").join(version)).unwrap();
                std::fs::write(root.join("releases").join(version).join("a.yaml"), version).unwrap();
            }
            std::os::unix::fs::symlink("v1", root.join("releases/current")).unwrap();
            std::fs::create_dir(root.join("conf")).unwrap();
            std::os::unix::fs::symlink("../releases/current/a.yaml", root.join("conf/a.yaml")).unwrap();
            directory(root)
        })
        .await;
        running.shows("conf/a.yaml=v1").await;
        std::os::unix::fs::symlink("v2", running.path("releases/next")).unwrap();
        std::fs::rename(running.path("releases/next"), running.path("releases/current")).unwrap();
        running.shows("conf/a.yaml=v2").await;
    }

    #[tokio::test]
    async fn without_watching_only_a_reload_reads_again() {
        let mut running = Running::start(|root| {
            std::fs::create_dir(root.join("conf")).unwrap();
            std::fs::write(root.join("conf/a.yaml"), "1").unwrap();
            FileProvider { watch: false, ..directory(root) }
        })
        .await;
        running.shows("conf/a.yaml=1").await;
        std::fs::write(running.path("conf/a.yaml"), "2").unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(200), running.state.changed()).await.is_err());
        running.reload.send_modify(|count| *count += 1);
        running.shows("conf/a.yaml=2").await;
    }

    #[tokio::test]
    async fn a_file_that_is_no_text_is_a_problem() {
        let mut running = Running::start(|root| {
            std::fs::create_dir(root.join("conf")).unwrap();
            std::fs::write(root.join("conf/a.yaml"), [0xff, 0xfe]).unwrap();
            directory(root)
        })
        .await;
        running.shows("!conf/a.yaml").await;
        std::fs::write(running.path("conf/a.yaml"), "1").unwrap();
        running.shows("conf/a.yaml=1").await;
        std::fs::write(running.path("conf/a.yaml"), [0xff]).unwrap();
        running.shows("conf/a.yaml=1 !conf/a.yaml").await;
    }

    #[test]
    fn a_log_beside_the_files_is_no_reason_to_read_them() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for name in ["site.yaml", "access.log", "target"] {
            std::fs::write(path(name), "").unwrap();
        }
        std::os::unix::fs::symlink(path("target"), path("dynamic")).unwrap();
        std::fs::create_dir(path("more")).unwrap();
        let settings = FileProvider { filename: Some(path("dynamic")), ..FileProvider::default() };
        let names = names(&settings);
        let mattering = ["site.yaml", "access.log", "target", "dynamic", "more", "gone"];
        let found: Vec<&str> = mattering.into_iter().filter(|name| may_matter(&path(name), &names)).collect();
        assert_eq!(found, ["site.yaml", "target", "dynamic", "more", "gone"]);
    }
}
