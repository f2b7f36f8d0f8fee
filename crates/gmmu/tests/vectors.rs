//! Entries that NVIDIA's own tests spell out: decoding gives each row's fields, encoding those fields gives its word.
//!
//! `data/vectors.csv` was collected from the UVM driver's page-tree tests; the last column names the function.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use gmmu::addr::{Aperture, PeerId, PhysAddr, SysAddr, TableAddr};
use gmmu::format::{Dual, Flags, Format, Kind, Leaf, Level, Link, Pde, Pte, Target, V2, V3};

struct Row<'a> {
    kind: &'a str,
    aperture: &'a str,
    address: &'a str,
    flags: &'a str,
    words: [u64; 2],
}

fn number(text: &str) -> u64 {
    let text = text.strip_prefix("0x").unwrap_or_else(|| panic!("{text} is not hexadecimal"));
    u64::from_str_radix(text, 16).unwrap()
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> (&'a str, Self) {
        let cells: Vec<&str> = line.split(',').collect();
        let [_, version, kind, _, aperture, address, flags, low, high, ..] = cells[..] else { panic!("{line}") };
        let high = if high.is_empty() { 0 } else { number(high) };
        (version, Row { kind, aperture, address, flags, words: [number(low), high] })
    }

    /// The flag `key=…`, a number.
    fn value(&self, key: &str) -> Option<u64> {
        let value = self.flags.split([';', ' ']).find_map(|flag| flag.strip_prefix(key)?.strip_prefix('='))?;
        let value = value.split('|').next().unwrap();
        Some(
            value
                .strip_prefix("0x")
                .map_or_else(|| value.parse().unwrap(), |hex| u64::from_str_radix(hex, 16).unwrap()),
        )
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.split(';').any(|f| f == flag)
    }

    /// PCF bits of a directory entry as the row says them; where it names only the ATS mode, as UVM chooses them.
    fn link_bits(&self) -> (bool, bool) {
        let with_ats = self.has("ats=on") && self.value("depth") != Some(0);
        let bits = self.value("pcf").or(self.value("vol")).unwrap_or(if with_ats { 3 } else { 1 });
        (bits & 1 != 0, bits & 2 != 0)
    }

    fn link(&self, aperture: &str, address: &str) -> Link {
        let (volatile, no_ats) = self.link_bits();
        let at = match aperture {
            "none" => return Link::ABSENT,
            "vid" => TableAddr::vram(number(address)),
            "sys_coh" => TableAddr::SysCoherent(SysAddr::new(number(address))),
            other => panic!("aperture {other}"),
        };
        Link { target: Target::Table { at, volatile }, no_ats }
    }

    fn leaf(&self) -> Leaf {
        let aperture = match self.aperture {
            "vid" => Aperture::Vram,
            "peer0" => Aperture::Peer(PeerId::new(0).unwrap()),
            "sys_coh" => Aperture::SysCoherent,
            "sys_noncoh" => Aperture::SysNonCoherent,
            other => panic!("aperture {other}"),
        };
        let poison = self.has("priv_ro_noatomic_uncached_acd");
        let read_only = self.has("ro") || poison;
        let address = if self.address.is_empty() { 0 } else { number(self.address) };
        Leaf {
            to: PhysAddr::new(aperture, address),
            kind: Kind(u8::try_from(self.value("kind").unwrap()).unwrap()),
            flags: Flags {
                read_only,
                no_atomic: read_only || self.has("rw"),
                volatile: self.has("uncached") || poison,
                privileged: self.has("priv") || poison,
                no_access_counting: self.has("acd") || poison,
                encrypted: false,
            },
            comptag: 0,
        }
    }
}

/// An 8-byte level of the format, for entries that are no leaves.
fn directory<F: Format>() -> &'static Level {
    F::LEVELS.iter().find(|level| level.entry_bytes == 8).unwrap()
}

fn check<F: Format>(row: &Row<'_>) {
    let [low, high] = row.words;
    match row.kind {
        "pte" | "poisoned_pte" | "sked_reflected_pte" => {
            let leaf = Pte::Leaf(row.leaf());
            assert_eq!((F::decode_pte(low), F::encode_pte(&leaf)), (Ok(leaf), Ok(low)));
        }
        "sparse_pte" => assert_eq!((F::decode_pte(low), F::encode_pte(&Pte::Sparse)), (Ok(Pte::Sparse), Ok(low))),
        // Older drivers cleared entries of other sizes to 0, which is plainly invalid.
        "unmapped_pte" | "nv4k_pte" => {
            let pte = if low == 0 { Pte::Invalid } else { Pte::NoValid4K };
            assert_eq!((F::decode_pte(low), F::encode_pte(&pte)), (Ok(pte), Ok(low)));
        }
        "sparse_pde" => {
            let pde = Pde::Link(Link::SPARSE);
            assert_eq!((F::decode_pde(directory::<F>(), low), F::encode_pde(&pde)), (Ok(pde), Ok(low)));
        }
        "sparse_dual_pde" => {
            let dual = Dual::Links { big: Link::SPARSE, small: Link::ABSENT };
            assert_eq!((F::decode_dual(row.words), F::encode_dual(&dual)), (Ok(dual), Ok(row.words)));
        }
        "pde" => {
            let mut link = row.link(row.aperture, row.address);
            if link.to().is_none() {
                // Whether a cleared entry says "no ATS" is the driver's choice.
                link.no_ats = low == 0x10;
            }
            let pde = Pde::Link(link);
            assert_eq!((F::decode_pde(directory::<F>(), low), F::encode_pde(&pde)), (Ok(pde), Ok(low)));
        }
        "dual_pde" => {
            let half = |text: &'static str, part: usize| {
                move |column: &str| {
                    let cell = column.split('|').nth(part).unwrap_or_default().to_owned();
                    cell.strip_prefix(text).map_or(cell.clone(), ToOwned::to_owned)
                }
            };
            let (big, small) = (half("big=", 0), half("small=", 1));
            let dual = Dual::Links {
                big: row.link(&big(row.aperture), &big(row.address)),
                small: row.link(&small(row.aperture), &small(row.address)),
            };
            assert_eq!((F::decode_dual(row.words), F::encode_dual(&dual)), (Ok(dual), Ok([low, high])));
        }
        other => panic!("entry kind {other}"),
    }
}

#[test]
fn nvidias_own_vectors_decode_and_encode() {
    let (mut v2, mut v3) = (0, 0);
    for line in include_str!("data/vectors.csv").lines().skip(1) {
        println!("{line}");
        let (version, row) = Row::parse(line);
        match version {
            "2" => {
                v2 += 1;
                check::<V2>(&row);
            }
            "3" => {
                v3 += 1;
                check::<V3>(&row);
            }
            other => panic!("MMU version {other}"),
        }
    }
    assert_eq!((v2, v3), (17, 42), "rows of each version");
}

/// Entries read off real cards, from public reports: an RTX A6000 and an A30.
#[test]
fn entries_of_real_cards_decode() {
    for (raw, to) in [
        (0x0600_0000_05e6_0001, 0x5e60_0000),
        (0x0600_0000_59b4_5501, 0x5_9b45_5000),
        (0x0600_0000_0048_0001, 0x480_0000),
    ] {
        assert_eq!(V2::decode_pte(raw), Ok(Pte::Leaf(Leaf::new(PhysAddr::vram(to)))));
    }
}
