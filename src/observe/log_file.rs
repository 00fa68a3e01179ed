//! Where lines of a log go: a file that can be reopened after it was renamed, standard output or standard error.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

/// A place for lines. Shared by all who write; each line is one append, so lines never mix.
#[derive(Debug)]
pub struct LogFile {
    path: Option<PathBuf>,
    target: ArcSwap<Target>,
    /// Lines lost since the last one that was written.
    lost: AtomicU64,
}

#[derive(Debug)]
enum Target {
    File(File),
    Output,
    ErrorOutput,
}

/// What became of a line. Whoever writes reports only the changes.
#[derive(Debug)]
pub enum Written {
    /// It is there.
    Fine,
    /// It is there, the first after so many were lost.
    FineAgain(u64),
    /// It is lost, the first one.
    Lost(io::Error),
    /// It is lost like the one before.
    LostAgain,
}

impl Written {
    /// Whether the line is lost.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::LostAgain)
    }
}

impl LogFile {
    /// Opens `path` to append to it, readable for its group's members as the umask allows. Missing folders are made.
    pub fn open(path: &Path) -> io::Result<Self> {
        let target = open(path)?;
        Ok(Self { path: Some(path.to_owned()), target: ArcSwap::from_pointee(target), lost: AtomicU64::new(0) })
    }

    /// Standard output.
    pub fn output() -> Self {
        Self { path: None, target: ArcSwap::from_pointee(Target::Output), lost: AtomicU64::new(0) }
    }

    /// Standard error.
    pub fn error_output() -> Self {
        Self { path: None, target: ArcSwap::from_pointee(Target::ErrorOutput), lost: AtomicU64::new(0) }
    }

    /// The file's path, if it is a file.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Opens the path anew, after somebody renamed the file. On failure the old file stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.target.store(Arc::new(open(path)?));
        }
        Ok(())
    }

    /// Appends whole lines. A failure loses them and nothing else.
    pub fn write(&self, lines: &[u8]) -> Written {
        let result = match &**self.target.load() {
            Target::File(file) => (&*file).write_all(lines),
            Target::Output => io::stdout().lock().write_all(lines),
            Target::ErrorOutput => io::stderr().lock().write_all(lines),
        };
        match result {
            Ok(()) if self.lost.load(Ordering::Relaxed) == 0 => Written::Fine,
            Ok(()) => match self.lost.swap(0, Ordering::Relaxed) {
                0 => Written::Fine,
                lost => Written::FineAgain(lost),
            },
            Err(error) => match self.lost.fetch_add(1, Ordering::Relaxed) {
                0 => Written::Lost(error),
                _ => Written::LostAgain,
            },
        }
    }
}

fn open(path: &Path) -> io::Result<Target> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o664).open(path).map(Target::File)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn after_a_rename_and_reopen_lines_go_to_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("deep/a.log"), folder.path().join("old.log"));
        let file = LogFile::open(&path).unwrap();
        file.write(b"1\n");
        fs::rename(&path, &old).unwrap();
        file.write(b"2\n");
        file.reopen().unwrap();
        file.write(b"3\n");
        assert_eq!(fs::read_to_string(old).unwrap(), "1\n2\n");
        assert_eq!(fs::read_to_string(path).unwrap(), "3\n");
    }

    #[test]
    fn a_full_disk_loses_lines_and_tells_once() {
        let file = LogFile::open(Path::new("/dev/full")).unwrap();
        assert!(matches!(file.write(b"1\n"), Written::Lost(_)));
        assert!(matches!(file.write(b"2\n"), Written::LostAgain));
        file.target.store(Arc::new(open(Path::new("/dev/null")).unwrap()));
        assert!(matches!(file.write(b"3\n"), Written::FineAgain(2)));
        assert!(matches!(file.write(b"4\n"), Written::Fine));
    }

    #[test]
    fn a_failed_reopen_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let file = LogFile::open(&path).unwrap();
        fs::rename(&path, folder.path().join("old.log")).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(file.reopen().is_err());
        assert!(matches!(file.write(b"1\n"), Written::Fine));
        assert_eq!(fs::read_to_string(folder.path().join("old.log")).unwrap(), "1\n");
    }
}
