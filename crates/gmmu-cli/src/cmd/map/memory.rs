//! The memory that `gmmu map` maps: in one piece, or shuffled page by page.
//!
//! Video memory or, where a chip has none, system memory; or wherever the user says.

use gmmu::addr::{Aperture, PAGE_BYTES, PageSize, Pfn, PhysAddr};

use super::Args;
use crate::exit::Failure;
use crate::files::same;
use crate::machine::{Machine, has_page};
use crate::notation::{Bytes, Size};

/// The memory to map.
pub(super) enum Memory {
    Contiguous(PhysAddr),
    /// One frame a page.
    Frames(Aperture, Vec<Pfn>),
}

impl Memory {
    /// Checks the options that belong together.
    pub(super) fn choose(args: &Args) -> Result<MemoryPlan, Failure> {
        let page = args.page_size();
        has_page(args.model.chip, page)?;
        if let (Some(image), Some(snapshot)) = (&args.vram_out, &args.snapshot)
            && same(image, snapshot)
        {
            return Err(Failure::usage(format_args!("--vram-out and --snapshot are both {}", image.display()))
                .hint("give them different names"));
        }
        let unit = page.map_or(PAGE_BYTES, PageSize::bytes);
        if args.size == 0 || !args.size.is_multiple_of(unit) {
            return Err(Failure::usage(format_args!(
                "--size {}: not a positive multiple of the page size {}",
                Size(args.size),
                Size(unit)
            )));
        }
        Ok(MemoryPlan { unit, at: args.pa })
    }

    /// Where byte `offset` of the mapping lies.
    pub(super) fn at(&self, offset: u64, unit: u64) -> PhysAddr {
        match self {
            Self::Contiguous(start) => PhysAddr::new(start.aperture, start.raw + offset),
            Self::Frames(aperture, frames) => {
                let frame = usize::try_from(offset / unit).ok().and_then(|n| frames.get(n));
                PhysAddr::new(*aperture, frame.and_then(|frame| frame.bytes()).unwrap_or(0) + offset % unit)
            }
        }
    }
}

/// Memory that is to be taken: at an address, or wherever the allocator likes.
pub(super) struct MemoryPlan {
    unit: u64,
    at: Option<PhysAddr>,
}

impl MemoryPlan {
    pub(super) fn take(&self, args: &Args, machine: &mut Machine) -> Result<Memory, Failure> {
        let start = match self.at {
            Some(at) => {
                // Before there is a list of the pages: it would be as long as the size that was typed.
                let (what, end) = match at.aperture {
                    Aperture::Vram => ("video memory", machine.vram_bytes()),
                    Aperture::SysCoherent | Aperture::SysNonCoherent => ("system memory", machine.gpu().sys_end()),
                    Aperture::Peer(_) => ("what a peer can have", args.model.chip.reach(at.aperture)),
                };
                if args.size > end.saturating_sub(at.raw) {
                    return Err(Failure::usage(format_args!(
                        "--pa {at}: {} of memory from there on go beyond {what}, which ends at {end:#x}",
                        Bytes(args.size)
                    )));
                }
                at
            }
            None => machine.take_pages(args.size, args.page_size())?.start(),
        };
        let Some(seed) = args.scatter else { return Ok(Memory::Contiguous(start)) };
        if !start.is_aligned(self.unit) {
            return Err(Failure::usage(format_args!("--pa {start}: not a multiple of the page size")));
        }
        let mut frames: Vec<Pfn> = (0..args.size / self.unit)
            .map(|n| start.checked_add(n * self.unit).map(|at| Pfn::new(at.raw / PAGE_BYTES)))
            .collect::<Option<_>>()
            .ok_or_else(|| Failure::usage("the memory ends beyond 64 bits"))?;
        shuffle(&mut frames, seed);
        Ok(Memory::Frames(start.aperture, frames))
    }
}

/// Puts `list` into an order that `seed` alone decides (splitmix64).
fn shuffle<T>(list: &mut [T], seed: u64) {
    let mut state = seed;
    for n in (1..list.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        let other = word % (n as u64 + 1);
        list.swap(n, usize::try_from(other).unwrap_or(n));
    }
}
