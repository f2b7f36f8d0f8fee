//! Reading small files that may be anything.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// The most that a file of sysfs holds: a page.
pub(crate) const PAGE: u64 = 4096;

/// The text of a file without the white space around it. `None`: there is no such file.
///
/// # Errors
/// Why it cannot be read, for people: no regular file, longer than `limit`, no text.
pub(crate) fn text(path: &Path, limit: u64) -> Result<Option<String>, String> {
    // Opening a FIFO would wait for its other end, and a device could do anything.
    let regular = match fs::metadata(path) {
        Ok(there) => there.is_file(),
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if !regular {
        return Err("no regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > limit {
        return Err(format!("longer than {limit} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "not text".to_owned())?;
    Ok(Some(text.trim_matches(['\0', '\n', ' ', '\t']).to_owned()))
}

/// The last part of a symlink's target, which is not followed: a driver's name, a group's number.
///
/// # Errors
/// Why it is none.
pub(crate) fn link(path: &Path) -> Result<Option<String>, String> {
    match fs::read_link(path) {
        Ok(target) => {
            let name = target.file_name().and_then(|name| name.to_str());
            name.filter(|name| is_word(name))
                .map(|name| Some(name.to_owned()))
                .ok_or_else(|| "no plain name".to_owned())
        }
        Err(error) if is_missing(&error) => Ok(None),
        Err(_) => Err("no symlink".to_owned()),
    }
}

/// Whether `text` is the name of a driver, a device or the like, and can be printed as it is.
pub(crate) fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    (1..=64).contains(&text.len()) && text.bytes().all(plain)
}

/// Up to `limit` names in a folder, sorted, and whether there are more.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn names(path: &Path, limit: usize) -> io::Result<(Vec<String>, bool)> {
    let mut names = Vec::new();
    let mut more = false;
    for entry in fs::read_dir(path)? {
        if names.len() >= limit {
            more = true;
            break;
        }
        // Names that are no text are not the kernel's.
        names.extend(entry?.file_name().into_string());
    }
    names.sort_unstable();
    Ok((names, more))
}

/// Whether the error means that there is nothing, and not that something stands in the way.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
