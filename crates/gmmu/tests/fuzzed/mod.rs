//! What the fuzz targets of the library do with their bytes: functions, so that the corpora are plain tests too.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each user needs a part of it")]

use gmmu::addr::TableAddr;
use gmmu::chip::PageSizes;
use gmmu::device::{DeviceError, TableRead};
use gmmu::format::{Format, V2, V3};
use gmmu::walk::{walk, Cursor, View};
use gmmu_sim::trace::{Replay, Trace};
use gmmu_sim::Config;

/// Bytes as video memory: they come again every so often, so that a few of them are tables that lead to each other.
struct Image<'a> {
    bytes: &'a [u8],
    end: u64,
}

impl TableRead for Image<'_> {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        let bytes = 8 * words.len() as u64;
        if !at.is_vram() || at.raw().checked_add(bytes).is_none_or(|last| last > self.end) {
            return Err(DeviceError::OutOfRange { at, bytes, end: self.end });
        }
        for (word, at) in words.iter_mut().zip((at.raw()..).step_by(8)) {
            let chunk = self.bytes.chunks_exact(8).nth((at / 8) as usize % (self.bytes.len() / 8));
            *word = chunk.and_then(|chunk| chunk.try_into().ok()).map_or(0, u64::from_le_bytes);
        }
        Ok(())
    }
}

/// An image of page tables: single walks, and every entry that can be reached.
pub fn walk_image(data: &[u8]) {
    let Some((head, bytes)) = data.split_first_chunk::<9>() else { return };
    let [kind, va @ ..] = *head;
    if bytes.len() < 8 {
        return;
    }
    let image = Image { bytes, end: 1 << 22 };
    let (root, va) = (TableAddr::vram(u64::from(kind >> 1) << 12), u64::from_le_bytes(va));
    if kind & 1 == 0 {
        look::<V2>(image, root, va);
    } else {
        look::<V3>(image, root, va);
    }
}

fn look<F: Format>(mut image: Image<'_>, root: TableAddr, va: u64) {
    /// Tables that a cursor looks at, at most.
    const TABLES: u64 = 2000;
    let sizes = PageSizes::UP_TO_256G;
    let walked = walk::<F, _>(&mut image, root, sizes, va & ((1 << F::VA_BITS) - 1));
    assert!(walked.is_ok(), "an address within the space can be walked: {walked:?}");
    for view in [View::Translations, View::Structure] {
        let Ok(mut cursor) = Cursor::<F>::new(root, sizes, 0..1 << F::VA_BITS, view, TABLES) else { continue };
        // The last table that it may look at ends it.
        let mut ended = false;
        for _ in 0..=TABLES * 1024 {
            if !matches!(cursor.next(&mut image), Ok(Some(_))) {
                ended = true;
                break;
            }
        }
        assert!(ended, "the cursor has no end");
    }
}

/// A trace, or a log of mmiotrace, done again on a small card.
pub fn trace(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for trace in [Trace::read(&text), Trace::read_mmiotrace(&text)].into_iter().flatten() {
        let config = Config { vram: 64 << 20, ..Config::chip("gh100") };
        let Ok(mut replay) = Replay::new(&config) else { continue };
        for (line, event) in trace.events.iter().take(2000) {
            replay.step(*line, event);
        }
        for finding in replay.gpu().take_findings() {
            assert!(!finding.to_string().is_empty());
        }
        for (_, event) in &trace.events {
            let again = Trace::read(&format!("gmmu-trace 1\n{event}"));
            assert!(again.is_ok(), "{event}: {again:?}");
        }
    }
}
