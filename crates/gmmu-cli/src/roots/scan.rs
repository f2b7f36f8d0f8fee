//! The first sieve: pages that may be top tables, and pages that may be instance blocks.

use gmmu::addr::TableAddr;
use gmmu::format::{Format, MmuVersion, Pde};

use super::Wanted;
use crate::entry::fields::Fields;
use crate::exit::Failure;
use crate::source::Memory;
use crate::source::image::Image;
use crate::with_format;

/// Most candidates of one sort that are kept.
const MOST: usize = 20_000;

/// A page that may be a top table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its VRAM address.
    pub at: u64,
    /// In which format.
    pub mmu: MmuVersion,
    /// Whether all of the page behind the entries of a top table is 0.
    pub rest_is_zero: bool,
}

/// What the first sieve left.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    /// Pages that may be top tables.
    pub roots: Vec<Place>,
    /// Pages that may be instance blocks, and the top tables that they name.
    pub instances: Vec<(u64, u64)>,
    /// Bytes that were read.
    pub scanned: u64,
    /// There were more than are kept.
    pub truncated: bool,
}

/// Goes once through an image.
///
/// # Errors
/// Those of the file.
pub fn scan(memory: &mut Memory, wanted: &[Wanted], mut tick: impl FnMut()) -> Result<Candidates, Failure> {
    let Memory::Image(image) = memory else { return Ok(Candidates::default()) };
    let mut found = Candidates::default();
    let covered = image.covered();
    let read = image.for_each_page(|at, page| {
        tick();
        for wanted in wanted {
            if with_format!(wanted.mmu, may_be_root(page, &covered)) {
                let entries = usize::try_from(super::root_entries(wanted.mmu)).unwrap_or(0);
                let rest_is_zero = page.iter().skip(entries * 8).all(|&byte| byte == 0);
                keep(&mut found.roots, Place { at, mmu: wanted.mmu, rest_is_zero }, &mut found.truncated);
            }
        }
        if let Some(root) = named_by_instance(page).filter(|root| covered.contains(root)) {
            keep(&mut found.instances, (at, root), &mut found.truncated);
        }
    });
    found.scanned = read
        .map_err(|error| Failure::input(format_args!("{}: cannot be read: {error}", Image::path(image).display())))?;
    Ok(found)
}

fn keep<T>(list: &mut Vec<T>, one: T, truncated: &mut bool) {
    if list.len() < MOST { list.push(one) } else { *truncated = true }
}

fn word(page: &[u8], n: u64) -> u64 {
    let offset = usize::try_from(n).unwrap_or(usize::MAX).saturating_mul(8);
    page.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Whether the entries of a top table in this page are sound, and one points to a table in the image.
fn may_be_root<F: Format>(page: &[u8], covered: &std::ops::Range<u64>) -> bool {
    let Some(top) = F::LEVELS.first() else { return false };
    let mut tables = false;
    for raw in (0..top.entries()).map(|n| word(page, n)) {
        if raw == 0 {
            continue;
        }
        let Ok(Pde::Link(link)) = F::decode_pde(top, raw) else { return false };
        if Fields::of_entry::<F>(false, &[raw]).undefined(0, raw) != 0 {
            return false;
        }
        match link.to() {
            Some(TableAddr::Vram(at)) if covered.contains(&at.raw()) => tables = true,
            Some(TableAddr::Vram(_)) => return false,
            // In system memory, which is not in the image; or sparse, or nothing.
            _ => {}
        }
    }
    tables
}

/// The top table that a page names, if it is an instance block: `NV_RAMIN_PAGE_DIR_BASE_*`.
fn named_by_instance(page: &[u8]) -> Option<u64> {
    const PAGE_DIR_BASE: u64 = 0x200 / 8;
    // Bits 3 and 9:6 have no meaning; in bit 11, which says 64K, only old formats differ.
    const UNDEFINED: u64 = 0x3c8;
    const VIDEO_MEMORY: u64 = 0;
    let raw = word(page, PAGE_DIR_BASE);
    (raw >> 12 != 0 && raw & UNDEFINED == 0 && raw & 3 == VIDEO_MEMORY).then_some(raw & !0xfff)
}
