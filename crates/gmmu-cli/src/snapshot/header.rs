//! The head of a snapshot: what it is of, and which address spaces are in it.

use std::collections::HashSet;

use flate2::Crc;
use gmmu::addr::PAGE_BYTES;
use gmmu::chip::Chip;
use gmmu::format::MmuVersion;

use super::{Broken, MAGIC, NAME_MAX, NamedRoot, PageKey, ROOTS_MAX, SnapshotInfo, VERSION};
use crate::num::shown;

/// Bytes before the roots.
const FIXED: usize = 64;
/// Bytes of the checksum.
const CRC: usize = 4;
/// Bytes of the name of a chip, with zeros behind it.
const CHIP: usize = 16;
/// Bytes of the largest head.
const LARGEST: usize = FIXED + ROOTS_MAX * (8 + 1 + NAME_MAX) + CRC;
/// Bytes that say which version this is, and how long the head.
pub(super) const START: usize = 16;

/// A head: the description, and how many pages follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) info: SnapshotInfo,
    pub(super) pages: u64,
}

/// The CRC-32 of `bytes`, as gzip and PNG have it.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

impl Header {
    /// The head in bytes.
    ///
    /// # Errors
    /// Why the description cannot be stored.
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        let info = &self.info;
        let roots = &info.roots;
        if roots.is_empty() || roots.len() > ROOTS_MAX {
            return Err(format!("a snapshot has 1 to {ROOTS_MAX} address spaces, not {}", roots.len()));
        }
        let mut body = Vec::new();
        let mut chip = [0; CHIP];
        let name = info.chip.map_or("", |chip| chip.name).as_bytes();
        match chip.get_mut(..name.len()) {
            Some(place) => place.copy_from_slice(name),
            None => return Err("the name of the chip is too long".to_owned()),
        }
        body.extend(chip);
        body.extend(mmu_code(info.mmu).to_le_bytes());
        body.extend(u32::try_from(roots.len()).unwrap_or(0).to_le_bytes());
        for number in [info.fb_bytes, info.base, self.pages] {
            body.extend(number.to_le_bytes());
        }
        let mut names = HashSet::new();
        for NamedRoot { name, at } in roots {
            if !at.is_aligned(PAGE_BYTES) {
                return Err(format!("{at} is not aligned to 4 KiB, as a top table is"));
            }
            let length = u8::try_from(name.len()).unwrap_or(0);
            if length == 0 || !names.insert(name) {
                return Err(format!("{}: names have 1 to {NAME_MAX} bytes, and differ", shown(name)));
            }
            body.extend(PageKey::of(*at).0.to_le_bytes());
            body.push(length);
            body.extend(name.as_bytes());
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(u32::try_from(START + body.len() + CRC).unwrap_or(0).to_le_bytes());
        bytes.extend(body);
        bytes.extend(crc32(&bytes).to_le_bytes());
        Ok(bytes)
    }

    /// How long the head is that begins with `start`, in a file of `file` bytes.
    ///
    /// # Errors
    /// What the bytes are instead.
    pub(super) fn length(start: &[u8; START], file: u64) -> Result<usize, Broken> {
        let mut fields = Fields { bytes: start, at: 0 };
        if fields.take()? != MAGIC {
            return Err(Broken::damaged(0, "these are not the first 8 bytes of a snapshot")
                .hint("if the file was copied as text, which changes line ends, copy it as it is"));
        }
        let version = fields.u32()?;
        if version == 0 {
            return Err(Broken::damaged(8, "version 0, which there is not"));
        }
        if version > VERSION {
            return Err(Broken::damaged(8, format_args!("version {version}; this program reads up to {VERSION}"))
                .hint("read it with a newer gmmu"));
        }
        let length = fields.u32()?;
        let usable = usize::try_from(length).ok().filter(|length| (FIXED + CRC..=LARGEST).contains(length));
        let Some(length) = usable else {
            return Err(Broken::damaged(12, format_args!("a head of {length} bytes, which cannot be")));
        };
        if length as u64 > file {
            let what = format_args!("a head of {length} bytes, and the file ends after {file}");
            return Err(Broken::damaged(12, what));
        }
        Ok(length)
    }

    /// Reads a whole head, its length included.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Broken> {
        let (bytes, sum) = bytes
            .split_last_chunk::<CRC>()
            .ok_or_else(|| Broken::damaged(bytes.len() as u64, "the file ends within its head"))?;
        let (sum, found) = (u32::from_le_bytes(*sum), crc32(bytes));
        if sum != found {
            let what = format_args!("the head's checksum is {found:#010x}, and it says {sum:#010x}");
            return Err(Broken::damaged(bytes.len() as u64, what));
        }
        let mut fields = Fields { bytes, at: START };
        let chip = chip_of(fields.take::<CHIP>()?)?;
        let mmu = match (fields.u32()?, chip) {
            (2, chip) if chip.is_none_or(|chip| chip.mmu == MmuVersion::V2) => MmuVersion::V2,
            (3, chip) if chip.is_none_or(|chip| chip.mmu == MmuVersion::V3) => MmuVersion::V3,
            (code @ (2 | 3), Some(chip)) => {
                let what = format_args!("MMU v{code}, but {} has {}", chip.name, chip.mmu);
                return Err(Broken::damaged(32, what));
            }
            (code, _) => return Err(Broken::damaged(32, format_args!("MMU {code}: it is 2 or 3"))),
        };
        let roots = fields.u32()?;
        let (fb_bytes, base, pages) = (fields.u64()?, fields.u64()?, fields.u64()?);
        if base.checked_add(fb_bytes).is_none() {
            return Err(Broken::damaged(40, "memory that ends beyond 64 bits"));
        }
        let count = usize::try_from(roots).ok().filter(|count| (1..=ROOTS_MAX).contains(count));
        let Some(count) = count else {
            return Err(Broken::damaged(36, format_args!("{roots} address spaces: there are 1 to {ROOTS_MAX}")));
        };
        let roots = (0..count).map(|_| fields.root()).collect::<Result<Vec<_>, _>>()?;
        let mut names = HashSet::new();
        if let Some(twice) = roots.iter().find(|root| !names.insert(&root.name)) {
            let what = format_args!("two address spaces are called {}", shown(&twice.name));
            return Err(Broken::damaged(FIXED as u64, what));
        }
        if fields.at != bytes.len() {
            return Err(Broken::damaged(fields.at as u64, "the head is longer than what is in it"));
        }
        Ok(Self { info: SnapshotInfo { chip, mmu, fb_bytes, base, roots, blocks: Vec::new() }, pages })
    }
}

const fn mmu_code(mmu: MmuVersion) -> u32 {
    match mmu {
        MmuVersion::V2 => 2,
        MmuVersion::V3 => 3,
    }
}

/// The chip of a name with zeros behind it; none where there are only zeros.
fn chip_of(bytes: [u8; CHIP]) -> Result<Option<&'static Chip>, Broken> {
    let text = String::from_utf8_lossy(&bytes);
    let name = text.trim_end_matches('\0');
    if name.is_empty() {
        return Ok(None);
    }
    Chip::by_name(name).map(Some).ok_or_else(|| {
        let what = format_args!("the chip {}, which this program does not know", shown(name));
        Broken::damaged(START as u64, what).hint("a newer gmmu may know it")
    })
}

/// Fields one after the other.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn slice(&mut self, bytes: usize) -> Result<&[u8], Broken> {
        let end = self.at.saturating_add(bytes);
        let Some(slice) = self.bytes.get(self.at..end) else {
            return Err(Broken::damaged(self.at as u64, "the head ends within a field"));
        };
        self.at = end;
        Ok(slice)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let mut field = [0; N];
        field.copy_from_slice(self.slice(N)?);
        Ok(field)
    }

    fn u32(&mut self) -> Result<u32, Broken> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Broken> {
        self.take().map(u64::from_le_bytes)
    }

    fn root(&mut self) -> Result<NamedRoot, Broken> {
        let place = self.at as u64;
        let key = PageKey(self.u64()?);
        let Some(at) = key.at() else {
            return Err(Broken::damaged(place, format_args!("{:#x} is no place of a top table", key.0)));
        };
        let [length] = self.take()?;
        let name = std::str::from_utf8(self.slice(usize::from(length))?).unwrap_or_default();
        if name.is_empty() {
            return Err(Broken::damaged(place + 9, "an address space without a name"));
        }
        Ok(NamedRoot { name: name.to_owned(), at })
    }
}
