//! Files that are written whole or not at all: beside their place, and renamed into it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::console::Console;
use crate::exit::{Exit, Failure};

/// Writes `path` with `fill`. The old file stays as it is until the new one is complete on the disk; after a failure
/// nothing is left behind.
///
/// # Errors
/// What `fill` returns, or a failure that names the file.
pub fn write_whole(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), Failure>) -> Result<(), Failure> {
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

/// Reads a text file, or standard input for `-`.
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
    let read = source.and_then(|source| source.take(TEXT_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::Refused,
            _ => Exit::Input,
        };
        Failure::new(exit, format_args!("{}: cannot be read: {error}", path.display()))
    })?;
    if bytes.len() as u64 > TEXT_MAX {
        return Err(Failure::input(format_args!("{}: larger than {} MiB", path.display(), TEXT_MAX >> 20)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::input(format_args!("{}: not text (byte {at})", path.display()))
    })
}

/// The failure for a file that cannot be written; a missing permission has an exit code of its own.
#[must_use]
pub fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::Refused,
        _ => Exit::Input,
    };
    Failure::new(exit, format_args!("{}: cannot be written: {error}", path.display()))
}

fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is not the name of a file"));
    };
    if path.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
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
}
