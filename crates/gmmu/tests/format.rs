//! Properties of both formats: nothing is lost, nothing is masked, nothing panics.
#![expect(clippy::unwrap_used, reason = "tests")]

use gmmu::addr::{Aperture, PeerId, PhysAddr, TableAddr};
use gmmu::format::{
    DecodeError, Dual, EncodeError, EntryKind, Flags, Format, Kind, Leaf, Link, Pde, Pte, Slot, Target, V2, V3,
};
use proptest::prelude::*;

fn aperture() -> impl Strategy<Value = Aperture> {
    prop_oneof![
        Just(Aperture::Vram),
        (0u8..8).prop_map(|id| Aperture::Peer(PeerId::new(id).unwrap())),
        Just(Aperture::SysCoherent),
        Just(Aperture::SysNonCoherent),
    ]
}

prop_compose! {
    fn leaf()(aperture in aperture(), frame: u64, kind: u8, bits: [bool; 6], tag: u32) -> Leaf {
        let [read_only, privileged, volatile, no_atomic, no_access_counting, encrypted] = bits;
        let flags = Flags { read_only, privileged, volatile, no_atomic, no_access_counting, encrypted };
        Leaf { to: PhysAddr::new(aperture, frame << 12), kind: Kind(kind), flags, comptag: tag }
    }
}

/// `leaf` cut down to what the version can say.
fn fit(leaf: Leaf, v3: bool) -> Leaf {
    let bits = match (v3, leaf.to.aperture) {
        (true, _) => 52,
        (false, Aperture::Vram) => 37,
        (false, Aperture::Peer(_)) => 57,
        (false, _) => 58,
    };
    let tag = if !v3 && leaf.to.aperture == Aperture::Vram { leaf.comptag & 0xf_ffff } else { 0 };
    Leaf {
        to: PhysAddr::new(leaf.to.aperture, leaf.to.raw & ((1 << bits) - 1)),
        kind: Kind(if v3 { leaf.kind.0 & 0xf } else { leaf.kind.0 }),
        flags: Flags {
            no_access_counting: v3 && leaf.flags.no_access_counting,
            encrypted: !v3 && leaf.flags.encrypted,
            ..leaf.flags
        },
        comptag: tag,
    }
}

/// Any word decodes to something or is refused; what is decoded encodes to a word that decodes to the same.
fn round_trip<F: Format>(raw: [u64; 2]) -> Result<(), TestCaseError> {
    if let Ok(pte) = F::decode_pte(raw[0]) {
        prop_assert_eq!(F::decode_pte(F::encode_pte(&pte).unwrap()), Ok(pte));
    }
    for level in F::LEVELS.iter().filter(|level| level.entry_bytes == 8) {
        if let Ok(pde) = F::decode_pde(level, raw[0]) {
            prop_assert_eq!(F::decode_pde(level, F::encode_pde(&pde).unwrap()), Ok(pde));
            prop_assert!(level.leaf.is_some() || !matches!(pde, Pde::Leaf(_)));
        }
    }
    if let Ok(dual) = F::decode_dual(raw) {
        prop_assert_eq!(F::decode_dual(F::encode_dual(&dual).unwrap()), Ok(dual));
    }
    for entry in [EntryKind::Pte, EntryKind::Pde, EntryKind::DualBig, EntryKind::DualSmall] {
        for field in F::fields(entry, raw[0]) {
            prop_assert!(field.get(raw[0]) <= field.max());
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_word_survives(raw: [u64; 2]) {
        round_trip::<V2>(raw)?;
        round_trip::<V3>(raw)?;
    }

    #[test]
    fn a_leaf_that_fits_comes_back_as_it_was(leaf in leaf()) {
        let (old, new) = (fit(leaf, false), fit(leaf, true));
        prop_assert_eq!(V2::decode_pte(V2::encode_pte(&Pte::Leaf(old)).unwrap()), Ok(Pte::Leaf(old)));
        prop_assert_eq!(V3::decode_pte(V3::encode_pte(&Pte::Leaf(new)).unwrap()), Ok(Pte::Leaf(new)));
    }

    /// What does not fit is an error: a leaf is encoded if and only if it equals its own cut-down form.
    #[test]
    fn a_leaf_that_does_not_fit_is_refused(leaf in leaf()) {
        prop_assert_eq!(V2::encode_pte(&Pte::Leaf(leaf)).is_ok(), leaf == fit(leaf, false));
        prop_assert_eq!(V3::encode_pte(&Pte::Leaf(leaf)).is_ok(), leaf == fit(leaf, true));
    }

    /// The word of page n of contiguous memory is the first word and n steps.
    #[test]
    fn contiguous_pages_are_an_arithmetic_progression(first in 0u64..1 << 24, pages in 0u64..512, shift in prop::sample::select(vec![12u32, 16, 21, 29])) {
        fn holds<F: Format>(first: u64, pages: u64, bytes: u64) -> bool {
            let word = |at| F::encode_pte(&Pte::Leaf(Leaf::new(PhysAddr::vram(at))));
            let (first, last) = (first * 4096, first * 4096 + pages * bytes);
            match (word(first), word(last)) {
                (Ok(a), Ok(b)) => a + F::leaf_step(bytes) * pages == b,
                _ => true,
            }
        }
        prop_assert!(holds::<V2>(first, pages, 1 << shift) && holds::<V3>(first, pages, 1 << shift));
    }
}

/// Origin weakness 20: a frame number with more bits than its field aliased another page.
#[test]
fn origin_20_an_address_too_wide_is_an_error_and_never_a_mask() {
    let beyond = |raw| Pte::Leaf(Leaf::new(PhysAddr::vram(raw)));
    assert!(matches!(V2::encode_pte(&beyond(1 << 37)), Err(EncodeError::TooWide(..))));
    assert!(V2::encode_pte(&beyond((1 << 37) - 4096)).is_ok());
    assert!(matches!(V3::encode_pte(&beyond(1 << 52)), Err(EncodeError::TooWide(..))));
    let text = V2::encode_pte(&beyond(1 << 37)).unwrap_err().to_string();
    assert_eq!(text, "MMU v2: 0x2000000 does not fit the 25 bits of ADDRESS_VID");
}

/// Origin weakness 3.6: PDE code 0 is "invalid", PTE code 0 is video memory.
#[test]
fn the_aperture_codes_of_directories_and_leaves_differ() {
    assert_eq!(V3::decode_link(Slot::Pde, 0x1000), Ok(Link::ABSENT));
    assert!(matches!(V3::decode_pte(0x1001), Ok(Pte::Leaf(leaf)) if leaf.to == PhysAddr::vram(0x1000)));
    assert_eq!(V3::decode_link(Slot::Pde, 0x1002).unwrap().to(), Some(TableAddr::vram(0x1000)));
}

/// A dual entry whose 64K table is not 4 KiB aligned uses bits 7:4 of the low word as address bits 11:8.
#[test]
fn the_big_half_counts_in_256_bytes() {
    for (word, at) in [(0x1232u64, 0x12300u64), (0x12f2, 0x12f00)] {
        assert_eq!(V2::decode_link(Slot::Big, word).unwrap().to(), Some(TableAddr::vram(at)));
        assert_eq!(V2::encode_link(Slot::Big, &Link::table(TableAddr::vram(at))), Ok(word));
    }
    assert_eq!(V3::encode_link(Slot::Big, &Link::table(TableAddr::vram(0x12f00))), Ok(0x12f02));
    assert!(matches!(
        V3::encode_link(Slot::Small, &Link::table(TableAddr::vram(0x12f00))),
        Err(EncodeError::Unaligned { .. })
    ));
}

/// A small half alone leaves the big word 0: bit 0 of the whole entry must stay clear.
#[test]
fn a_small_table_alone_leaves_the_low_word_zero() {
    let dual = Dual::Links { big: Link::ABSENT, small: Link::table(TableAddr::vram(0x5000)) };
    assert_eq!(V2::encode_dual(&dual).unwrap()[0], 0);
    assert_eq!(V3::encode_dual(&dual).unwrap()[0], 0);
}

#[test]
fn what_a_dead_bus_reads_is_not_an_entry() {
    for raw in [u64::MAX, 0xbadf_5040_badf_5040] {
        assert_eq!(V2::decode_pte(raw), Err(DecodeError::NotThere { raw }));
        assert_eq!(V3::decode_dual([0, raw]), Err(DecodeError::NotThere { raw }));
    }
    // One half alone may be a real entry.
    assert!(V3::decode_pte(0x0000_0012_badf_5601).is_ok());
}

#[test]
fn unknown_codes_are_errors_that_name_the_word() {
    let error = V3::decode_pte(0x20).unwrap_err();
    assert_eq!(error.to_string(), "0x0000000000000020: PCF = 0x4 is not defined");
    assert!(matches!(V3::decode_link(Slot::Pde, 0x22), Err(DecodeError::UnknownCode { code: 4, .. })));
    assert!(matches!(V2::decode_link(Slot::Pde, 1 << 33 | 2), Err(DecodeError::UnknownCode { code: 1, .. })));
    assert!(matches!(V3::decode_pde(&V3::LEVELS[0], 1), Err(DecodeError::LeafNotAllowed { level: "PDE4", .. })));
}

#[test]
fn a_link_in_system_memory_is_not_cached_by_the_gpu() {
    let coherent = TableAddr::SysCoherent(gmmu::addr::SysAddr::new(0x1000));
    assert!(matches!(Link::table(coherent).target, Target::Table { volatile: true, .. }));
    assert!(matches!(Link::table(TableAddr::vram(0x1000)).target, Target::Table { volatile: false, .. }));
}
