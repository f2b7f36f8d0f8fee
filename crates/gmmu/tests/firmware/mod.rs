//! Address spaces that firmware made: images of tables, written by one address space or by hand, and taken over by another
//! on a card of its own.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test binary uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    missing_docs,
    missing_debug_implementations,
    reason = "tests"
)]

use crate::common::{config, Pool, World, GIB};
use gmmu::addr::{PhysAddr, TableAddr};
use gmmu::device::{Bar0, DeviceError, TableRead};
use gmmu::format::{Format, Leaf, Link, Pte, Slot};
use gmmu::mmio::Mmio;
use gmmu::vmm::{AdoptError, SpaceConfig, Vmm};
use gmmu_sim::{Config, Gpu, Watched};
use std::collections::BTreeMap;

/// Tables of firmware's lie below, those that are added here.
pub const OURS: u64 = 4 * GIB;
pub const LIMIT: usize = 100_000;

/// Video memory as firmware left it: its pages, by address.
#[derive(Clone, Default)]
pub struct Image {
    pub root: u64,
    pub pages: BTreeMap<u64, Vec<u64>>,
    /// Words read.
    pub reads: u64,
}

impl Image {
    /// The tables of a space.
    pub fn of<F: Format>(world: &mut World<F>) -> Self {
        let root = world.vmm.pdb().raw();
        let mut image = Self { root, ..Self::default() };
        let tables = world.vmm.tables().unwrap();
        for (at, bytes) in tables.iter() {
            for at in (at.raw()..at.raw() + bytes).step_by(8) {
                image.set(at, world.gpu().peek_word(TableAddr::vram(at)));
            }
        }
        image
    }

    pub fn word(&self, at: u64) -> u64 {
        self.pages.get(&(at & !0xfff)).map_or(0, |page| page[(at as usize & 0xfff) / 8])
    }

    pub fn set(&mut self, at: u64, word: u64) {
        self.pages.entry(at & !0xfff).or_insert_with(|| vec![0; 512])[(at as usize & 0xfff) / 8] = word;
    }

    /// A card with this in its memory, and nothing cached.
    pub fn card(&self, model: &Config) -> Mmio<Gpu> {
        let mut gpu = Gpu::new(model).unwrap();
        for (at, page) in &self.pages {
            let bytes: Vec<u8> = page.iter().flat_map(|word| word.to_le_bytes()).collect();
            gpu.load_vram(*at, &bytes);
        }
        let mut mmio = Mmio::probe(gpu).unwrap();
        mmio.bar0().reset_counts();
        mmio
    }

    /// The space on a card of its own, adopted.
    pub fn adopted<F: Format>(&self, model: &Config) -> Adopted<F> {
        let mut mmio = self.card(model);
        let pool = Watched::new(Pool::new(OURS..OURS + GIB));
        let (notes, root) = (pool.notes(), TableAddr::vram(self.root));
        mmio.bar0().note_root(root);
        // What firmware did wrong is not ours.
        mmio.bar0().take_findings();
        let whole_words = mmio.bar0().has_64bit();
        let config = SpaceConfig { whole_words, ..config(&model.chip, mmio.vram_bytes()) };
        let vmm = Vmm::adopt(config, &mut mmio, root, LIMIT).unwrap();
        let mut found = Vec::new();
        for (at, bytes) in vmm.foreign_tables().unwrap().iter() {
            found.extend((at.raw()..at.raw() + bytes).step_by(8).map(|at| (at, *bytes == 256)));
        }
        Adopted { world: World { mmio, pool, notes, vmm }, image: self.clone(), found }
    }

    /// What comes of adopting what is in this memory alone.
    pub fn try_adopt<F: Format>(&mut self, chip: &str, limit: usize) -> Result<Vmm<F>, AdoptError> {
        let root = TableAddr::vram(self.root);
        self.reads = 0;
        Vmm::adopt(config(chip, 16 * GIB), self, root, limit)
    }
}

impl TableRead for Image {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        let bytes = 8 * words.len() as u64;
        if !at.is_vram() {
            return Err(DeviceError::WrongAperture { at });
        }
        if at.raw().saturating_add(bytes) > 16 * GIB {
            return Err(DeviceError::OutOfRange { at, bytes, end: 16 * GIB });
        }
        for (n, word) in (0..).zip(words) {
            *word = self.word(at.raw() + 8 * n);
            self.reads += 1;
        }
        Ok(())
    }
}

/// An adopted space, and what it was when it was found.
pub struct Adopted<F: Format> {
    pub world: World<F>,
    pub image: Image,
    /// The words of firmware's tables, and whether they are of a 64K table.
    pub found: Vec<(u64, bool)>,
}

/// "No 4K pages", as this library writes it.
pub fn closed<F: Format>() -> u64 {
    F::encode_pte(&Pte::NoValid4K).unwrap()
}

impl<F: Format> Adopted<F> {
    /// No word of firmware's has changed but those that said nothing.
    pub fn assert_untouched(&mut self) {
        for &(at, big) in &self.found {
            let (was, is) = (self.image.word(at), self.world.mmio.bar0().peek_word(TableAddr::vram(at)));
            let empty = was == 0 || big && was == closed::<F>();
            assert!(is == was || empty, "{at:#x}: {was:#x} became {is:#x}");
        }
    }

    /// Closes the space: every word of firmware's is as it was, and nothing is out of the pool.
    pub fn close(self) -> Mmio<Gpu> {
        let Self { world, image, found } = self;
        let World { mut mmio, mut pool, notes, vmm } = world;
        vmm.close(&mut mmio, &mut pool).map_err(|(_, why)| why).unwrap();
        notes.tell(mmio.bar0());
        for (at, _) in found {
            let is = mmio.bar0().peek_word(TableAddr::vram(at));
            assert_eq!(is, image.word(at), "{at:#x} after close");
        }
        assert!(pool.inner().out.is_empty());
        mmio
    }
}

/// Tables written by hand, one page after the other.
#[derive(Clone)]
pub struct Hand {
    pub image: Image,
    next: u64,
}

impl Default for Hand {
    fn default() -> Self {
        Self { image: Image { root: 0x1000, ..Image::default() }, next: 0x2000 }
    }
}

impl Hand {
    pub fn page(&mut self) -> u64 {
        self.next += 0x1000;
        self.next - 0x1000
    }

    /// Where the entry for `va` of the directory level `n` is; of a dual one, its low word. Tables above are made.
    pub fn entry<F: Format>(&mut self, n: usize, va: u64) -> u64 {
        let mut table = self.image.root;
        for level in &F::LEVELS[..n] {
            let at = table + level.index(va) * level.entry_bytes;
            if self.image.word(at) == 0 {
                let below = self.page();
                self.link::<F>(at, Slot::Pde, below);
            }
            table = match F::decode_link(Slot::Pde, self.image.word(at)).unwrap().to() {
                Some(below) => below.raw(),
                None => unreachable!("the test wrote something else there"),
            };
        }
        let level = &F::LEVELS[n];
        table + level.index(va) * level.entry_bytes
    }

    /// Where the dual entry for `va` is.
    pub fn dual<F: Format>(&mut self, va: u64) -> u64 {
        self.entry::<F>(F::LEVELS.len() - 1, va)
    }

    pub fn link<F: Format>(&mut self, at: u64, slot: Slot, to: u64) {
        self.image.set(at, F::encode_link(slot, &Link::table(TableAddr::vram(to))).unwrap());
    }

    /// Links new leaf tables under the dual entry for `va`: the 64K table, the 4K table.
    pub fn leaf_tables<F: Format>(&mut self, va: u64) -> [u64; 2] {
        let (dual, big, small) = (self.dual::<F>(va), self.page(), self.page());
        self.link::<F>(dual, Slot::Big, big);
        self.link::<F>(dual + 8, Slot::Small, small);
        [big, small]
    }
}

/// The entry of a page of video memory.
pub fn leaf<F: Format>(to: u64) -> u64 {
    F::encode_pte(&Pte::Leaf(Leaf::new(PhysAddr::vram(to)))).unwrap()
}
