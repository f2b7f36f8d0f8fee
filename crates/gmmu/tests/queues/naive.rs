//! Pages one by one: a narrow stretch of 4 KiB cells around a border of all tables, a wide one of 64 KiB cells, in which
//! large pages fit, and lone 4 KiB cells with tables of their own; and what a random operation does to each cell.

use crate::common::{Random, DATA, GIB, MIB};
use gmmu::addr::{PageSize, PhysAddr};
use gmmu::chip::PageSizes;
use gmmu::vmm::{Bind, Extent, MapRequest};
use std::ops::Range;

/// What an address is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// The memory that it leads to.
    pub to: Option<u64>,
    pub read_only: bool,
    /// Reads as 0 where it leads to no memory.
    pub sparse: bool,
}

/// Cells of the narrow stretch, of that and the wide one, and of all.
pub const NARROW: usize = 2048;
pub const CLOSE: usize = NARROW + 16384;
pub const CELLS: usize = CLOSE + 64;
const NARROW_VA: u64 = (1 << 47) - 4 * MIB;
const WIDE_VA: u64 = 1024 * GIB;
/// Every second lone cell has a directory of its own too.
const LONE_VA: u64 = 2048 * GIB;
const LONE_STEP: u64 = 256 * MIB;

pub const fn bytes(cell: usize) -> u64 {
    if NARROW <= cell && cell < CLOSE {
        64 << 10
    } else {
        4 << 10
    }
}

pub const fn va(cell: usize) -> u64 {
    if cell < NARROW {
        NARROW_VA + cell as u64 * bytes(cell)
    } else if cell < CLOSE {
        WIDE_VA + (cell - NARROW) as u64 * bytes(cell)
    } else {
        LONE_VA + (cell - CLOSE) as u64 * LONE_STEP
    }
}

pub const fn cell_at(va: u64) -> usize {
    if va >= NARROW_VA {
        ((va - NARROW_VA) / bytes(0)) as usize
    } else if va >= LONE_VA {
        CLOSE + ((va - LONE_VA) / LONE_STEP) as usize
    } else {
        NARROW + ((va - WIDE_VA) / bytes(NARROW)) as usize
    }
}

/// The first address of what a large entry over a cell may span.
pub const fn domain(cell: usize) -> u64 {
    va(cell) & !(if bytes(cell) == 4096 { 2 * MIB } else { 512 * MIB } - 1)
}

pub fn addresses(cells: &Range<usize>) -> Range<u64> {
    let last = cells.end - 1;
    va(cells.start)..va(last) + bytes(last)
}

/// All cells, stretch by stretch.
pub fn all() -> [Range<usize>; 3] {
    [0..NARROW, NARROW..CLOSE, CLOSE..CELLS]
}

/// The domains of all cells of some operations.
pub fn domains(ops: &[Op]) -> Vec<u64> {
    let mut domains: Vec<u64> = ops.iter().flat_map(|op| op.cells().map(domain)).collect();
    domains.dedup();
    domains
}

#[derive(Clone, Debug)]
pub enum Op {
    /// Maps contiguous memory.
    Map {
        cells: Range<usize>,
        to: u64,
        page: Option<PageSize>,
    },
    Unmap(Range<usize>),
    /// Makes what is mapped read-only.
    Protect(Range<usize>),
    Sparse(Range<usize>),
    Unsparse(Range<usize>),
}

impl Op {
    pub fn random(random: &mut Random, has: PageSizes, in_a_bind: bool) -> Self {
        let place = random.below(20);
        let (sizes, stretch): (&[(PageSize, usize)], _) = match place {
            0 => (&[(PageSize::Size64K, 1), (PageSize::Size2M, 32), (PageSize::Size512M, 8192)], NARROW..CLOSE),
            1 => (&[(PageSize::Size4K, 1); 3], CLOSE..CELLS),
            _ => (&[(PageSize::Size4K, 1), (PageSize::Size64K, 16), (PageSize::Size2M, 512)], 0..NARROW),
        };
        let (page, size) = sizes[[0, 0, 0, 1, 1, 1, 1, 2][random.index(8)]];
        let places = (stretch.end - stretch.start) / size;
        let first = random.index(places);
        let end = if place == 1 { first + 1 } else { (first + 1 + random.index(12)).min(places) };
        let cells = stretch.start + first * size..stretch.start + end * size;
        match random.below(16) {
            0..=3 => Self::Unmap(cells),
            4 if !in_a_bind => Self::Protect(cells),
            5 => Self::Sparse(cells),
            6 => Self::Unsparse(cells),
            _ => {
                // Sometimes where a neighbour's memory goes on, so that there are pages to be kept and merged.
                let at = if random.one_in(3) { first as u64 } else { random.below(64) } * size as u64;
                let only = has.has(page) && random.one_in(3);
                let to = DATA + at * bytes(cells.start);
                Self::Map { cells, to, page: only.then_some(page) }
            }
        }
    }

    fn cells(&self) -> Range<usize> {
        match self {
            Self::Map { cells, .. }
            | Self::Unmap(cells)
            | Self::Protect(cells)
            | Self::Sparse(cells)
            | Self::Unsparse(cells) => cells.clone(),
        }
    }

    pub const fn name(&self) -> &'static str {
        match self {
            Self::Map { .. } => "map",
            Self::Unmap(_) => "unmap",
            Self::Protect(_) => "protect",
            Self::Sparse(_) => "sparse",
            Self::Unsparse(_) => "unsparse",
        }
    }

    /// Why it is refused where it is not part of a bind job, if it is.
    pub fn refusal(&self, pages: &Pages) -> Option<&'static str> {
        let mut mapped = pages.cells[self.cells()].iter().map(|cell| cell.to.is_some());
        match self {
            Self::Map { .. } => mapped.any(|mapped| mapped).then_some("busy"),
            Self::Unmap(_) => mapped.all(|mapped| !mapped).then_some("not mapped"),
            Self::Protect(_) => mapped.any(|mapped| !mapped).then_some("not mapped"),
            Self::Sparse(_) | Self::Unsparse(_) => None,
        }
    }

    fn change(&self, at: usize, cell: &mut Cell) {
        match self {
            Self::Map { cells, to, .. } => {
                (cell.to, cell.read_only) = (Some(to + (va(at) - va(cells.start))), false);
            }
            Self::Unmap(_) => (cell.to, cell.read_only) = (None, false),
            Self::Protect(_) => cell.read_only = true,
            Self::Sparse(_) => cell.sparse = true,
            Self::Unsparse(_) => cell.sparse = false,
        }
    }

    /// What a mapping maps; nothing for other operations.
    pub fn extents(&self) -> [Extent; 1] {
        let to = if let Self::Map { to, .. } = self { *to } else { 0 };
        let range = addresses(&self.cells());
        [Extent { to: PhysAddr::vram(to), bytes: range.end - range.start }]
    }

    pub fn request<'e>(&self, extents: &'e [Extent]) -> MapRequest<'e> {
        let page = if let Self::Map { page, .. } = self { *page } else { None };
        MapRequest { page, ..MapRequest::extents(extents).at(va(self.cells().start)) }
    }

    pub fn bind<'e>(&self, extents: &'e [Extent]) -> Bind<'e> {
        let range = addresses(&self.cells());
        match self {
            Self::Map { .. } => Bind::Map(self.request(extents)),
            Self::Unmap(_) => Bind::Unmap(range),
            Self::Sparse(_) => Bind::Sparse(range),
            Self::Unsparse(_) => Bind::Unsparse(range),
            Self::Protect(_) => unreachable!("no part of a bind job"),
        }
    }
}

/// Cells that an operation changes, in order: before and after.
pub type Effect = Vec<(usize, Cell, Cell)>;

/// What every address is.
pub struct Pages {
    pub cells: Vec<Cell>,
}

impl Pages {
    pub fn new() -> Self {
        Self { cells: vec![Cell::default(); CELLS] }
    }

    /// Carries out operations, one after the other, and says what that changed.
    pub fn apply(&mut self, ops: &[Op]) -> Effect {
        let mut touched: Vec<usize> = ops.iter().flat_map(Op::cells).collect();
        touched.sort_unstable();
        touched.dedup();
        let before: Vec<Cell> = touched.iter().map(|cell| self.cells[*cell]).collect();
        for op in ops {
            for at in op.cells() {
                op.change(at, &mut self.cells[at]);
            }
        }
        let effect = touched.into_iter().zip(before).map(|(at, before)| (at, before, self.cells[at]));
        effect.filter(|(_, before, after)| before != after).collect()
    }

    pub fn do_all(&mut self, effect: &Effect) {
        for (cell, _, after) in effect {
            self.cells[*cell] = *after;
        }
    }

    pub fn undo_all(&mut self, effect: &Effect) {
        for (cell, before, _) in effect {
            self.cells[*cell] = *before;
        }
    }
}
