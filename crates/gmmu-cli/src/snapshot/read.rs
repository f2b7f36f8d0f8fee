//! Reading a snapshot.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::Crc;
use flate2::read::DeflateDecoder;
use gmmu::addr::{PAGE_BYTES, TableAddr};
use gmmu::device::{DeviceError, TableRead};

use super::header::{Header, START};
use super::{BLOCK_PAGES, Broken, DEFLATED_MAX, MAGIC, PAGE, PageKey, SnapshotInfo};
use crate::exit::Failure;
use crate::files::unreadable;

/// Blocks that are kept uncompressed: 8 MiB of them.
const KEPT: usize = 128;

/// Page tables that are read from a snapshot. The whole file is checked when it is opened; of its pages only some are
/// held in memory.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
    file: File,
    info: SnapshotInfo,
    /// The pages, ascending; each block has [`BLOCK_PAGES`] of them, but the last.
    keys: Vec<PageKey>,
    blocks: Vec<Block>,
    kept: Vec<Option<Kept>>,
    error: Option<Failure>,
}

/// Where the compressed pages of a block are.
#[derive(Clone, Copy, Debug)]
struct Block {
    at: u64,
    bytes: u32,
}

#[derive(Debug)]
struct Kept {
    block: usize,
    bytes: Vec<u8>,
}

/// Why a file could not be taken in.
enum Stop {
    Broken(Broken),
    System(io::Error),
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Whether the file at `path` begins as a snapshot does, or nearly so: a damaged one is to be called that.
#[must_use]
pub fn is_snapshot(path: &Path) -> bool {
    const SURE: usize = 5;
    let mut start = [0; SURE];
    // What cannot be read is said by whoever reads it next. Pipes are left alone: they give their bytes once.
    path.is_file()
        && File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok()
        && MAGIC.starts_with(&start)
}

impl Snapshot {
    /// Opens the snapshot at `path`, and checks all of it.
    ///
    /// # Errors
    /// What is wrong with the file, and where.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let opened = File::open(path).map_err(Stop::from).and_then(|mut file| {
            let bytes = file.seek(SeekFrom::End(0))?;
            file.seek(SeekFrom::Start(0))?;
            let contents = Contents::read(&mut Input { reader: BufReader::new(&mut file), at: 0, bytes })?;
            Ok((file, contents))
        });
        let (file, Contents { info, keys, blocks }) = opened.map_err(|stop| failure(path, stop))?;
        let mut kept = Vec::new();
        kept.resize_with(KEPT, || None);
        Ok(Self { path: path.to_owned(), file, info, keys, blocks, kept, error: None })
    }

    /// What the file says of itself.
    #[must_use]
    pub const fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many pages of 4 KiB are in it.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.keys.len() as u64
    }

    /// Why the last read failed, where it was the file's fault, to be said once.
    pub fn take_error(&mut self) -> Option<Failure> {
        self.error.take()
    }

    /// The bytes of page `number`.
    fn page(&mut self, number: usize) -> Result<&[u8], DeviceError> {
        let (block, inside) = (number / BLOCK_PAGES, number % BLOCK_PAGES * PAGE);
        let slot = block % KEPT;
        if self.kept.get(slot).and_then(Option::as_ref).is_none_or(|kept| kept.block != block) {
            let bytes = self.load(block).map_err(|stop| {
                self.error = Some(failure(&self.path, stop));
                DeviceError::Backend("the snapshot cannot be read")
            })?;
            if let Some(slot) = self.kept.get_mut(slot) {
                *slot = Some(Kept { block, bytes });
            }
        }
        let page = self.kept.get(slot).and_then(Option::as_ref).and_then(|kept| kept.bytes.get(inside..inside + PAGE));
        page.ok_or(DeviceError::Backend("the snapshot lost a page"))
    }

    /// Uncompresses a block. How long it gets is known before.
    fn load(&mut self, number: usize) -> Result<Vec<u8>, Stop> {
        let Some(&Block { at, bytes }) = self.blocks.get(number) else {
            return Err(Broken::damaged(0, format_args!("there is no block {number}")).into());
        };
        let pages = self.keys.len().saturating_sub(number * BLOCK_PAGES).min(BLOCK_PAGES);
        let mut deflated = vec![0; bytes as usize];
        self.file.seek(SeekFrom::Start(at))?;
        self.file.read_exact(&mut deflated)?;
        let mut content = vec![0; pages * PAGE];
        let mut inflater = DeflateDecoder::new(deflated.as_slice());
        let whole = inflater.read_exact(&mut content).is_ok() && matches!(inflater.read(&mut [0]), Ok(0));
        let used = inflater.total_in();
        if !whole || used != u64::from(bytes) {
            let what = format_args!("these {bytes} bytes do not uncompress to {pages} pages");
            return Err(Broken::damaged(at, what).into());
        }
        Ok(content)
    }
}

impl TableRead for Snapshot {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        if !at.is_aligned(8) {
            return Err(DeviceError::Unaligned { at, alignment: 8 });
        }
        let bytes = words.len() as u64 * 8;
        let outside = DeviceError::OutOfRange { at, bytes, end: self.info.base.saturating_add(self.info.fb_bytes) };
        let mut rest = words;
        let mut here = at;
        while !rest.is_empty() {
            let number = self.keys.binary_search(&PageKey::of(here)).map_err(|_| outside)?;
            // What is left of a page fits.
            let offset = usize::try_from(here.raw() % PAGE_BYTES).unwrap_or(0);
            let (now, later) = rest.split_at_mut(rest.len().min((PAGE - offset) / 8));
            let page = self.page(number)?;
            for (word, bytes) in now.iter_mut().zip(page.get(offset..).unwrap_or_default().chunks_exact(8)) {
                *word = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            }
            if !later.is_empty() {
                here = here.checked_add(now.len() as u64 * 8).ok_or(outside)?;
            }
            rest = later;
        }
        Ok(())
    }
}

fn failure(path: &Path, stop: Stop) -> Failure {
    let path = path.display();
    match stop {
        Stop::Broken(Broken { offset, what, hint }) => {
            Failure::input(format_args!("{path}: not a good snapshot: at byte {offset:#x}: {what}")).hint(hint)
        }
        Stop::System(error) => unreadable(path, &error),
    }
}

/// What a file holds, all of it checked but what comes of uncompressing.
struct Contents {
    info: SnapshotInfo,
    keys: Vec<PageKey>,
    blocks: Vec<Block>,
}

impl Contents {
    fn read(input: &mut Input<impl Read>) -> Result<Self, Stop> {
        let mut start = [0; START];
        input.fill(&mut start, "its head")?;
        let length = Header::length(&start, input.bytes)?;
        let mut head = start.to_vec();
        head.resize(length, 0);
        input.fill(head.get_mut(START..).unwrap_or_default(), "its head")?;
        let Header { info, pages } = Header::decode(&head)?;
        // Every page has its address in the file.
        let count = usize::try_from(pages).ok().filter(|_| pages <= input.bytes / 8);
        let Some(count) = count else {
            let what = format_args!("{pages} pages, more than a file of {} bytes can hold", input.bytes);
            return Err(Broken::damaged(56, what).into());
        };
        let (mut keys, mut blocks) = (Vec::new(), Vec::new());
        while keys.len() < count {
            blocks.push(input.block(&mut keys, count)?);
        }
        if input.at != input.bytes {
            let what = format_args!("{} bytes behind the last page", input.bytes.saturating_sub(input.at));
            return Err(Broken::damaged(input.at, what).into());
        }
        Ok(Self { info, keys, blocks })
    }
}

/// A file that is read from its start to its end.
struct Input<R> {
    reader: R,
    at: u64,
    bytes: u64,
}

impl<R: Read> Input<R> {
    /// Reads bytes that belong to `what`.
    fn fill(&mut self, bytes: &mut [u8], what: &str) -> Result<(), Stop> {
        self.reader.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Broken::damaged(self.bytes, format_args!("the file ends here, within {what}")).into()
            }
            _ => Stop::System(error),
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Reads the next block, and adds its pages to `keys`, of which there will be `count`.
    fn block(&mut self, keys: &mut Vec<PageKey>, count: usize) -> Result<Block, Stop> {
        let start = self.at;
        let pages = (count - keys.len()).min(BLOCK_PAGES);
        let what = format!("pages {} to {} of {count}", keys.len() + 1, keys.len() + pages);
        let mut crc = Crc::new();
        let mut length = [0; 4];
        self.fill(&mut length, &what)?;
        crc.update(&length);
        let length = u32::from_le_bytes(length);
        if length == 0 || length as usize > DEFLATED_MAX {
            let said = format_args!("{length} compressed bytes for {pages} pages, which cannot be");
            return Err(Broken::damaged(start, said).into());
        }
        for _ in 0..pages {
            let place = self.at;
            let mut key = [0; 8];
            self.fill(&mut key, &what)?;
            crc.update(&key);
            let key = PageKey(u64::from_le_bytes(key));
            if key.at().is_none() || keys.last().is_some_and(|&last| last >= key) {
                let said = format_args!("{:#x}: addresses of pages ascend, and end in 0, 1 or 2", key.0);
                return Err(Broken::damaged(place, said).into());
            }
            keys.push(key);
        }
        let block = Block { at: self.at, bytes: length };
        let mut deflated = vec![0; length as usize];
        self.fill(&mut deflated, &what)?;
        crc.update(&deflated);
        let mut sum = [0; 4];
        let place = self.at;
        self.fill(&mut sum, &what)?;
        let sum = u32::from_le_bytes(sum);
        if sum != crc.sum() {
            let said = format_args!("the checksum of {what} is {:#010x}, and it says {sum:#010x}", crc.sum());
            return Err(Broken::damaged(place, said).into());
        }
        Ok(block)
    }
}
