//! Reads the page tables in a raw image of video memory: one address, or all mappings.
//!
//! ```text
//! cargo run -p gmmu --example walk_dump -- crates/gmmu/tests/data/nv-v3-12.img 0x10000
//! cargo run -p gmmu --example walk_dump -- crates/gmmu/tests/data/nv-v3-12.img 0x10000 0x41f80000
//! ```

use gmmu::addr::TableAddr;
use gmmu::chip::PageSizes;
use gmmu::device::{DeviceError, TableRead};
use gmmu::format::V3;
use gmmu::walk::{walk, Cursor, Event, View};
use std::error::Error;

/// All of video memory from address 0, in a vector. A tool would read it by position instead.
struct Image(Vec<u8>);

impl TableRead for Image {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        let TableAddr::Vram(vram) = at else { return Err(DeviceError::WrongAperture { at }) };
        let missing = DeviceError::OutOfRange { at, bytes: words.len() as u64 * 8, end: self.0.len() as u64 };
        let from = usize::try_from(vram.raw()).map_err(|_| missing)?;
        let bytes = self.0.get(from..).and_then(|rest| rest.get(..words.len() * 8)).ok_or(missing)?;
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = chunk.try_into().map_or(0, u64::from_le_bytes);
        }
        Ok(())
    }
}

fn number(text: &str) -> Result<u64, Box<dyn Error>> {
    Ok(u64::from_str_radix(text.strip_prefix("0x").ok_or("addresses start with 0x")?, 16)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, root, rest @ ..] = args.as_slice() else { return Err("walk_dump IMAGE ROOT [ADDRESS]".into()) };
    let mut image = Image(std::fs::read(path)?);
    let root = TableAddr::vram(number(root)?);
    let sizes = PageSizes::UP_TO_512M;
    if let Some(va) = rest.first() {
        let walk = walk::<V3, _>(&mut image, root, sizes, number(va)?)?;
        for step in walk.steps() {
            println!(
                "{:<4} [{:>3}] at {} = {:016x?}: {:?}",
                step.level.name,
                step.index,
                step.entry,
                step.words(),
                step.is
            );
        }
        println!("{:?}", walk.outcome);
        return Ok(());
    }
    let mut cursor = Cursor::<V3>::new(root, sizes, 0..1 << 57, View::Translations, 100_000)?;
    while let Some(event) = cursor.next(&mut image)? {
        if let Event::Entry { va, step } = event {
            println!("{va:#015x} {:>4} {:?}", step.page().map_or("", |page| page.name()), step.is);
        }
    }
    Ok(())
}
