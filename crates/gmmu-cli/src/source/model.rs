//! A software GPU as a source: its memory as a script left it.

use std::path::{Path, PathBuf};

use gmmu::addr::TableAddr;
use gmmu::chip::Chip;
use gmmu::device::{DeviceError, TableRead};
use gmmu::format::Format;
use gmmu_sim::Gpu;

use crate::cmd::run::model;
use crate::exit::{Exit, Failure};
use crate::files;
use crate::machine::{Bar1View, Machine};
use crate::script::{Ran, Runner, Script};
use crate::snapshot::{NamedRoot, SnapshotInfo};
use crate::with_format;

/// A model and the script that it is after.
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    gpu: Gpu,
    bytes_held: u64,
    bar1: Option<Bar1View>,
}

impl Model {
    /// Runs the script at `path` to its end.
    ///
    /// # Errors
    /// Exit code 2 where the script does not parse, 1 where an operation does not go as it says.
    pub fn after(path: &Path, chip: Option<&'static Chip>) -> Result<(Self, SnapshotInfo), Failure> {
        let name = path.display().to_string();
        let script = Script::read(&name, &files::read_text_file(path)?)?;
        let (chip, vram) = model(chip, None, &script, &name)?;
        with_format!(chip.mmu, run(path, chip, vram, &script))
    }

    /// The script.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How full BAR1 is, where it goes through a space.
    #[must_use]
    pub const fn bar1(&self) -> Option<&Bar1View> {
        self.bar1.as_ref()
    }

    /// How many bytes of memory hold anything.
    #[must_use]
    pub const fn bytes_held(&self) -> u64 {
        self.bytes_held
    }
}

impl TableRead for Model {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        self.gpu.peek().read_words(at, words)
    }
}

fn run<F: Format>(
    path: &Path,
    chip: &'static Chip,
    vram: u64,
    script: &Script,
) -> Result<(Model, SnapshotInfo), Failure> {
    let machine = Machine::with(chip, script.config(vram, 0), &script.named_memory())?;
    let mut runner = Runner::<F>::new(machine);
    for (number, line) in &script.lines {
        if let Ran::Broken(broken) = runner.run(*number, line)? {
            let place = format!("{}:{}: {}", path.display(), broken.line, broken.text);
            return Err(Failure::new(Exit::Negative, format_args!("{place}: {}", broken.why))
                .hint("gmmu run SCRIPT --keep-going shows all that is wrong with it"));
        }
    }
    let roots = runner.spaces().map(|(name, vmm)| NamedRoot { name: name.to_owned(), at: vmm.pdb() }).collect();
    let bar1 = runner.occupancy().map(Bar1View::from);
    let gpu = runner.into_gpu();
    let bytes_held = (gpu.vram_pages().count() + gpu.sys_pages().count()) as u64 * 4096;
    let blocks = gpu.instances().collect();
    let info = SnapshotInfo { blocks, ..SnapshotInfo::of_chip(chip, gpu.vram_bytes(), roots) };
    Ok((Model { path: path.to_owned(), gpu, bytes_held, bar1 }, info))
}
