//! How memory, page sizes and sizes are written: the notation that commands read and print.

use std::borrow::Cow;
use std::fmt;

use gmmu::addr::{Aperture, PageSize, PeerId, PhysAddr, SysAddr, TableAddr};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::num::{BadNumber, number, shown};

/// Why a piece of notation does not read, and what would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadNotation(String);

impl fmt::Display for BadNotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadNotation {}

impl From<BadNumber> for BadNotation {
    fn from(bad: BadNumber) -> Self {
        Self(bad.to_string())
    }
}

fn bad<T>(why: impl Into<String>) -> Result<T, BadNotation> {
    Err(BadNotation(why.into()))
}

/// Reads memory that an entry can point to: `vram:0x1000`, `sys-coh:…`, `sys-ncoh:…`, `peer3:…`.
///
/// # Errors
/// [`BadNotation`] says what is wrong with the text.
pub fn memory(text: &str) -> Result<PhysAddr, BadNotation> {
    let Some((space, address)) = text.split_once(':') else {
        return bad(format!(
            "{} does not say which memory: write vram:{}, sys-coh:…, sys-ncoh:… or peerN:…",
            shown(text),
            shown(text)
        ));
    };
    let aperture = match space {
        "vram" => Aperture::Vram,
        "sys-coh" => Aperture::SysCoherent,
        "sys-ncoh" => Aperture::SysNonCoherent,
        "sys" => return bad("system memory is sys-coh:… (snooped by the CPU caches) or sys-ncoh:… (not snooped)"),
        _ => match space.strip_prefix("peer").map(|id| id.parse::<u8>().ok().and_then(PeerId::new)) {
            Some(Some(id)) => Aperture::Peer(id),
            Some(None) => return bad(format!("{}: peers are peer0 to peer7", shown(space))),
            None => return bad(format!("{}: memory is vram, sys-coh, sys-ncoh or peer0 to peer7", shown(space))),
        },
    };
    Ok(PhysAddr::new(aperture, number(address)?))
}

/// Reads where a table lives: `vram:0x1000`, `sys:…`, `sys-coh:…`, `sys-ncoh:…`, or a bare number, which is VRAM.
///
/// # Errors
/// [`BadNotation`] says what is wrong with the text.
pub fn table(text: &str) -> Result<TableAddr, BadNotation> {
    let at = match text.split_once(':') {
        None => TableAddr::vram(number(text)?),
        Some(("vram", at)) => TableAddr::vram(number(at)?),
        Some(("sys" | "sys-coh", at)) => TableAddr::SysCoherent(SysAddr::new(number(at)?)),
        Some(("sys-ncoh", at)) => TableAddr::SysNonCoherent(SysAddr::new(number(at)?)),
        Some((space, _)) => {
            return bad(format!("{}: page tables live in vram or sys memory, never in a peer", shown(space)));
        }
    };
    if !at.is_aligned(gmmu::addr::PAGE_BYTES) {
        return bad(format!("{at} is not aligned to 4 KiB, as a top table is"));
    }
    Ok(at)
}

/// The page size that a command was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageChoice {
    /// The largest that fits, piece by piece.
    Auto,
    /// This one.
    Size(PageSize),
}

/// Reads a page size: `4K`, `64K`, `2M`, `512M`, `256G` or `auto`.
///
/// # Errors
/// [`BadNotation`] names the sizes that there are.
pub fn page(text: &str) -> Result<PageChoice, BadNotation> {
    if text == "auto" {
        return Ok(PageChoice::Auto);
    }
    match PageSize::ALL.into_iter().find(|size| size.name().eq_ignore_ascii_case(text)) {
        Some(size) => Ok(PageChoice::Size(size)),
        None => bad(format!("{} is not a page size: 4K, 64K, 2M, 512M, 256G or auto", shown(text))),
    }
}

/// An address, printed as `0x` and at least 12 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub u64);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#014x}", self.0)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A raw word, printed as `0x` and 16 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u64);

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Anything with a text form, as a JSON string: memory, tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<T>(pub T);

impl<T: fmt::Display> fmt::Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl JsonSchema for Address {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^0x[0-9a-f]{12,16}$" })
    }
}

impl JsonSchema for Word {
    fn schema_name() -> Cow<'static, str> {
        "Word".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^0x[0-9a-f]{16}$" })
    }
}

impl<T> JsonSchema for Text<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// A number of bytes in the largest unit that divides it, so that it reads back as typed: `1G`, `2240K`, `17`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 4] = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
        let unit = UNITS.iter().find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((shift, name)) => f.pad(&format!("{}{name}", self.0 >> shift)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

/// The same for a length that nobody chose, such as that of a hole: with a round figure where the exact one is long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoughSize(pub u64);

impl fmt::Display for RoughSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 5] = [(50, "P"), (40, "T"), (30, "G"), (20, "M"), (10, "K")];
        write!(f, "{}", Size(self.0))?;
        let round = UNITS.iter().find(|(shift, _)| self.0 >> shift >= 10);
        match round {
            Some((shift, name)) if !self.0.is_multiple_of(1 << shift) => write!(f, ", about {}{name}", self.0 >> shift),
            _ => Ok(()),
        }
    }
}

/// A number of bytes for people, always with a unit: `1G`, `16.25K`, `300 B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 >> 10, self.0 % 1024) {
            (0, bytes) => write!(f, "{bytes} B"),
            (_, 0) => Size(self.0).fmt(f),
            // Hundredths of a KiB, not rounded up: tables come in multiples of 256 bytes, which this says exactly.
            (kib, rest) => write!(f, "{kib}.{:02}K", rest * 100 / 1024),
        }
    }
}

/// A number of things, with the word for one or for many: `1 page`, `2 pages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted(pub u64, pub &'static str, pub &'static str);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, one, many) = self;
        write!(f, "{count} {}", if *count == 1 { one } else { many })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn memory_reads_and_prints() {
        for text in ["vram:0x000000001000", "sys-coh:0x000000001000", "sys-ncoh:0x000000001000", "peer7:0x000000001000"]
        {
            assert_eq!(memory(text).map(|at| at.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(memory("vram:4K"), Ok(PhysAddr::vram(4096)));
        for (text, part) in [
            ("0x1000", "write vram:0x1000"),
            ("sys:0x1000", "sys-coh"),
            ("peer8:0x1000", "peer0 to peer7"),
            ("peer:0x1000", "peer0 to peer7"),
            ("ram:0x1000", "vram, sys-coh"),
            ("vram:", "missing"),
            ("vram:zz", "not a number"),
        ] {
            let said = memory(text).map_or_else(|bad| bad.to_string(), |at| at.to_string());
            assert!(said.contains(part), "{text}: {said}");
        }
    }

    #[test]
    fn tables_read() {
        assert_eq!(table("0x201000"), Ok(TableAddr::vram(0x20_1000)));
        assert_eq!(table("vram:0x201000"), Ok(TableAddr::vram(0x20_1000)));
        assert_eq!(table("sys:0x1000"), Ok(TableAddr::SysCoherent(SysAddr::new(0x1000))));
        assert!(table("peer1:0x1000").is_err());
        assert!(table("0x201010").is_err_and(|bad| bad.to_string().contains("not aligned")));
    }

    #[test]
    fn page_sizes_read() {
        assert_eq!(page("auto"), Ok(PageChoice::Auto));
        assert_eq!(page("64K"), Ok(PageChoice::Size(PageSize::Size64K)));
        assert!(page("128K").is_err_and(|bad| bad.to_string().contains("256G")));
    }

    #[test]
    fn sizes_are_exact() {
        for (bytes, text) in
            [(0, "0"), (17, "17"), (1024, "1K"), (2_293_760, "2240K"), (1 << 30, "1G"), (3 << 40, "3T")]
        {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn bytes_always_have_a_unit() {
        for (bytes, text) in [(0, "0 B"), (300, "300 B"), (16_640, "16.25K"), (1025, "1.00K"), (96 << 30, "96G")] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(Bytes(u64::MAX).to_string(), "18014398509481983.99K");
        let pages = [0, 1, 2].map(|count| Counted(count, "page", "pages").to_string());
        assert_eq!(pages, ["0 pages", "1 page", "2 pages"]);
    }

    #[test]
    fn long_sizes_are_rounded_too() {
        for (bytes, text) in [
            (4096, "4K"),
            (10 << 20, "10M"),
            ((11 << 20) + 4096, "11268K, about 11M"),
            ((20 << 50) + (1 << 40), "20481T, about 20P"),
        ] {
            assert_eq!(RoughSize(bytes).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,40}") {
            let _ = (memory(&text), table(&text), page(&text));
        }

        #[test]
        fn sizes_read_back(bytes: u64) {
            prop_assert_eq!(number(&Size(bytes).to_string()), Ok(bytes));
        }
    }
}
