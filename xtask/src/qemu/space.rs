//! Address spaces as they are on the card: dumped by `gmmu`, page by page, with what the pages hold.

use std::collections::BTreeMap;
use std::path::Path;

use gmmu::addr::TableAddr;
use gmmu::chip::Chip;
use gmmu_cli::snapshot::{self, NamedRoot, SnapshotInfo};
use gmmu_sim::Gpu;
use serde_json::Value;

use super::number;
use crate::program::gmmu;

/// Bytes of a page.
const STEP: usize = 4096;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// Reads give 0.
    Sparse,
    /// Memory whose first word is this.
    Holds(u64),
}

/// An address space.
pub(super) struct Space {
    pub(super) root: TableAddr,
    pub(super) pages: BTreeMap<u64, Page>,
    /// What `gmmu dump` prints of it.
    pub(super) text: String,
}

/// All address spaces that somebody has used on a card. The snapshot that is dumped stays in `folder`.
pub(super) fn all(gpu: &Gpu, chip: &str, folder: &Path) -> Result<Vec<Space>, String> {
    let chip = Chip::by_name(chip).ok_or("no such chip")?;
    let roots: Vec<TableAddr> = gpu.roots().collect();
    let named = roots.iter().map(|at| NamedRoot { name: at.to_string(), at: *at }).collect();
    let path = folder.join("nouveau.snap");
    let info = SnapshotInfo::of_chip(chip, gpu.vram_bytes(), named);
    snapshot::write(&path, &info, &mut gpu.peek()).map_err(|why| why.what().to_owned())?;
    roots.into_iter().map(|root| dump(gpu, root, &path)).collect()
}

/// What `gmmu dump --json` says of the space below `root`.
pub(super) fn json(gpu: &Gpu, chip: &str, root: TableAddr, folder: &Path) -> Result<String, String> {
    let chip = Chip::by_name(chip).ok_or("no such chip")?;
    let path = folder.join("space.snap");
    let info = SnapshotInfo::of_chip(chip, gpu.vram_bytes(), vec![NamedRoot { name: "root".to_owned(), at: root }]);
    snapshot::write(&path, &info, &mut gpu.peek()).map_err(|why| why.what().to_owned())?;
    gmmu(&["dump", "--file", &path.display().to_string(), "--json"])
}

fn dump(gpu: &Gpu, root: TableAddr, path: &Path) -> Result<Space, String> {
    let file = path.display().to_string();
    let named = root.to_string();
    let text = gmmu(&["dump", "--file", &file, "--root", &named])?;
    let json = gmmu(&["dump", "--file", &file, "--root", &named, "--json"])?;
    let dump: Value = serde_json::from_str(&json).map_err(|error| format!("gmmu dump --json: {error}"))?;
    let mut pages = BTreeMap::new();
    for range in dump["ranges"].as_array().ok_or("gmmu dump --json has no ranges")? {
        let (va, bytes) = (number(range["va"].as_str().unwrap_or_default())?, range["bytes"].as_u64().unwrap_or(0));
        let to = range["to"].as_str().and_then(|to| to.strip_prefix("vram:")).map(number).transpose()?;
        for offset in (0..bytes).step_by(STEP) {
            let page = match to {
                Some(to) => Page::Holds(gpu.peek_word(TableAddr::vram(to + offset))),
                None => Page::Sparse,
            };
            pages.insert(va + offset, page);
        }
    }
    Ok(Space { root, pages, text })
}
