//! Writing a snapshot.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use gmmu::device::{DeviceError, TableRead};
use gmmu::format::Format;
use gmmu::walk::WalkError;

use super::header::{Header, crc32};
use super::tables::{Mask, Tables};
use super::{BLOCK_PAGES, PAGE, PageKey, SnapshotInfo};
use crate::exit::Failure;
use crate::files::{unwritable, write_whole};
use crate::with_format;

/// What a snapshot has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Tables in it.
    pub tables: u64,
    /// Instance blocks in it.
    pub blocks: u64,
    /// Pages of 4 KiB that all of them lie in.
    pub pages: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Entries that point to tables which cannot be read, and are not in it.
    pub unreadable: u64,
}

/// Writes to `path` the page tables of every address space of `info`, and what its instance blocks say of spaces, as they are
/// in `memory` now. The file is whole,
/// or it is as it was.
///
/// # Errors
/// Usage where the description cannot be stored, input where the memory or the file fails.
pub fn write(path: &Path, info: &SnapshotInfo, memory: &mut impl TableRead) -> Result<Written, Failure> {
    let cannot = |why: &dyn std::fmt::Display| format!("{}: no snapshot: {why}", path.display());
    // Said before anything is read.
    let probe = Header { info: info.clone(), pages: 0 }.encode();
    probe.map_err(|why| Failure::usage(cannot(&why)))?;
    if let Some(chip) = info.chip.filter(|chip| chip.mmu != info.mmu) {
        let why = format!("{} has MMU {}, not {}", chip.name, chip.mmu, info.mmu);
        return Err(Failure::usage(cannot(&why)));
    }
    let found: Result<Tables, WalkError> = with_format!(info.mmu, find(info, memory));
    let mut tables = found.map_err(|error| Failure::input(cannot(&error)))?;
    let blocks = info.blocks.iter().filter(|&&block| tables.keep_block(block, memory)).count() as u64;
    let pages = tables.pages.len() as u64;
    let head = Header { info: info.clone(), pages }.encode().map_err(|why| Failure::usage(cannot(&why)))?;
    let mut bytes = head.len() as u64;
    write_whole(path, |file| {
        file.write_all(&head).map_err(|error| unwritable(path, &error))?;
        let mut pages = tables.pages.iter();
        loop {
            let some: Vec<_> = pages.by_ref().take(BLOCK_PAGES).map(|(&key, &mask)| (key, mask)).collect();
            if some.is_empty() {
                return Ok(());
            }
            let block = block(&some, memory).map_err(|error| Failure::input(cannot(&error)))?;
            bytes += block.len() as u64;
            file.write_all(&block).map_err(|error| unwritable(path, &error))?;
        }
    })?;
    Ok(Written { tables: tables.count(), blocks, pages, bytes, unreadable: tables.unreadable })
}

fn find<F: Format>(info: &SnapshotInfo, memory: &mut impl TableRead) -> Result<Tables, WalkError> {
    Tables::find::<F>(info, memory)
}

/// Up to [`BLOCK_PAGES`] pages, compressed.
fn block(pages: &[(PageKey, Mask)], memory: &mut impl TableRead) -> Result<Vec<u8>, DeviceError> {
    const FAILED: DeviceError = DeviceError::Backend("the tables could not be compressed");
    let mut deflated = DeflateEncoder::new(Vec::new(), Compression::default());
    for (key, mask) in pages {
        deflated.write_all(&content(*key, mask, memory)?).map_err(|_| FAILED)?;
    }
    let deflated = deflated.finish().map_err(|_| FAILED)?;
    let mut block = Vec::with_capacity(deflated.len() + 8 * pages.len() + 8);
    block.extend(u32::try_from(deflated.len()).unwrap_or(0).to_le_bytes());
    for (key, _) in pages {
        block.extend(key.0.to_le_bytes());
    }
    block.extend(deflated);
    block.extend(crc32(&block).to_le_bytes());
    Ok(block)
}

/// One page: the words of tables and blocks, and zeros where the memory is somebody else's.
fn content(key: PageKey, mask: &Mask, memory: &mut impl TableRead) -> Result<Vec<u8>, DeviceError> {
    let mut bytes = vec![0; PAGE];
    let mut words = [0; PAGE / 8];
    let Some(page) = key.at() else { return Ok(bytes) };
    for (first, count) in mask.runs() {
        let words = words.get_mut(..count).unwrap_or_default();
        let at = page.with_raw(page.raw() + first as u64 * 8);
        memory.read_words(at, words)?;
        for (place, word) in bytes.chunks_exact_mut(8).skip(first).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }
    Ok(bytes)
}
