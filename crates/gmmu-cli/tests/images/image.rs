//! Images to run the program on.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::fail;

/// A file that goes away with the value.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A file of these bytes.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("gmmu-cli-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes).unwrap_or_else(|error| fail(&error.to_string()));
        Self(path)
    }

    /// Its name.
    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap_or_else(|| fail("the temporary folder has an odd name"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A file left in the temporary folder is no reason to fail.
        let _ = fs::remove_file(&self.0);
    }
}

/// A file of `tests/data`.
pub(crate) fn data(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name).display().to_string()
}

/// A raw image, written word by word.
#[derive(Clone, Debug)]
pub(crate) struct Image(Vec<u8>);

impl Image {
    /// Zeros.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(vec![0; bytes])
    }

    /// With the word `word` at `at`.
    pub(crate) fn word(mut self, at: usize, word: u64) -> Self {
        match self.0.get_mut(at..at + 8) {
            Some(place) => place.copy_from_slice(&word.to_le_bytes()),
            None => fail("a word outside the image"),
        }
        self
    }

    /// As a file.
    pub(crate) fn file(&self) -> Scratch {
        Scratch::new(&self.0)
    }
}
