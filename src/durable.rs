//! Replaces a file so that a crash, a kill or a full disk leaves the old content or the new one, never a part of either.
//!
//! The rule is a temporary file beside it, synced and renamed. Two kinds of places refuse that: a single file mounted into a
//! container refuses the rename, and a folder that is not ours the temporary file. There the file is written in place, after the
//! new content is safe beside it where that is possible; [`read`] finds it again when the write was cut short.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// Only the owner may read and write: these files hold keys.
const MODE: u32 = 0o600;

/// Replaces the content of the file at `path`; a symbolic link is followed and stays. Owner and mode stay, a new file gets 0600.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let target = fs::canonicalize(path).or_else(|error| match error.kind() {
        ErrorKind::NotFound => Ok(path.to_owned()),
        _ => Err(error),
    })?;
    let beside = beside(&target);
    match write_beside(&beside, &target, content) {
        Ok(()) => {}
        Err(error) if is_refusal(&error) => {
            let _ = fs::remove_file(&beside);
            return overwrite(&target, content);
        }
        Err(error) => {
            // A full disk: the old file is whole, and the part of the new one gives its room back.
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
    }
    match fs::rename(&beside, &target) {
        Ok(()) => sync_folder(&target),
        Err(error) if is_refusal(&error) => {
            overwrite(&target, content)?;
            fs::remove_file(&beside)
        }
        Err(error) => {
            let _ = fs::remove_file(&beside);
            Err(error)
        }
    }
}

/// Reads the file at `path` as `parse` understands it. What a write in place that was cut short left unreadable is taken from the
/// copy beside it; the second value says that this was so.
pub fn read<T, E>(path: &Path, parse: impl Fn(&[u8]) -> Result<T, E>) -> io::Result<(Result<T, E>, Recovered)> {
    let content = fs::read(path)?;
    let outcome = parse(&content);
    if outcome.is_err() {
        let target = fs::canonicalize(path)?;
        if let Some(recovered) = fs::read(beside(&target)).ok().and_then(|content| parse(&content).ok()) {
            return Ok((Ok(recovered), Recovered::FromCopy));
        }
    }
    Ok((outcome, Recovered::No))
}

/// Whether a file's content had to be taken from the copy beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// It was whole.
    No,
    /// A write in place had been cut short.
    FromCopy,
}

/// What helps when a file may not be opened: to whom it belongs, or the folder that it stands in or would stand in.
pub fn owner_hint(path: &Path, error: &io::Error) -> String {
    if error.kind() != ErrorKind::PermissionDenied {
        return String::new();
    }
    let found = path.ancestors().find_map(|place| Some((place, place.metadata().ok()?.uid())));
    found.map_or_else(String::new, |(place, owner)| chown(place, owner, rustix::process::geteuid().as_raw()))
}

fn chown(place: &Path, owner: u32, user: u32) -> String {
    let place = place.display();
    if owner == user {
        return format!(" (look at the permissions of {place})");
    }
    format!(" ({place} belongs to user {owner}, and this process runs as user {user}: run `chown {user} {place}`)")
}

/// Where the new content stands before it takes the file's place.
fn beside(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    target.with_file_name(format!(".{name}.tidegate.new"))
}

fn write_beside(beside: &Path, target: &Path, content: &[u8]) -> io::Result<()> {
    // What an earlier write left is removed rather than opened: it could be a link to somewhere else.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(beside)?;
    if let Ok(old) = fs::metadata(target) {
        let new = file.metadata()?;
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(old.permissions())?;
    }
    file.write_all(content)?;
    file.sync_all()
}

fn overwrite(target: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(target)?;
    let old = file.metadata()?.len();
    let new = u64::try_from(content.len()).map_err(io::Error::other)?;
    // The room is asked for before a byte is changed, so that a full disk costs nothing.
    if new > old
        && let Err(error) = rustix::fs::fallocate(&file, FallocateFlags::empty(), old, new - old)
        && error != rustix::io::Errno::OPNOTSUPP
    {
        file.set_len(old)?;
        return Err(error.into());
    }
    file.seek(SeekFrom::Start(0))?;
    file.write_all(content)?;
    file.set_len(new)?;
    file.sync_all()
}

/// Whether the place refuses the safe way, rather than the disk any way.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::ResourceBusy | ErrorKind::CrossesDevices
    )
}

fn sync_folder(target: &Path) -> io::Result<()> {
    match target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn text(content: &[u8]) -> Result<String, String> {
        let text = String::from_utf8_lossy(content).into_owned();
        if text.ends_with('}') { Ok(text) } else { Err(text) }
    }

    #[test]
    fn a_new_file_is_private_and_an_old_one_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        replace(&path, b"{1}").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        replace(&path, b"{2}").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o400);
        assert_eq!(fs::read(&path).unwrap(), b"{2}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_symbolic_link_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real.json"), folder.path().join("a.json"));
        fs::write(&real, b"{old}").unwrap();
        symlink(&real, &link).unwrap();
        replace(&link, b"{new}").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"{new}");
    }

    #[test]
    fn a_write_in_place_keeps_the_inode_and_leaves_no_tail() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        fs::write(&path, b"{a longer content than the new one}").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        for content in [b"{short}".as_slice(), b"{and then a longer one, longer than all before}"] {
            overwrite(&path, content).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    }

    #[test]
    fn a_write_in_place_that_was_cut_short_is_found_beside_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        fs::write(&path, b"{cut sho").unwrap();
        let (outcome, recovered) = read(&path, text).unwrap();
        assert_eq!((outcome, recovered), (Err("{cut sho".to_owned()), Recovered::No));
        fs::write(beside(&path), b"{whole}").unwrap();
        let (outcome, recovered) = read(&path, text).unwrap();
        assert_eq!((outcome, recovered), (Ok("{whole}".to_owned()), Recovered::FromCopy));
    }

    /// Runs itself again in a process that may write no file above 32 KiB, which is to a write what a full disk is.
    #[test]
    fn a_full_disk_keeps_the_old_content() {
        const INNER: &str = "TIDEGATE_TEST_SMALL_FILES";
        if std::env::var_os(INNER).is_none() {
            let test = std::env::current_exe().unwrap();
            let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact durable::tests::a_full_disk_keeps_the_old_content";
            let status = std::process::Command::new("sh").args(["-c", script]).arg(test).env(INNER, "1").output().unwrap();
            assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        replace(&path, b"{old}").unwrap();
        let content = [b"{".as_slice(), &[b' '; 40_000], b"}"].concat();
        assert!(replace(&path, &content).is_err());
        assert!(overwrite(&path, &content).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"{old}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the room is given back");
        replace(&path, b"{new}").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{new}");
    }

    #[test]
    fn what_stands_in_the_way_of_a_file_costs_no_room_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"{new}").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_a_root_traefik_left_says_which_command_helps() {
        let said = chown(Path::new("/data/access.log"), 0, 998);
        let expected =
            " (/data/access.log belongs to user 0, and this process runs as user 998: run `chown 998 /data/access.log`)";
        assert_eq!(said, expected);
    }

    #[test]
    fn a_file_that_cannot_be_seen_is_spoken_of_by_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let denied = io::Error::from(ErrorKind::PermissionDenied);
        let said = owner_hint(&folder.path().join("missing/access.log"), &denied);
        assert_eq!(said, format!(" (look at the permissions of {})", folder.path().display()));
        assert_eq!(owner_hint(folder.path(), &io::Error::from(ErrorKind::StorageFull)), "");
    }
}
