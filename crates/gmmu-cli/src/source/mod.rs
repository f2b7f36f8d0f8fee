//! Sources: where the page tables come from that a command reads.

mod extents;
pub mod image;
mod memory;
mod model;
#[cfg(target_os = "linux")]
pub(crate) mod pci;

use model::Model;

pub use memory::Memory;

use std::fmt;
use std::path::{Path, PathBuf};

use gmmu::addr::{SysAddr, TableAddr};
use gmmu::chip::{CHIPS, Chip, PageSizes};
use gmmu::device::{DeviceError, TableRead};
use gmmu::format::{Format, MmuVersion};
use gmmu::walk::{WalkError, Why};

use crate::console::Console;
use crate::exit::Failure;
use crate::format::Mmu;
use crate::notation::{BadNotation, table};
use crate::num::{number, shown};
use crate::roots;
use crate::snapshot::{NamedRoot, Snapshot, SnapshotInfo, is_snapshot};
use crate::with_format;
use image::Image;

const SOURCE: &str = "Source";
/// What an address space is called that nobody has named.
const DEFAULT_NAME: &str = "root";

/// The options of every command that reads page tables.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SourceArgs {
    /// Read a raw image of video memory, or a snapshot
    #[arg(long, value_name = "PATH", help_heading = SOURCE)]
    pub file: Option<PathBuf>,

    /// VRAM address of the image's first byte
    #[arg(long, value_name = "ADDR", value_parser = number, default_value = "0", hide_default_value = true,
          requires = "file", help_heading = SOURCE)]
    pub base: u64,

    /// Build a model after a script, and read that
    #[arg(long, value_name = "FILE", help_heading = SOURCE)]
    pub script: Option<PathBuf>,

    /// Read a real card that no driver is bound to
    #[arg(long, value_name = "BDF", help_heading = SOURCE)]
    pub pci: Option<String>,

    /// Agree that the card's PRAMIN window is moved; it is put back in the end
    #[arg(long, requires = "pci", help_heading = SOURCE)]
    pub move_window: bool,

    /// Another sysfs than /sys
    #[arg(long, value_name = "DIR", requires = "pci", help_heading = SOURCE)]
    pub sysfs: Option<PathBuf>,

    /// The chip that the image is of, such as gh100
    #[arg(long, value_name = "CHIP", value_parser = chip, help_heading = SOURCE)]
    pub chip: Option<&'static Chip>,

    /// The format of its page tables, where the chip is not known
    #[arg(long, help_heading = SOURCE)]
    pub mmu: Option<Mmu>,

    /// The top table: 0x10000, vram:0x10000, sys:0x10000, or the name of an address space in a snapshot or script
    #[arg(long, value_name = "ADDR", value_parser = root, conflicts_with = "inst", help_heading = SOURCE)]
    pub root: Option<RootChoice>,

    /// An instance block that names the top table
    #[arg(long, value_name = "ADDR", value_parser = table, help_heading = SOURCE)]
    pub inst: Option<TableAddr>,
}

/// The source that the options name.
enum Named<'a> {
    File(&'a Path),
    Script(&'a Path),
    Card(&'a str),
}

/// Reads the name of a chip.
///
/// # Errors
/// The names that there are.
pub fn chip(name: &str) -> Result<&'static Chip, String> {
    Chip::by_name(&name.to_ascii_lowercase()).ok_or_else(|| {
        let names: Vec<_> = CHIPS.iter().map(|chip| chip.name).collect();
        format!("{} is no chip that gmmu knows: {}", shown(name), names.join(" "))
    })
}

/// How a top table is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootChoice {
    /// By its place.
    At(TableAddr),
    /// By the name of its address space, for sources that have names.
    Name {
        /// The name.
        name: String,
        /// Why it is no place.
        why: BadNotation,
    },
}

/// Reads the place of a top table, or the name of one.
///
/// # Errors
/// What is neither.
pub fn root(text: &str) -> Result<RootChoice, BadNotation> {
    table(text).map(RootChoice::At).or_else(|why| {
        let name = !text.contains(':') && text.starts_with(|first: char| first.is_alphabetic() || first == '_');
        if name { Ok(RootChoice::Name { name: text.to_owned(), why }) } else { Err(why) }
    })
}

/// Page tables that can be read: memory, the format, and where the top table is.
#[derive(Debug)]
pub struct Source {
    /// The memory that the tables are in.
    pub memory: Memory,
    /// The format of the tables.
    pub mmu: MmuVersion,
    /// The page sizes that the chip has.
    pub sizes: PageSizes,
    /// The top table.
    pub root: TableAddr,
    /// What is known of where the memory comes from; the chosen address space is the first one.
    pub info: SnapshotInfo,
}

impl SourceArgs {
    /// Whether a source was named.
    #[must_use]
    pub const fn any(&self) -> bool {
        self.file.is_some() || self.script.is_some() || self.pci.is_some()
    }

    /// Opens the source. Page tables that look like those of another format are noted.
    ///
    /// # Errors
    /// Usage, where options are missing or do not fit together; input, where the image does not hold what they say.
    pub fn open(&self, console: &mut Console<'_>) -> Result<Source, Failure> {
        self.open_with(None, console)
    }

    /// Opens the source, with the instance block that leads to its top table where nothing else names one.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_with(&self, inst: Option<TableAddr>, console: &mut Console<'_>) -> Result<Source, Failure> {
        let (mut memory, mut info) = match self.only()? {
            Named::Script(path) => self.open_script(path)?,
            Named::Card(bdf) => self.open_card(bdf)?,
            Named::File(path) if is_snapshot(path) => self.open_snapshot(path)?,
            Named::File(path) => self.open_image(path, inst)?,
        };
        let path = memory.path().to_owned();
        let named = self.inst.or(inst.filter(|_| info.roots.is_empty()));
        if let Some(inst) = named {
            let at = root_of_instance(&mut memory, inst)?;
            info.roots = vec![NamedRoot { name: DEFAULT_NAME.to_owned(), at }];
            info.blocks = vec![inst];
        }
        let Some(root) = info.roots.first().map(|root| root.at) else {
            let failure = Failure::input(format_args!("{}: no address space", path.display()));
            return Err(match self.pci {
                Some(_) => failure.hint("BAR1 and BAR2 go through none; give --root ADDR or --inst ADDR"),
                None => failure,
            });
        };
        let (mmu, sizes) = (info.mmu, info.page_sizes());
        with_format!(mmu, check_root(&mut memory, root))?;
        if let Memory::Image(_) = memory
            && let Some(other) = roots::other_format(&mut memory, root, mmu)
        {
            let what = if self.mmu.is_some() { "" } else { ", with a chip that has it" };
            console
                .note(format_args!("this looks like a {other} table, and is read as {mmu}: try --mmu {other}{what}"));
        }
        Ok(Source { memory, mmu, sizes, root, info })
    }

    /// Opens the memory of a source whose top tables are to be looked for. A raw image says nothing of itself; what else
    /// there is knows what it is of.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), but for a top table that is not named.
    pub fn open_to_search(&self) -> Result<(Memory, Option<SnapshotInfo>), Failure> {
        let path = match self.only()? {
            Named::Script(path) => return self.open_script(path).map(|(memory, info)| (memory, Some(info))),
            Named::Card(bdf) => return self.open_card(bdf).map(|(memory, info)| (memory, Some(info))),
            Named::File(path) if is_snapshot(path) => {
                return self.open_snapshot(path).map(|(memory, info)| (memory, Some(info)));
            }
            Named::File(path) => path,
        };
        if let Some(RootChoice::Name { why, .. }) = &self.root {
            return Err(Failure::usage(format_args!("--root: {why}")));
        }
        if self.chip.is_some() {
            self.format()?;
        }
        Image::open(path, self.base).map(|image| (Memory::Image(image), None))
    }

    fn open_image(&self, path: &Path, inst: Option<TableAddr>) -> Result<(Memory, SnapshotInfo), Failure> {
        let (chip, mmu) = self.format()?;
        let roots = match (&self.root, self.inst.or(inst)) {
            (None, None) => {
                return Err(Failure::usage(format_args!("{}: where is the top table?", path.display()))
                    .hint("give --root ADDR or --inst ADDR; `gmmu roots --file …` looks for likely ones"));
            }
            (Some(RootChoice::At(at)), _) => vec![NamedRoot { name: DEFAULT_NAME.to_owned(), at: *at }],
            (Some(RootChoice::Name { why, .. }), _) => {
                return Err(Failure::usage(format_args!("--root: {why}"))
                    .hint("address spaces have names in snapshots and scripts, not in a raw image"));
            }
            (None, Some(_)) => Vec::new(),
        };
        let image = Image::open(path, self.base)?;
        let info = SnapshotInfo { chip, mmu, fb_bytes: image.bytes(), base: self.base, roots, blocks: Vec::new() };
        Ok((Memory::Image(image), info))
    }

    /// Opens a snapshot. It knows its chip and its top tables; options may choose among them, and fill in a chip.
    fn open_snapshot(&self, path: &Path) -> Result<(Memory, SnapshotInfo), Failure> {
        let shown_path = path.display();
        if self.base != 0 {
            return Err(Failure::usage(format_args!("{shown_path}: --base is for raw images, and this is a snapshot"))
                .hint("leave it away: a snapshot knows the addresses of its tables"));
        }
        let snapshot = Snapshot::open(path)?;
        let mut info = snapshot.info().clone();
        self.choose(path, "snapshot", &mut info)?;
        Ok((Memory::Snapshot(Box::new(snapshot)), info))
    }

    /// Makes a model and runs a script on it.
    fn open_script(&self, path: &Path) -> Result<(Memory, SnapshotInfo), Failure> {
        let (model, mut info) = Model::after(path, self.chip)?;
        self.choose(path, "model", &mut info)?;
        Ok((Memory::Model(Box::new(model)), info))
    }

    /// Applies the options to a source that knows by itself what it is.
    fn choose(&self, path: &Path, kind: &str, info: &mut SnapshotInfo) -> Result<(), Failure> {
        let shown_path = path.display();
        let other = |option: &str, is: &str| {
            Failure::usage(format_args!("{shown_path}: the {kind} is of {is}, not of {option}"))
                .hint(format_args!("leave the option away: a {kind} knows what it is of"))
        };
        match (self.chip, info.chip) {
            (Some(asked), Some(is)) if asked != is => return Err(other(asked.name, is.name)),
            (Some(asked), None) if asked.mmu != info.mmu => {
                return Err(other(asked.name, &format!("MMU {}", info.mmu)));
            }
            (Some(asked), None) => info.chip = Some(asked),
            _ => {}
        }
        if let Some(mmu) = self.mmu.map(MmuVersion::from).filter(|&mmu| mmu != info.mmu) {
            return Err(other(&format!("MMU {mmu}"), &format!("MMU {}", info.mmu)));
        }
        match &self.root {
            None => {}
            Some(RootChoice::At(at)) => {
                let name = info.roots.iter().find(|root| root.at == *at).map(|root| root.name.clone());
                info.roots = vec![NamedRoot { name: name.unwrap_or_else(|| DEFAULT_NAME.to_owned()), at: *at }];
            }
            Some(RootChoice::Name { name, .. }) => match info.roots.iter().find(|root| root.name == *name) {
                Some(root) => info.roots = vec![root.clone()],
                None => {
                    return Err(Failure::usage(format_args!("{shown_path}: no address space called {}", shown(name)))
                        .hint(format_args!("it has {}", info.roots_text())));
                }
            },
        }
        Ok(())
    }

    /// Opens a card.
    #[cfg(not(target_os = "linux"))]
    fn open_card(&self, bdf: &str) -> Result<(Memory, SnapshotInfo), Failure> {
        Err(Failure::usage(format_args!("--pci {}: cards are read on Linux alone", shown(bdf)))
            .hint("read an image of its memory with --file"))
    }

    /// What was named.
    fn only(&self) -> Result<Named<'_>, Failure> {
        const WAYS: &str = "read --file PATH (a raw image of video memory, or a snapshot), --script FILE (a model after a \
                            script) or --pci BDF (a real card)";
        let named = [self.file.is_some(), self.script.is_some(), self.pci.is_some()];
        if named.into_iter().filter(|&named| named).count() > 1 {
            return Err(Failure::usage("more than one source").hint(WAYS));
        }
        match (&self.file, &self.script, &self.pci) {
            (Some(path), ..) => Ok(Named::File(path)),
            (None, Some(script), _) => Ok(Named::Script(script)),
            (None, None, Some(bdf)) => Ok(Named::Card(bdf)),
            (None, None, None) => Err(Failure::usage("no source to read page tables from").hint(WAYS)),
        }
    }

    fn format(&self) -> Result<(Option<&'static Chip>, MmuVersion), Failure> {
        match (self.chip, self.mmu.map(MmuVersion::from)) {
            (Some(chip), Some(mmu)) if chip.mmu != mmu => {
                Err(Failure::usage(format_args!("--chip {} has MMU {}, not {mmu}", chip.name, chip.mmu)))
            }
            (Some(chip), _) => Ok((Some(chip), chip.mmu)),
            // Without a chip, every page size that the format has is taken as it is.
            (None, Some(mmu)) => Ok((None, mmu)),
            (None, None) => Err(Failure::usage("a raw image does not say which format its page tables have")
                .hint("give --chip CHIP, or --mmu v2 (Pascal to Ada) or --mmu v3 (Hopper, Blackwell)")),
        }
    }
}

/// The top table that an instance block names (`NV_RAMIN_PAGE_DIR_BASE_*`).
pub(crate) fn root_of_instance(memory: &mut Memory, inst: TableAddr) -> Result<TableAddr, Failure> {
    let (place, word) = block_word(memory, inst).map_err(|error| memory.outside("the instance block", inst, error))?;
    match root_in(word) {
        Some(root) => Ok(root),
        None if word == 0 => Err(Failure::input(format_args!("{inst} is no instance block: its word at {place} is 0"))
            .hint("give the top table itself with --root ADDR")),
        None => Err(Failure::input(format_args!(
            "the instance block {inst} is not bound: its word at {place} is {word:#018x}"
        ))
        .hint("give the top table itself with --root ADDR")),
    }
}

/// The word of an instance block that names the top table, and where it is.
fn block_word(memory: &mut impl TableRead, inst: TableAddr) -> Result<(TableAddr, u64), DeviceError> {
    const PAGE_DIR_BASE: u64 = 0x200;
    let place = inst.checked_add(PAGE_DIR_BASE).unwrap_or(inst);
    Ok((place, memory.read_word(place)?))
}

/// The top table that such a word names.
fn root_in(word: u64) -> Option<TableAddr> {
    let at = word & !0xfff;
    match word & 3 {
        _ if word == 0 => None,
        0 => Some(TableAddr::vram(at)),
        2 => Some(TableAddr::SysCoherent(SysAddr::new(at))),
        3 => Some(TableAddr::SysNonCoherent(SysAddr::new(at))),
        _ => None,
    }
}

/// Sees that all entries of the top table can be read.
fn check_root<F: Format>(memory: &mut Memory, root: TableAddr) -> Result<(), Failure> {
    let Some(top) = F::LEVELS.first() else { return Ok(()) };
    let mut word = [0];
    for n in 0..top.entries() {
        let at = root.checked_add(n * top.entry_bytes).unwrap_or(root);
        memory.read_words(at, &mut word).map_err(|error| memory.outside("the top table", root, error))?;
    }
    Ok(())
}

impl Source {
    /// The failure for a walk that could not go on.
    pub fn failure(&mut self, error: WalkError) -> Failure {
        match error {
            WalkError::Device(error) => self.memory.failure(error),
            WalkError::VaTooWide { .. } => Failure::usage(error).hint(format_args!(
                "MMU {} has addresses up to {:#x}",
                self.mmu,
                self.va_end() - 1
            )),
            other => Failure::input(other),
        }
    }

    /// The top table that an instance block names.
    ///
    /// # Errors
    /// A block that is not in this memory, or is none.
    pub fn root_of(&mut self, inst: TableAddr) -> Result<TableAddr, Failure> {
        root_of_instance(&mut self.memory, inst)
    }

    /// The first address beyond the address space.
    #[must_use]
    pub const fn va_end(&self) -> u64 {
        1 << self.mmu.va_bits()
    }

    /// The address that the tables are indexed with. From Hopper on, 57-bit addresses are often written with their
    /// sign: bits 63:57 repeat bit 56.
    #[must_use]
    pub const fn plain_va(&self, va: u64) -> u64 {
        match self.mmu {
            MmuVersion::V3 if va >> 56 == 0xff => va & (self.va_end() - 1),
            _ => va,
        }
    }

    /// How much video memory there is, where that is known: a model knows, and an image or snapshot from address 0 on is
    /// taken to be of a whole card if it is large enough for one.
    #[must_use]
    pub fn vram_bytes(&self) -> Option<u64> {
        const SMALLEST_CARD: u64 = 64 << 20;
        let SnapshotInfo { base, fb_bytes, .. } = self.info;
        let whole =
            matches!(self.memory, Memory::Model(_)) || self.memory.is_card() || base == 0 && fb_bytes >= SMALLEST_CARD;
        whole.then_some(fb_bytes)
    }

    /// How many tables a search may read: far more than an image of this size can hold, unless tables form a loop.
    #[must_use]
    pub fn tables_max(&self) -> u64 {
        const SPARE: u64 = 1 << 16;
        SPARE + self.memory.bytes_held() / 1024
    }

    /// Why an entry is bad, as far as possible in terms of the source.
    #[must_use]
    pub fn why(&self, why: &Why) -> String {
        self.memory.why(why)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MMU {}, top table {}", self.mmu, self.root)
    }
}
