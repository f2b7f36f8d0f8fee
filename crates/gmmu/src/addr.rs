//! Addresses and page sizes, each a type of its own.
//!
//! A GPU virtual address, an offset into video memory and a bus address of system memory never mix, and none has
//! arithmetic operators: sums are `checked_`, so that an overflow is a value and not a wrap. An address says where it
//! points ([`PhysAddr`]), a table says where it lives ([`TableAddr`]); the two differ, because the GPU reads page
//! tables from video or system memory, but never from a peer.

use core::fmt;

/// The smallest page, and the unit of frame numbers: 4 KiB.
pub const PAGE_BYTES: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a raw byte address. Every value is allowed; users of the address check its width.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw byte address.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The address `bytes` further on, or `None` on overflow.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `alignment` bytes, a power of two.
            #[must_use]
            pub const fn is_aligned(self, alignment: u64) -> bool {
                self.0 & alignment.wrapping_sub(1) == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:#014x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    };
}

address!(
    /// A byte address in a GPU's virtual address space: 49 bits on MMU v2, 57 on v3.
    GpuVa,
    ""
);
address!(
    /// A byte offset into the video memory of one GPU.
    VramAddr,
    "vram:"
);
address!(
    /// A byte address of system memory as the GPU puts it on the bus (a DMA address, not a CPU physical one).
    SysAddr,
    "sys:"
);

/// A physical frame number: an address in units of 4 KiB, whatever the page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pfn(u64);

/// A virtual frame number: a [`GpuVa`] in units of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Vfn(u64);

impl Pfn {
    /// Wraps a frame number.
    #[must_use]
    pub const fn new(frame: u64) -> Self {
        Self(frame)
    }
    /// The frame number.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// The byte address, or `None` where it does not fit 64 bits.
    #[must_use]
    pub const fn bytes(self) -> Option<u64> {
        self.0.checked_mul(PAGE_BYTES)
    }
}

impl Vfn {
    /// Wraps a frame number.
    #[must_use]
    pub const fn new(frame: u64) -> Self {
        Self(frame)
    }
    /// The frame number.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// The virtual address, or `None` where it does not fit 64 bits.
    #[must_use]
    pub const fn va(self) -> Option<GpuVa> {
        match self.0.checked_mul(PAGE_BYTES) {
            Some(raw) => Some(GpuVa(raw)),
            None => None,
        }
    }
}

/// The number of another GPU on the fabric, 0 to 7 (`NV_MMU_VER2_PTE_ADDRESS_VID_PEER`, `NV_MMU_VER3_PTE_PEER_ID`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(u8);

impl PeerId {
    /// A peer number, or `None` above 7.
    #[must_use]
    pub const fn new(id: u8) -> Option<Self> {
        if id < 8 {
            Some(Self(id))
        } else {
            None
        }
    }
    /// The peer that the low three bits of `bits` name, as a field of three bits does.
    pub(crate) const fn from_low_bits(bits: u64) -> Self {
        let [low, ..] = bits.to_le_bytes();
        Self(low & 7)
    }
    /// The number, 0 to 7.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self.0
    }
}

/// Where memory is, seen from one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aperture {
    /// This GPU's own video memory.
    Vram,
    /// Another GPU's memory.
    Peer(PeerId),
    /// System memory, snooped by the CPU caches.
    SysCoherent,
    /// System memory, not snooped.
    SysNonCoherent,
}

/// A physical byte address with the aperture that it lies in: what a leaf entry points to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysAddr {
    /// Where the memory is.
    pub aperture: Aperture,
    /// Byte address within the aperture.
    pub raw: u64,
}

impl PhysAddr {
    /// An address of `aperture`.
    #[must_use]
    pub const fn new(aperture: Aperture, raw: u64) -> Self {
        Self { aperture, raw }
    }

    /// An address in this GPU's video memory.
    #[must_use]
    pub const fn vram(raw: u64) -> Self {
        Self::new(Aperture::Vram, raw)
    }

    /// The address `bytes` further on in the same aperture, or `None` on overflow.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.raw.checked_add(bytes) {
            Some(raw) => Some(Self { aperture: self.aperture, raw }),
            None => None,
        }
    }

    /// Whether the address is a multiple of `alignment` bytes, a power of two.
    #[must_use]
    pub const fn is_aligned(self, alignment: u64) -> bool {
        self.raw & alignment.wrapping_sub(1) == 0
    }
}

impl fmt::Display for PhysAddr {
    /// The program's notation: `vram:0x…`, `sys-coh:0x…`, `sys-ncoh:0x…`, `peerN:0x…`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.aperture {
            Aperture::Vram => write!(f, "vram:{:#014x}", self.raw),
            Aperture::Peer(id) => write!(f, "peer{}:{:#014x}", id.raw(), self.raw),
            Aperture::SysCoherent => write!(f, "sys-coh:{:#014x}", self.raw),
            Aperture::SysNonCoherent => write!(f, "sys-ncoh:{:#014x}", self.raw),
        }
    }
}

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a page table lives: video or system memory, never a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableAddr {
    /// In this GPU's video memory.
    Vram(VramAddr),
    /// In coherent system memory.
    SysCoherent(SysAddr),
    /// In non-coherent system memory.
    SysNonCoherent(SysAddr),
}

impl TableAddr {
    /// An address in this GPU's video memory.
    #[must_use]
    pub const fn vram(raw: u64) -> Self {
        Self::Vram(VramAddr::new(raw))
    }

    /// Whether the table is in this GPU's video memory.
    #[must_use]
    pub const fn is_vram(self) -> bool {
        matches!(self, Self::Vram(_))
    }

    /// The raw byte address, without the space that it belongs to.
    #[must_use]
    pub const fn raw(self) -> u64 {
        match self {
            Self::Vram(at) => at.raw(),
            Self::SysCoherent(at) | Self::SysNonCoherent(at) => at.raw(),
        }
    }

    /// The same space at another byte address.
    #[must_use]
    pub const fn with_raw(self, raw: u64) -> Self {
        match self {
            Self::Vram(_) => Self::Vram(VramAddr::new(raw)),
            Self::SysCoherent(_) => Self::SysCoherent(SysAddr::new(raw)),
            Self::SysNonCoherent(_) => Self::SysNonCoherent(SysAddr::new(raw)),
        }
    }

    /// The address `bytes` further on in the same space, or `None` on overflow.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.raw().checked_add(bytes) {
            Some(raw) => Some(self.with_raw(raw)),
            None => None,
        }
    }

    /// Whether the address is a multiple of `alignment` bytes, a power of two.
    #[must_use]
    pub const fn is_aligned(self, alignment: u64) -> bool {
        self.raw() & alignment.wrapping_sub(1) == 0
    }
}

impl From<VramAddr> for TableAddr {
    fn from(at: VramAddr) -> Self {
        Self::Vram(at)
    }
}

impl From<TableAddr> for PhysAddr {
    fn from(at: TableAddr) -> Self {
        let aperture = match at {
            TableAddr::Vram(_) => Aperture::Vram,
            TableAddr::SysCoherent(_) => Aperture::SysCoherent,
            TableAddr::SysNonCoherent(_) => Aperture::SysNonCoherent,
        };
        Self::new(aperture, at.raw())
    }
}

impl fmt::Display for TableAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&PhysAddr::from(*self), f)
    }
}

impl fmt::Debug for TableAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A page size that some GPU can map. Which of them a chip has is [`Chip`](crate::chip::Chip)'s to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB.
    Size4K,
    /// 64 KiB.
    Size64K,
    /// 2 MiB.
    Size2M,
    /// 512 MiB, from GA100 on.
    Size512M,
    /// 256 GiB, on the big Blackwells.
    Size256G,
}

impl PageSize {
    /// All sizes, smallest first.
    pub const ALL: [Self; 5] = [Self::Size4K, Self::Size64K, Self::Size2M, Self::Size512M, Self::Size256G];

    /// log2 of the size in bytes.
    #[must_use]
    pub const fn shift(self) -> u32 {
        match self {
            Self::Size4K => 12,
            Self::Size64K => 16,
            Self::Size2M => 21,
            Self::Size512M => 29,
            Self::Size256G => 38,
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// The name that the program and the documents use: `4K`, `64K`, `2M`, `512M`, `256G`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Size4K => "4K",
            Self::Size64K => "64K",
            Self::Size2M => "2M",
            Self::Size512M => "512M",
            Self::Size256G => "256G",
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
