//! A raw image of video memory, read by position.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use gmmu::addr::TableAddr;
use gmmu::device::{DeviceError, TableRead};

use crate::exit::Failure;
use crate::files;
use crate::notation::{Address, Size};

/// What is read at once, and kept: a table of 4 KiB.
const PAGE: usize = 4096;
/// Pages that are kept. A walk needs seven, and a directory's tables come one after the other.
const PAGES: usize = 256;

/// An image that page tables are read from. The file is never loaded whole.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    pub(super) file: File,
    pub(super) base: u64,
    pub(super) bytes: u64,
    pages: Vec<Option<Page>>,
    error: Option<io::Error>,
}

#[derive(Debug)]
struct Page {
    number: u64,
    bytes: Box<[u8; PAGE]>,
}

impl Image {
    /// Opens the image at `path`, whose first byte is VRAM address `base`.
    ///
    /// # Errors
    /// A file that cannot be read, has no length, or is evidently something else.
    pub fn open(path: &Path, base: u64) -> Result<Self, Failure> {
        let unreadable = |error: &io::Error| files::unreadable(path.display(), error);
        let mut file = File::open(path).map_err(|error| unreadable(&error))?;
        if path.is_dir() {
            return Err(Failure::input(format_args!("{}: is a directory, not an image", path.display())));
        }
        let stream = |why: &str| {
            Failure::input(format_args!("{}: cannot be read by position: {why}", path.display()))
                .hint("an image is a file or a block device; save a stream to a file first")
        };
        let bytes = file.seek(SeekFrom::End(0)).map_err(|error| stream(&error.to_string()))?;
        #[cfg(unix)]
        if std::os::unix::fs::FileTypeExt::is_char_device(
            &file.metadata().map_err(|error| unreadable(&error))?.file_type(),
        ) {
            return Err(stream("it is a character device"));
        }
        if bytes == 0 {
            return Err(Failure::input(format_args!("{}: is empty, not an image", path.display())));
        }
        if base.checked_add(bytes).is_none() {
            return Err(Failure::usage(format_args!(
                "--base {base:#x}: an image of {bytes} bytes would end beyond 64 bits"
            )));
        }
        let mut image = Self { path: path.to_owned(), file, base, bytes, pages: Vec::new(), error: None };
        image.pages.resize_with(PAGES, || None);
        image.recognise().map_err(|error| unreadable(&error))?.map_or(Ok(image), Err)
    }

    /// The VRAM addresses that the image covers, for a message: `vram 0x… to 0x… (272K)`.
    #[must_use]
    pub fn covers(&self) -> String {
        format!("vram {} to {} ({})", Address(self.base), Address(self.end()), Size(self.bytes))
    }

    /// The VRAM addresses that the image covers.
    #[must_use]
    pub const fn covered(&self) -> std::ops::Range<u64> {
        self.base..self.end()
    }

    /// First VRAM address behind the image.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.base.saturating_add(self.bytes)
    }

    /// How long the image is.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much of the image is not a hole, as far as the system says.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        #[cfg(unix)]
        if let Ok(metadata) = self.file.metadata() {
            use std::os::unix::fs::MetadataExt;
            // A block device holds all that it spans, and says 0.
            let held = metadata.blocks().saturating_mul(512);
            return if metadata.is_file() { held.min(self.bytes) } else { self.bytes };
        }
        self.bytes
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the system said when a read failed, to be said once.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// The failure for a file that is something else than a raw image. Only where its length is no multiple of 4 KiB,
    /// too, is that certain: memory may begin with anything.
    fn recognise(&mut self) -> io::Result<Option<Failure>> {
        if self.bytes.is_multiple_of(PAGE as u64) {
            return Ok(None);
        }
        let mut head = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        (&mut self.file).take(PAGE as u64).read_to_end(&mut head)?;
        let Some(known) = files::known_as(&head) else { return Ok(None) };
        let failure = Failure::input(format_args!("{}: is {}, not a raw image", self.path.display(), known.what));
        Ok(Some(failure.hint(match known.packed {
            true => "unpack it first; images are read by position",
            false if known.what == "text" => "give a raw image of video memory; log lines go to `gmmu fault`",
            false if known.what == "a qcow2 image" => "convert it first: qemu-img convert -O raw",
            false => "give a raw image of video memory",
        })))
    }

    fn page(&mut self, number: u64) -> Result<&[u8; PAGE], DeviceError> {
        // The remainder of a division by `PAGES` fits.
        let slot = usize::try_from(number % PAGES as u64).unwrap_or(0);
        let held = self.pages.get(slot).and_then(Option::as_ref).is_some_and(|page| page.number == number);
        if !held {
            let bytes = self.load(number).map_err(|error| {
                self.error = Some(error);
                DeviceError::Backend("the image cannot be read")
            })?;
            if let Some(slot) = self.pages.get_mut(slot) {
                *slot = Some(Page { number, bytes });
            }
        }
        match self.pages.get(slot) {
            Some(Some(page)) => Ok(&page.bytes),
            _ => Err(DeviceError::Backend("the cache of the image lost a page")),
        }
    }

    /// Reads page `number` of the file; what lies beyond its end is 0, and never asked for.
    fn load(&mut self, number: u64) -> io::Result<Box<[u8; PAGE]>> {
        let mut bytes = Box::new([0; PAGE]);
        let start = number * PAGE as u64;
        let length = usize::try_from(self.bytes.saturating_sub(start)).unwrap_or(PAGE).min(PAGE);
        self.file.seek(SeekFrom::Start(start))?;
        if let Some(part) = bytes.get_mut(..length) {
            self.file.read_exact(part)?;
        }
        Ok(bytes)
    }

    fn word(&mut self, position: u64) -> Result<u64, DeviceError> {
        let offset = usize::try_from(position % PAGE as u64).unwrap_or(0);
        let page = self.page(position / PAGE as u64)?;
        // An aligned word lies in one page.
        Ok(page.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word)))
    }
}

impl TableRead for Image {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        let TableAddr::Vram(address) = at else { return Err(DeviceError::WrongAperture { at }) };
        let bytes = words.len() as u64 * 8;
        let outside = DeviceError::OutOfRange { at, bytes, end: self.end() };
        let start = address.raw().checked_sub(self.base).ok_or(outside)?;
        if start.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(outside);
        }
        if !address.is_aligned(8) || !start.is_multiple_of(8) {
            return Err(DeviceError::Unaligned { at, alignment: 8 });
        }
        for (word, position) in words.iter_mut().zip((start..).step_by(8)) {
            *word = self.word(position)?;
        }
        Ok(())
    }
}
