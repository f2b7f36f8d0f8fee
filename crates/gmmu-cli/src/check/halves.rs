//! 64K and 4K tables under one dual entry.

use gmmu::addr::TableAddr;
use gmmu::device::TableRead;
use gmmu::format::{BIG_TABLE, Dual, Format, Leaf, Pte};
use gmmu::walk::{Is, Step};

use super::{Findings, rules};

/// Chunks of 64 KiB in the 2 MiB of a dual entry.
const CHUNKS: usize = 32;
/// 4K pages in a chunk.
const PAGES: u64 = 16;

/// What a 64K table says, beside the 4K table that is being read.
#[derive(Debug)]
pub(super) struct Halves {
    big: [Pte; CHUNKS],
    /// The run of 4K pages in a chunk that goes on from its first page.
    run: Option<Run>,
    /// Chunks that were told of.
    told: u32,
    stale: Vec<Run>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    chunk: usize,
    va: u64,
    entry: TableAddr,
    raw: u64,
    first: Leaf,
    pages: u64,
}

impl Halves {
    /// The 64K table beside the 4K table that the word at `parent` points to.
    pub(super) fn beside<F: Format>(memory: &mut impl TableRead, parent: TableAddr) -> Option<Self> {
        let low = parent.with_raw(parent.raw().checked_sub(8)?);
        let mut words = [0; 2];
        memory.read_words(low, &mut words).ok()?;
        let Ok(Dual::Links { big, .. }) = F::decode_dual(words) else { return None };
        let table = big.to()?;
        let mut raw = [0; CHUNKS];
        memory.read_words(table, &mut raw).ok()?;
        let big = raw.map(|raw| F::decode_pte(raw).unwrap_or(Pte::Nowhere));
        Some(Self { big, run: None, told: 0, stale: Vec::new() })
    }

    /// Looks at an entry of the 4K table.
    pub(super) fn small(&mut self, va: u64, step: &Step, findings: &mut Findings) {
        let Is::Leaf(leaf) = step.is else { return };
        let Ok(chunk) = usize::try_from(BIG_TABLE.index(va)) else { return };
        let Some(big) = self.big.get(chunk) else { return };
        let (rule, says) = match big {
            Pte::Leaf(page) => (&rules::GM013, format!("the 64K page {} is valid for this address, too", page.to)),
            Pte::NoValid4K => (&rules::GM017, "the 64K entry says that there are no 4K pages".to_owned()),
            Pte::Sparse => (&rules::GM017, "the 64K entry is sparse".to_owned()),
            Pte::Invalid => return self.goes_on(chunk, va, step, leaf),
            Pte::Nowhere => return,
        };
        // Once for a chunk.
        if self.told >> chunk & 1 == 0 {
            self.told |= 1 << chunk;
            findings.add(rule, va, step.entry, step.words(), says);
        }
    }

    /// Counts 4K pages that look as if a 64K page had once been made of them.
    fn goes_on(&mut self, chunk: usize, va: u64, step: &Step, leaf: Leaf) {
        if va.is_multiple_of(BIG_TABLE.span()) && leaf.to.is_aligned(BIG_TABLE.span()) {
            self.run = Some(Run { chunk, va, entry: step.entry, raw: step.raw[0], first: leaf, pages: 1 });
            return;
        }
        let Some(run) = &mut self.run else { return };
        let expected = run.first.to.checked_add(run.pages << 12);
        let alike = leaf.kind == run.first.kind && leaf.flags == run.first.flags;
        if run.chunk == chunk && Some(leaf.to) == expected && va == run.va + (run.pages << 12) && alike {
            run.pages += 1;
            if run.pages == PAGES {
                self.stale.extend(self.run.take());
            }
        } else {
            self.run = None;
        }
    }

    /// Tells of runs beside 64K pages of the same table: where there are none, nothing was ever joined.
    pub(super) fn finish(self, findings: &mut Findings) {
        if !self.big.iter().any(|pte| matches!(pte, Pte::Leaf(_))) {
            return;
        }
        for run in self.stale {
            let says = format!("16 4K pages map {} whole, below a 64K entry that is 0", run.first.to);
            findings.add(&rules::GM014, run.va, run.entry, &[run.raw], says);
        }
    }
}
