//! Files that are written whole or not at all: beside their place, and renamed into it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::console::Console;
use crate::exit::{Exit, Failure};
use crate::snapshot;

/// Writes `path` with `fill`. The old file stays as it is until the new one is complete on the disk; after a failure
/// nothing is left behind. A symlink stays one: its target is what is written.
///
/// # Errors
/// What `fill` returns, or a failure that names the file. Whatever is there and no file, such as a device or a FIFO, is
/// refused: a rename would put a file in its place.
pub fn write_whole(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), Failure>) -> Result<(), Failure> {
    let target = target(path)?;
    let path = target.as_path();
    let (beside, file) = create_beside(path).map_err(|error| unwritable(path, &error))?;
    let written = fill_and_sync(file, path, fill)
        .and_then(|()| fs::rename(&beside, path).map_err(|error| unwritable(path, &error)));
    if written.is_err() {
        // The failure is reported; that the remains could not be removed would only hide it.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn fill_and_sync(
    file: File,
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut writer = BufWriter::new(file);
    fill(&mut writer)?;
    let synced = writer.flush().and_then(|()| writer.get_ref().sync_all());
    synced.map_err(|error| unwritable(path, &error))
}

/// The most that a text file may hold.
const TEXT_MAX: u64 = 64 << 20;

/// Reads a text file, packed by gzip or not, or standard input for `-`.
///
/// # Errors
/// A failure that names the file: missing, unreadable, too large, not text.
pub fn read_text(path: &Path, console: &mut Console<'_>) -> Result<String, Failure> {
    if path.as_os_str() == "-" { text_of(path, Ok(console.input())) } else { read_text_file(path) }
}

/// Reads a text file.
///
/// # Errors
/// As [`read_text`].
pub fn read_text_file(path: &Path) -> Result<String, Failure> {
    text_of(path, File::open(path))
}

fn text_of(path: &Path, source: io::Result<impl Read>) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = source.and_then(|source| unpacked(BufReader::new(source))?.take(TEXT_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| unreadable(path.display(), &error))?;
    if bytes.len() as u64 > TEXT_MAX {
        return Err(Failure::input(format_args!("{}: larger than {} MiB", path.display(), TEXT_MAX >> 20)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::input(format_args!("{}: not text (byte {at})", path.display()))
    })
}

/// What a file holds, whether it is packed by gzip or not.
fn unpacked<'r>(mut file: impl BufRead + 'r) -> io::Result<Box<dyn Read + 'r>> {
    if file.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(MultiGzDecoder::new(file)));
    }
    Ok(Box::new(file))
}

/// What a file is, by how it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// In words: `xz data`, `an ELF file`.
    pub what: &'static str,
    /// Packed: what is inside it may be what is wanted.
    pub packed: bool,
}

/// What a file is that begins like this, if it is something well known.
#[must_use]
pub fn known_as(head: &[u8]) -> Option<Known> {
    const MAGIC: [(&[u8], &str, bool); 9] = [
        (b"\x7fELF", "an ELF file", false),
        (b"\x1f\x8b", "gzip data", true),
        (b"\xfd7zXZ\0", "xz data", true),
        (b"\x28\xb5\x2f\xfd", "zstd data", true),
        (b"BZh", "bzip2 data", true),
        (b"PK\x03\x04", "a zip file", true),
        (b"QFI\xfb", "a qcow2 image", false),
        (b"\x89PNG", "a picture", false),
        (&snapshot::MAGIC, "a snapshot of gmmu", false),
    ];
    let text = || head.iter().all(|&byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'));
    let found = MAGIC.iter().find(|(magic, ..)| head.starts_with(magic));
    found
        .map(|&(_, what, packed)| Known { what, packed })
        .or_else(|| text().then_some(Known { what: "text", packed: false }))
}

/// Where a file that is written as `path` really lies: the end of its symlinks.
fn target(path: &Path) -> Result<PathBuf, Failure> {
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => Err(unwritable(path, &io::Error::from(io::ErrorKind::IsADirectory))),
        Ok(there) if !there.is_file() => {
            Err(Failure::input(format_args!("{}: is no regular file, and stays as it is", path.display()))
                .hint("give the name of a file, new or old: it is written beside its place, and renamed into it"))
        }
        _ if !path.is_symlink() => Ok(path.to_owned()),
        Ok(_) => fs::canonicalize(path).map_err(|error| unwritable(path, &error)),
        Err(error) => Err(unwritable(path, &error).hint("this is a symlink whose target cannot be found")),
    }
}

/// Whether two names are the same file, or will be once it is written.
#[must_use]
pub fn same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        if let Ok(real) = fs::canonicalize(path) {
            return Some(real);
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(fs::canonicalize(folder).ok()?.join(path.file_name()?))
    };
    one == other || place(one).is_some_and(|one| place(other) == Some(one))
}

/// The failure for a file, by its name, that cannot be read.
#[must_use]
pub fn unreadable(name: impl fmt::Display, error: &io::Error) -> Failure {
    Failure::new(Exit::of_file(error), format_args!("{name}: cannot be read: {error}"))
}

/// The failure for a file that cannot be written.
#[must_use]
pub fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::of_file(error), format_args!("{}: cannot be written: {error}", path.display()))
}

fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is not the name of a file"));
    };
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for attempt in 0..16 {
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(format!(".{}.{attempt}.part", std::process::id()));
        let beside = path.with_file_name(beside);
        match OpenOptions::new().write(true).create_new(true).open(&beside) {
            Ok(file) => return Ok((beside, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("gmmu-files-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a temporary folder");
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("the folder is there");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let folder = folder("keeps");
        let path = folder.join("image");
        write_whole(&path, |file| Ok(file.write_all(b"old")?)).expect("writes");
        let failed = write_whole(&path, |file| {
            file.write_all(b"half")?;
            Err(Failure::input("the model stopped"))
        });
        assert_eq!(failed, Err(Failure::input("the model stopped")));
        assert_eq!(fs::read(&path).expect("reads"), b"old");
        assert_eq!(names(&folder), ["image"]);
        write_whole(&path, |file| Ok(file.write_all(b"new")?)).expect("writes");
        assert_eq!(fs::read(&path).expect("reads"), b"new");
        fs::remove_dir_all(folder).expect("removes");
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let folder = folder("named");
        let lost = write_whole(&folder.join("no/such/folder"), |_| Ok(())).expect_err("there is no such folder");
        assert_eq!(lost.exit(), Exit::Input);
        assert!(lost.what().contains("no/such/folder: cannot be written"), "{lost}");
        assert!(write_whole(&folder, |_| Ok(())).is_err(), "a folder is no file");
        assert!(names(&folder).is_empty());
        fs::remove_dir_all(folder).expect("removes");
    }

    #[test]
    fn names_of_one_file_are_known_before_it_exists() {
        let folder = folder("same");
        let (plain, round) =
            (folder.join("new"), folder.join("../").join(folder.file_name().expect("a name")).join("new"));
        assert!(same(&plain, &round) && same(&plain, &plain) && !same(&plain, &folder.join("other")));
        assert!(same(Path::new("./no-such-file"), Path::new("no-such-file")));
        fs::remove_dir_all(folder).expect("removes");
    }

    #[cfg(unix)]
    #[test]
    fn a_symlink_stays_and_its_target_is_written() {
        let (folder, elsewhere) = (folder("link"), folder("link-target"));
        let (link, target) = (folder.join("link"), elsewhere.join("image"));
        std::os::unix::fs::symlink(&target, &link).expect("links");
        let lost = write_whole(&link, |_| Ok(())).expect_err("the link leads nowhere");
        assert_eq!((lost.exit(), lost.hint_line().is_some()), (Exit::Input, true), "{lost}");
        fs::write(&target, b"old").expect("writes");
        write_whole(&link, |file| Ok(file.write_all(b"new")?)).expect("writes");
        assert!(link.is_symlink());
        assert_eq!(fs::read(&target).expect("reads"), b"new");
        assert_eq!((names(&folder), names(&elsewhere)), (vec!["link".to_owned()], vec!["image".to_owned()]));
        fs::remove_dir_all(folder).expect("removes");
        fs::remove_dir_all(elsewhere).expect("removes");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_replaced() {
        use std::os::unix::fs::FileTypeExt;

        let folder = folder("nodes");
        let socket = folder.join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("binds");
        let link = folder.join("link");
        std::os::unix::fs::symlink("/dev/null", &link).expect("links");
        for path in [socket.as_path(), &link, Path::new("/dev/null")] {
            let refused = write_whole(path, |_| Ok(())).expect_err("this is no file");
            assert_eq!((refused.exit(), refused.hint_line().is_some()), (Exit::Input, true), "{refused}");
        }
        assert!(fs::metadata(&socket).expect("is there").file_type().is_socket());
        assert!(fs::metadata("/dev/null").expect("is there").file_type().is_char_device());
        assert_eq!(names(&folder).len(), 2, "nothing is left behind");
        fs::remove_dir_all(folder).expect("removes");
    }
}
