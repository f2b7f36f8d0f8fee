//! Who has which part of video memory: every byte of it, from what registers, firmware and the driver itself say.

use super::Carveouts;
use crate::addr::{VramAddr, PAGE_BYTES};
use crate::storage::{List, NoMemory};
use core::ops::Range;

/// A region of video memory as the GSP's firmware reports it (`NV2080_CTRL_FB_GET_FB_REGION_INFO`): copied, not judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GspRegion {
    /// Its first byte.
    pub base: u64,
    /// Its last byte, not the one behind it.
    pub limit: u64,
    /// Bytes of it that the firmware keeps: anything but 0 keeps all of it.
    pub reserved: u64,
    /// How fast it is, in comparison with others.
    pub performance: u32,
    /// Whether pages of compressible kinds may lie in it.
    pub supports_compressed: bool,
    /// Whether the display may scan out of it.
    pub supports_iso: bool,
    /// Whether only protected units reach it.
    pub protected: bool,
}

/// What a part of video memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FbUse {
    /// By the driver.
    Usable {
        /// Compressible kinds may lie in it.
        compressed: bool,
        /// The display may scan out of it.
        iso: bool,
    },
    /// Locked by the MMU.
    MmuLock,
    /// Write-protected, with the GSP's firmware in it.
    Wpr2,
    /// Memory of the display's VGA emulation.
    VgaWorkspace,
    /// The driver keeps it from its own allocator, and says for what.
    Kept(&'static str),
    /// Kept by the GSP's firmware.
    GspReserved {
        /// Number in the firmware's list.
        index: usize,
        /// How many bytes it says that it keeps.
        bytes: u64,
    },
    /// Protected, says the GSP's firmware.
    GspProtected {
        /// Number in the firmware's list.
        index: usize,
    },
    /// Beyond what entries of this chip, or its PRAMIN window, can name.
    OutOfReach,
    /// Nobody says that it may be used.
    Unclaimed,
}

impl FbUse {
    /// Whether the driver may use it.
    #[must_use]
    pub const fn is_usable(self) -> bool {
        matches!(self, Self::Usable { .. })
    }

    /// Who wins where two claims overlap: the lowest.
    const fn rank(self) -> u8 {
        match self {
            Self::MmuLock => 0,
            Self::Wpr2 => 1,
            Self::VgaWorkspace => 2,
            Self::Kept(_) => 3,
            Self::GspReserved { .. } => 4,
            Self::GspProtected { .. } => 5,
            Self::OutOfReach => 6,
            Self::Usable { .. } => 7,
            Self::Unclaimed => 8,
        }
    }
}

/// A part of video memory with one use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FbRegion {
    /// First byte, and the one behind the last.
    pub range: Range<VramAddr>,
    /// What it is used for.
    pub used_for: FbUse,
}

impl FbRegion {
    /// Its length.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.range.end.raw() - self.range.start.raw()
    }
}

/// Memory that the driver keeps from its own allocator: a heap of firmware, the console of the boot loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// First byte, and the one behind the last.
    pub range: Range<VramAddr>,
    /// What for; the layout shows it.
    pub what: &'static str,
}

/// What a layout is made from, whoever says which memory is usable.
#[derive(Clone, Copy, Debug)]
pub struct LayoutInput<'a> {
    /// Bytes of video memory.
    pub total: u64,
    /// The first address that entries and window of the chip cannot name; `u64::MAX` where they name all.
    pub reach: u64,
    /// What registers say is taken.
    pub carveouts: &'a Carveouts,
    /// What the driver keeps.
    pub keep: &'a [Keep],
}

/// There is no layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// A region of the GSP's list ends before it begins.
    #[error("region {index} of the GSP begins at {base:#x} and has its last byte at {limit:#x}")]
    GspBackwards {
        /// Number in the list.
        index: usize,
        /// Its first byte.
        base: u64,
        /// Its last byte.
        limit: u64,
    },
    /// A region of the GSP's list is not in video memory.
    #[error("region {index} of the GSP has its last byte at {limit:#x}, but video memory ends at {total:#x}")]
    GspBeyondMemory {
        /// Number in the list.
        index: usize,
        /// Its last byte.
        limit: u64,
        /// Bytes of video memory.
        total: u64,
    },
    /// Two regions of the GSP's list overlap.
    #[error("regions {first} and {second} of the GSP overlap at {at}")]
    GspOverlap {
        /// Number of the one that begins first.
        first: usize,
        /// Number of the other.
        second: usize,
        /// First address that both have.
        at: VramAddr,
    },
    /// What registers or the driver itself keep is no range.
    #[error("{what} begins at {start} and ends at {end}")]
    Backwards {
        /// What it is.
        what: &'static str,
        /// Where it begins.
        start: VramAddr,
        /// Where it ends.
        end: VramAddr,
    },
    /// What registers or the driver itself keep is not in video memory.
    #[error("{what} ends at {end}, but video memory ends at {total:#x}")]
    BeyondMemory {
        /// What it is.
        what: &'static str,
        /// Where it ends.
        end: VramAddr,
        /// Bytes of video memory.
        total: u64,
    },
    /// Not one whole page is left for the driver.
    #[error("of {total:#x} bytes of video memory not one whole 4 KiB page is usable")]
    NothingUsable {
        /// Bytes of video memory.
        total: u64,
    },
    /// No memory for the library's own records.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}

/// All of video memory, part by part in the order of addresses, without gaps. Its `Display` is a table, highest first.
///
/// ```
/// use gmmu::addr::VramAddr;
/// use gmmu::fb::{Carveouts, FbLayout, GspRegion, LayoutInput};
///
/// # fn main() -> Result<(), gmmu::fb::LayoutError> {
/// let wpr2 = Some(VramAddr::new(0x3f00_0000)..VramAddr::new(0x3fe0_0000));
/// let carveouts = Carveouts { wpr2, ..Carveouts::default() };
/// let input = LayoutInput { total: 1 << 30, reach: u64::MAX, carveouts: &carveouts, keep: &[] };
/// let region = |base, limit, reserved| GspRegion { base, limit, reserved, ..GspRegion::default() };
/// let layout = FbLayout::from_gsp(&input, &[region(0, 0x3eff_ffff, 0), region(0x3f00_0000, 0x3fff_ffff, 0x100_0000)])?;
/// assert_eq!(layout.usable_bytes(), 0x3f00_0000);
/// assert_eq!(
///     layout.to_string(),
///     "1 GiB of video memory, 1008 MiB of it usable\n\
///      0x00003fe00000..0x000040000000     2 MiB  reserved by the GSP (region 1)\n\
///      0x00003f000000..0x00003fe00000    14 MiB  WPR2: firmware\n\
///      0x000000000000..0x00003f000000  1008 MiB  usable, not compressed, not scanned out"
/// );
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FbLayout {
    total: u64,
    regions: List<FbRegion>,
}

/// A claim to a part of memory; where claims overlap, the rank decides.
type Claim = (Range<u64>, FbUse);

impl FbLayout {
    /// What is usable where the GSP has not reported anything: from 0 up to the lowest carveout. What lies above it is
    /// left alone, since the firmware that boots later keeps memory between the carveouts.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn from_registers(input: &LayoutInput<'_>) -> Result<Self, LayoutError> {
        let lowest = input.carveouts.iter().map(|(_, range)| range.start.raw()).min();
        let usable = FbUse::Usable { compressed: true, iso: true };
        let mut claims = List::new();
        claims.push((0..lowest.unwrap_or(input.total).min(input.total), usable))?;
        Self::build(input, claims)
    }

    /// What is usable by the GSP's list: every region that it neither keeps nor protects, without what registers or the
    /// driver itself say is taken.
    ///
    /// # Errors
    /// [`LayoutError`]; a list with one bad region is refused whole.
    pub fn from_gsp(input: &LayoutInput<'_>, regions: &[GspRegion]) -> Result<Self, LayoutError> {
        let mut claims: List<Claim> = List::new();
        claims.reserve_exact(regions.len())?;
        for (index, region) in regions.iter().enumerate() {
            let GspRegion { base, limit, .. } = *region;
            if limit < base {
                return Err(LayoutError::GspBackwards { index, base, limit });
            }
            let end = limit.checked_add(1).filter(|&end| end <= input.total);
            let beyond = LayoutError::GspBeyondMemory { index, limit, total: input.total };
            let range = base..end.ok_or(beyond)?;
            let other = claims.iter().position(|(other, _)| other.start < range.end && range.start < other.end);
            if let Some(other) = other {
                let start = claims.get(other).map_or(base, |(range, _)| range.start);
                let (first, second) = if start <= base { (other, index) } else { (index, other) };
                return Err(LayoutError::GspOverlap { first, second, at: VramAddr::new(base.max(start)) });
            }
            claims.push((range, use_of(index, region)))?;
        }
        Self::build(input, claims)
    }

    /// Adds what is taken to the claims, and lays them out.
    fn build(input: &LayoutInput<'_>, mut claims: List<Claim>) -> Result<Self, LayoutError> {
        let total = input.total;
        let Carveouts { wpr2, vga, mmu_lock } = input.carveouts;
        let carveouts = [(mmu_lock, FbUse::MmuLock), (wpr2, FbUse::Wpr2), (vga, FbUse::VgaWorkspace)];
        let carveouts = carveouts.into_iter().filter_map(|(range, used_for)| Some((range.as_ref()?, used_for)));
        let keep = input.keep.iter().map(|keep| (&keep.range, FbUse::Kept(keep.what)));
        for (range, used_for) in carveouts.chain(keep) {
            let (what, end) = (used_for.name(), range.end);
            if range.start > end {
                return Err(LayoutError::Backwards { what, start: range.start, end });
            }
            if end.raw() > total {
                return Err(LayoutError::BeyondMemory { what, end, total });
            }
            claims.push((range.start.raw()..end.raw(), used_for))?;
        }
        claims.push((input.reach.min(total)..total, FbUse::OutOfReach))?;
        let layout = Self { total, regions: tile(total, &claims)? };
        if layout.usable().all(|range| whole_pages(&range) == 0) {
            return Err(LayoutError::NothingUsable { total });
        }
        Ok(layout)
    }

    /// Bytes of video memory.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.total
    }

    /// Bytes that the driver may use.
    #[must_use]
    pub fn usable_bytes(&self) -> u64 {
        self.usable().map(|range| range.end.raw() - range.start.raw()).sum()
    }

    /// All parts, lowest first.
    #[must_use]
    pub fn regions(&self) -> &[FbRegion] {
        &self.regions
    }

    /// What the driver may use, lowest first: for [`Vram::new`](crate::vram::Vram::new).
    pub fn usable(&self) -> impl Iterator<Item = Range<VramAddr>> + '_ {
        self.regions.iter().filter(|region| region.used_for.is_usable()).map(|region| region.range.clone())
    }

    /// The part that `at` lies in; none beyond the end.
    #[must_use]
    pub fn at(&self, at: VramAddr) -> Option<&FbRegion> {
        let index = self.regions.partition_point(|region| region.range.end <= at);
        self.regions.get(index)
    }
}

/// What a region of the GSP's list is used for.
const fn use_of(index: usize, region: &GspRegion) -> FbUse {
    match region {
        GspRegion { reserved: 0, protected: false, .. } => {
            FbUse::Usable { compressed: region.supports_compressed, iso: region.supports_iso }
        }
        GspRegion { reserved: 0, .. } => FbUse::GspProtected { index },
        GspRegion { reserved: bytes, .. } => FbUse::GspReserved { index, bytes: *bytes },
    }
}

/// Whole pages in a range.
const fn whole_pages(range: &Range<VramAddr>) -> u64 {
    (range.end.raw() / PAGE_BYTES).saturating_sub(range.start.raw().div_ceil(PAGE_BYTES))
}

/// Cuts `0..total` at every end of a claim, and gives each piece to the claim of the best rank that covers it.
fn tile(total: u64, claims: &[Claim]) -> Result<List<FbRegion>, NoMemory> {
    let mut edges = List::new();
    edges.reserve_exact(2 * claims.len() + 2)?;
    for edge in claims.iter().flat_map(|(range, _)| [range.start, range.end]).chain([0, total]) {
        edges.push(edge)?;
    }
    edges.sort_unstable();
    let mut regions: List<FbRegion> = List::new();
    for (&start, &end) in edges.iter().zip(edges.iter().skip(1)).filter(|(start, end)| start < end) {
        let over = claims.iter().filter(|(range, _)| range.start <= start && end <= range.end);
        let used_for = over.map(|&(_, used_for)| used_for).min_by_key(|used_for| used_for.rank());
        let used_for = used_for.unwrap_or(FbUse::Unclaimed);
        let range = VramAddr::new(start)..VramAddr::new(end);
        match regions.last_mut() {
            Some(before) if before.used_for == used_for => before.range.end = range.end,
            _ => regions.push(FbRegion { range, used_for })?,
        }
    }
    Ok(regions)
}
