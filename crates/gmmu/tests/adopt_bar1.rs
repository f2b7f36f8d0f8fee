//! BAR1 as firmware leaves it: bound, with a console in it; and the books of a GPU whose spaces firmware made.
#![allow(
    clippy::single_range_in_vec_init,
    clippy::unwrap_used,
    clippy::panic,
    clippy::allow_attributes,
    reason = "tests"
)]

mod bar_world;
mod common;

use bar_world::{bound_space, config, vram, Card};
use common::{Pool, MIB};
use gmmu::addr::{TableAddr, VramAddr};
use gmmu::bar1::{Bar1, MapError, MapFailed};
use gmmu::device::{Bar1Aperture, Width};
use gmmu::format::{Format, V2, V3};
use gmmu::instance::Bar;
use gmmu::mm::{CloseSpaceError, FbSource, GpuMm, MmError, RootError};
use gmmu::mmio::Mmio;
use gmmu::tlb::Limits;
use gmmu::vmm::{AdoptError, Extent, MapRequest, PrepareError, Use, Vmm};
use gmmu::vram::{Request, ReserveError};
use gmmu_sim::{Bus, Config, Gpu, Watched};

const CONSOLE: u64 = 512 * MIB;
const CONSOLE_BYTES: u64 = 8 * MIB + (64 << 10) + 4096;
const DATA: u64 = 128 * MIB;
const APERTURE: u64 = 64 * MIB;

fn assert_console(card: &mut Card) {
    for offset in (0..CONSOLE_BYTES).step_by(60 << 10) {
        let value = card.read_at(offset & !7, Width::W32).unwrap();
        assert_eq!(value, CONSOLE + (offset & !7), "{offset:#x}");
    }
}

fn bar1_as_firmware_leaves_it<F: Format>(chip: &str, bus: Bus) {
    let model = config(chip, bus, APERTURE);
    let (mut mmio, mut pool, notes, mut firmware) = bound_space::<F>(&model);
    for offset in (0..CONSOLE_BYTES).step_by(8) {
        mmio.bar0().gpu.load_vram(CONSOLE + offset, &(CONSOLE + offset).to_le_bytes());
    }
    // Pages of all sizes, and one that came and went.
    let console = [Extent { to: vram(CONSOLE), bytes: CONSOLE_BYTES }];
    firmware.map_pages(&mut mmio, &mut pool, &MapRequest::extents(&console).at(0), &[]).unwrap();
    let gone = [Extent { to: vram(CONSOLE), bytes: 4096 }];
    let gone = firmware.map_pages(&mut mmio, &mut pool, &MapRequest::extents(&gone).at(32 * MIB), &[]).unwrap();
    firmware.unmap_pages(&mut mmio, &mut pool, gone.range).unwrap();
    notes.tell(&mut mmio.bar0().gpu);
    let (config, root) = (*firmware.config(), firmware.pdb());
    drop(firmware);
    assert_console(mmio.bar0());

    let mut pool = Watched::new(Pool::new(64 * MIB..DATA));
    let notes = pool.notes();
    mmio.bar0().notes = notes.clone();
    let vmm = Vmm::<F>::adopt(config, &mut mmio, root, 100).unwrap();
    assert_eq!(vmm.foreign().collect::<Vec<_>>(), [0..CONSOLE_BYTES]);
    let mut bar1 = Bar1::<F, u64>::new(vmm, APERTURE).map_err(|(_, why)| why).unwrap();
    assert_eq!(
        (bar1.usage().taken, bar1.usage().mappings, bar1.largest_hole()),
        (CONSOLE_BYTES, 0, APERTURE - CONSOLE_BYTES)
    );

    // The console's place is nobody's.
    let one = [Extent { to: vram(DATA), bytes: 4096 }];
    let refused = bar1.map(&mut mmio, &mut pool, 1, 1, &MapRequest::extents(&one).at(CONSOLE_BYTES - 4096));
    let Err(MapFailed::Refused { backing: 1, why: MapError::Prepare(PrepareError::Busy { with }) }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(with, CONSOLE_BYTES - 4096..CONSOLE_BYTES);

    // The rest is filled to the last page, with mappings of all lengths.
    let (mut ids, mut at) = (Vec::new(), DATA);
    for bytes in [4096, 64 << 10, 2 * MIB, 6 * MIB + 4096].into_iter().cycle() {
        let extents = [Extent { to: vram(at), bytes }];
        match bar1.map(&mut mmio, &mut pool, at, at, &MapRequest::extents(&extents)) {
            Ok(id) => ids.push((id, at, bytes)),
            Err(MapFailed::Refused { why: MapError::NoRoom { largest, .. }, .. }) => {
                let extents = [Extent { to: vram(at), bytes: largest }];
                ids.push((
                    bar1.map(&mut mmio, &mut pool, at, at, &MapRequest::extents(&extents)).unwrap(),
                    at,
                    largest,
                ));
                at += largest;
                if bar1.largest_hole() == 0 {
                    break;
                }
                continue;
            }
            Err(why) => panic!("{why}"),
        }
        at += bytes + 4096;
    }
    assert_eq!(bar1.usage().taken, APERTURE);
    for (id, at, bytes) in &ids {
        for offset in [0, (bytes / 2) & !7, bytes - 8] {
            bar1.write(id, mmio.bar0(), offset, Width::W64, at ^ offset).unwrap();
        }
    }
    for (id, at, bytes) in &ids {
        for offset in [0, (bytes / 2) & !7, bytes - 8] {
            let mut word = [0; 8];
            mmio.bar0().gpu.peek_vram(at + offset, &mut word);
            assert_eq!(u64::from_le_bytes(word), at ^ offset, "{at:#x} + {offset:#x}");
            assert_eq!(bar1.read(id, mmio.bar0(), offset, Width::W64).unwrap(), at ^ offset);
        }
    }
    assert_console(mmio.bar0());
    // Every other one goes.
    for (id, at, _) in ids.iter().step_by(2) {
        assert_eq!(bar1.unmap(id, &mut mmio, &mut pool).unwrap(), *at);
    }
    assert_console(mmio.bar0());
    let mut given = Vec::new();
    bar1.close(&mut mmio, &mut pool, |_, memory| given.push(memory)).map_err(|(_, why)| why).unwrap();
    notes.tell(&mut mmio.bar0().gpu);
    assert_eq!(given.len(), ids.len() / 2);
    assert!(pool.inner().out.is_empty());
    // BAR1 is as it was.
    assert_console(mmio.bar0());
    assert_eq!(mmio.bar0().read_at(CONSOLE_BYTES, Width::W32).unwrap(), 0xffff_ffff);
    assert_eq!(mmio.bar0().gpu.findings(), &[]);
}

#[test]
fn bar1_is_used_beside_what_firmware_mapped() {
    for bus in [Bus::Bits64, Bus::Bits32] {
        bar1_as_firmware_leaves_it::<V2>("tu102", bus);
        bar1_as_firmware_leaves_it::<V3>("gb202", bus);
    }
}

fn books_of_a_gpu<F: Format>(chip: &str) {
    let mut card = Mmio::probe(Gpu::new(&Config::chip(chip)).unwrap()).unwrap();
    let probe = |card: &mut Mmio<Gpu>| GpuMm::probe(card, FbSource::Registers, &[]).unwrap();
    // A driver that is gone.
    let mut firmware = probe(&mut card);
    let config = firmware.space_config(Use::Bar);
    let mut space = firmware.create_space::<F, _>(config, &mut card).unwrap();
    let console = [Extent { to: vram(CONSOLE), bytes: CONSOLE_BYTES }];
    space.map_pages(&mut card, &mut firmware.pool().unwrap(), &MapRequest::extents(&console).at(0), &[]).unwrap();
    let root = space.pdb();

    let mut mm = probe(&mut card);
    let failed = mm.adopt::<F, _>(config, &mut card, root, 2).map(drop);
    assert!(matches!(failed, Err(MmError::Adopt(AdoptError::TooManyTables { limit: 2 }))), "{failed:?}");
    assert_eq!(mm.roots().count(), 0);
    let mut space = mm.adopt::<F, _>(config, &mut card, root, 100).unwrap();
    assert_eq!(space.foreign().collect::<Vec<_>>(), [0..CONSOLE_BYTES]);
    let taken = mm.adopt::<F, _>(config, &mut card, root, 100).map(drop);
    assert!(matches!(taken, Err(MmError::Root(RootError::Taken { .. }))), "{taken:?}");
    let taken = mm.space_at::<F, _>(config, &mut card, root).map(drop);
    assert!(matches!(taken, Err(MmError::Root(RootError::Taken { .. }))), "{taken:?}");
    // The allocator never gives what firmware's tables are in.
    let tables = space.foreign_tables().unwrap();
    assert!(tables.len() > 4);
    for (at, _) in tables.iter() {
        let page = VramAddr::new(at.raw() & !0xfff);
        let refused = mm.vram().unwrap().reserve(page..VramAddr::new(page.raw() + 4096)).map(drop);
        assert!(matches!(refused, Err(ReserveError::Taken { .. })), "{at}");
    }
    let ours = [Extent { to: vram(CONSOLE), bytes: 4 * MIB }];
    let job = space.prepare_map(&mut card, &mut mm.pool().unwrap(), &MapRequest::extents(&ours)).unwrap();
    let receipt = job.execute(&mut card).map_err(|failed| failed.why).unwrap();
    space.commit(&mut mm.pool().unwrap(), receipt).map_err(|(_, why)| why).unwrap();
    // Named by an instance block, it is not closed.
    let block = mm.vram().unwrap().alloc_contiguous(&Request::new(4096).build().unwrap()).unwrap();
    let bind =
        mm.bind_bar(&mut card, Bar::Bar1, TableAddr::from(block.start()), space.root(), Limits::default()).unwrap();
    let (space, why) = mm.close_space(space, &mut card).unwrap_err();
    assert!(matches!(why, CloseSpaceError::Root(RootError::Bound { .. })), "{why}");
    mm.unbind_bar(&mut card, bind, Limits::default()).map_err(|(_, why)| why).unwrap();
    mm.close_space(space, &mut card).map_err(|(_, why)| why).unwrap();
    assert_eq!(mm.roots().count(), 0);
    // And once more, as it was.
    let space = mm.adopt::<F, _>(config, &mut card, root, 100).unwrap();
    assert_eq!(space.foreign().collect::<Vec<_>>(), [0..CONSOLE_BYTES]);
    assert_eq!(space.foreign_tables().unwrap().len(), tables.len());
    assert!(space.tables().unwrap().is_empty());
    mm.close_space(space, &mut card).map_err(|(_, why)| why).unwrap();
    assert_eq!(card.bar0().findings(), &[]);
}

#[test]
fn an_adopted_root_is_in_the_books() {
    books_of_a_gpu::<V2>("ga102");
    books_of_a_gpu::<V3>("gh100");
}
