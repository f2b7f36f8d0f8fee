//! A driver in a hundred lines: makes an address space on a real card that no driver is bound to, lets BAR1 go through it,
//! and sees whether what is written through BAR1 is where it should be. The space stays, to be looked at with
//! `gmmu dump --pci BDF --move-window`.
//!
//! ```text
//! sudo cargo run -p gmmu-pci --example map_on_card -- 0000:01:00.0
//! ```
//!
//! It writes to the card's memory, and to what BAR1 is bound to.

use std::env;
use std::error::Error;
use std::path::Path;

use gmmu::addr::{PageSize, PhysAddr, TableAddr};
use gmmu::device::{Bar0, Bar1Aperture, Clock, DeviceError, Width};
use gmmu::format::{Format, MmuVersion, V2, V3};
use gmmu::instance::Bar;
use gmmu::mm::{FbSource, GpuMm};
use gmmu::mmio::Mmio;
use gmmu::tlb::Limits;
use gmmu::vmm::{Extent, MapRequest, Use};
use gmmu::vram::Request;
use gmmu_pci::bars::Bars;
use gmmu_pci::map::Mapping;
use gmmu_pci::open::open;
use gmmu_pci::{Cards, System};

/// What is mapped: where, how much, and in pages of which size.
const MAPS: [(u64, u64, PageSize); 3] = [
    (0x1_0000, 256 << 10, PageSize::Size4K),
    (0x20_0000, 4 << 20, PageSize::Size2M),
    (0x80_0000, 1 << 20, PageSize::Size64K),
];
/// What is unmapped again: a part in the middle of the first.
const HOLE: std::ops::Range<u64> = 0x2_0000..0x2_8000;

/// A card whose accesses are counted.
struct Counted {
    bars: Bars,
    reads: u64,
    writes: u64,
}

impl Bar0 for Counted {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        self.reads += 1;
        self.bars.read(offset, width)
    }

    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        self.writes += 1;
        self.bars.write(offset, width, value)
    }

    fn has_64bit(&self) -> bool {
        self.bars.has_64bit()
    }
}

impl Clock for Counted {
    fn now_us(&mut self) -> u64 {
        self.bars.now_us()
    }

    fn relax(&mut self) {
        self.bars.relax();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let bdf = env::args().nth(1).ok_or("which card? map_on_card 0000:01:00.0")?.parse()?;
    let sys = Path::new("/sys");
    let cards = Cards::read(sys)?.cards;
    let card = cards.iter().find(|card| card.bdf == bdf).ok_or("there is no such card")?;
    // Refused where a driver is bound, the card sleeps, or another program has it.
    let (_alone, bar0) = open(sys, card, &System::read(sys), true)?;
    let index = card.aperture(1).ok_or("the card has no BAR1")?.index;
    let bars = Bars { bar0, aperture: Mapping::open(sys, card, index, true)? };

    let mut card = Mmio::probe(Counted { bars, reads: 0, writes: 0 })?;
    println!("{} with {} MiB", card.chip().name, card.vram_bytes() >> 20);
    match card.chip().mmu {
        MmuVersion::V2 => drive::<V2>(&mut card)?,
        MmuVersion::V3 => drive::<V3>(&mut card)?,
    }
    // The window goes back to where it stood.
    let device = card.release().map_err(|(_, why)| why)?;
    println!("counts reads={} writes={}", device.reads, device.writes);
    Ok(())
}

fn drive<F: Format>(card: &mut Mmio<Counted>) -> Result<(), Box<dyn Error>> {
    // What memory is free is in registers; what firmware and display have is left alone.
    let mut mm = GpuMm::probe(card, FbSource::Registers, &[])?;
    let mut space = mm.create_space::<F, _>(mm.space_config(Use::Bar), card)?;
    let take = |mm: &mut GpuMm, bytes: u64| -> Result<_, Box<dyn Error>> {
        let request = Request::new(bytes).align(bytes.min(2 << 20)).build()?;
        Ok(mm.vram().ok_or("no video memory")?.alloc_contiguous(&request)?.start())
    };
    let block = TableAddr::from(take(&mut mm, 4096)?);
    let bound = mm.bind_bar(card, Bar::Bar1, block, space.root(), Limits::default())?;
    println!("root {}", space.pdb());

    for (va, bytes, page) in MAPS {
        let memory = take(&mut mm, bytes)?.raw();
        let extents = [Extent { to: PhysAddr::vram(memory), bytes }];
        let pool = &mut mm.pool().ok_or("no video memory")?;
        space.map_pages(card, pool, &MapRequest::extents(&extents).at(va).page(page), &[])?;
        // Written through BAR1, and read past the page tables.
        for offset in (0..bytes).step_by(4096) {
            card.bar0().bars.write_at(va + offset, Width::W64, va + offset)?;
            let found = card.read_vram(memory + offset, Width::W64)?;
            if found != va + offset {
                return Err(format!("{:#x} through BAR1 is {found:#x} in memory", va + offset).into());
            }
        }
        println!("mapped {va:#x} {bytes:#x} {memory:#x}");
    }
    let pool = &mut mm.pool().ok_or("no video memory")?;
    space.unmap_pages(card, pool, HOLE)?;
    println!("unmapped {:#x} {:#x}", HOLE.start, HOLE.end - HOLE.start);
    // The books of the space go away with this program, its tables stay in the card's memory.
    drop(bound);
    Ok(())
}
