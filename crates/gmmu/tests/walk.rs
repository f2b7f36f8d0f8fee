//! The walker on page tables that NVIDIA's own library wrote, and on rubbish.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use gmmu::addr::{PhysAddr, TableAddr};
use gmmu::chip::PageSizes;
use gmmu::device::{DeviceError, TableRead};
use gmmu::format::{Dual, Format, Leaf, Link, Pde, Pte, Slot, V2, V3};
use gmmu::walk::{walk, Cursor, Event, Is, Outcome, View, WalkError, Why};
use proptest::prelude::*;

const ALL: PageSizes = PageSizes::UP_TO_256G;

/// Video memory from address 0, as an image.
struct Image(Vec<u8>);

impl Image {
    fn put(&mut self, at: u64, words: &[u64]) {
        for (n, word) in words.iter().enumerate() {
            let at = usize::try_from(at).unwrap() + n * 8;
            self.0[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
    }
}

impl TableRead for Image {
    fn read_words(&mut self, at: TableAddr, words: &mut [u64]) -> Result<(), DeviceError> {
        if !at.is_vram() {
            return Err(DeviceError::WrongAperture { at });
        }
        let (end, bytes) = (self.0.len() as u64, words.len() as u64 * 8);
        let missing = DeviceError::OutOfRange { at, bytes, end };
        let from = usize::try_from(at.raw()).map_err(|_| missing)?;
        let slice = self.0.get(from..).and_then(|rest| rest.get(..words.len() * 8)).ok_or(missing)?;
        for (word, chunk) in words.iter_mut().zip(slice.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().unwrap());
        }
        Ok(())
    }
}

/// Every event of a cursor, and whether it ended by itself.
fn events<F: Format>(image: &mut Image, root: u64, view: View) -> (Vec<Event>, Option<WalkError>) {
    let mut cursor = Cursor::<F>::new(TableAddr::vram(root), ALL, 0..1 << F::VA_BITS, view, 2000).unwrap();
    let mut events = Vec::new();
    loop {
        match cursor.next(image) {
            Ok(Some(event)) => events.push(event),
            Ok(None) => return (events, None),
            Err(error) => return (events, Some(error)),
        }
    }
}

/// A line for each entry of the space, neighbours merged, in the words of the JSON beside the image.
fn ranges<F: Format>(image: &mut Image, root: u64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    // Start, end, first address of the memory, the rest of the line.
    let mut open: Option<(u64, u64, String, String)> = None;
    let (events, error) = events::<F>(image, root, View::Translations);
    assert_eq!(error, None);
    for event in events {
        let Event::Entry { va, step } = event else { continue };
        let span = step.level.span();
        let page = step.page().unwrap().name();
        let (next_to, tail) = match step.is {
            Is::Leaf(leaf) => {
                let flags: Vec<String> = leaf.flags.names().map(|name| format!("\"{name}\"")).collect();
                (leaf.to.to_string(), format!("\"kind\": {}, \"flags\": [{}]}}", leaf.kind.0, flags.join(", ")))
            }
            Is::Sparse => (String::new(), "\"sparse\": true}".to_owned()),
            other => panic!("{other:?} at {va:#x}"),
        };
        let follows = |to: &str, start: u64| {
            step_to(to).map_or(String::new(), |(space, at)| format!("{space}{:#014x}", at + (va - start)))
        };
        match &mut open {
            Some((start, end, to, rest))
                if *end == va && follows(to, *start) == next_to && *rest == format!("{page} {tail}") =>
            {
                *end += span;
            }
            _ => {
                lines.extend(open.take().map(line));
                open = Some((va, va + span, next_to, format!("{page} {tail}")));
            }
        }
    }
    lines.extend(open.map(line));
    lines
}

fn step_to(to: &str) -> Option<(&str, u64)> {
    let split = to.find("0x")?;
    Some((&to[..split], u64::from_str_radix(&to[split + 2..], 16).unwrap()))
}

fn line((start, end, to, rest): (u64, u64, String, String)) -> String {
    let (page, tail) = rest.split_once(' ').unwrap();
    let to = if to.is_empty() { to } else { format!("\"to\": \"{to}\", ") };
    format!("{{\"va\": \"{start:#014x}\", \"bytes\": {}, \"page\": \"{page}\", {to}{tail}", end - start)
}

fn nvidia<F: Format>(image: &[u8], json: &str) {
    let mut image = Image(image.to_vec());
    let wanted: Vec<&str> = json
        .lines()
        .filter(|line| line.starts_with("{\"va\""))
        .map(|line| line.trim_end_matches([',', ']', '}']))
        .collect();
    let found = ranges::<F>(&mut image, 0x10000);
    let found: Vec<&str> = found.iter().map(|line| line.trim_end_matches([']', '}'])).collect();
    assert!(wanted.len() > 40, "{} ranges in the list", wanted.len());
    assert_eq!(found, wanted);
    // And address by address: the first and last byte of each range, and the byte behind it.
    for line in wanted {
        let (_, start) = step_to(line.split('"').nth(3).unwrap()).unwrap();
        let bytes: u64 = line.split("\"bytes\": ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        for va in [start, start + bytes - 1] {
            let outcome = walk::<F, _>(&mut image, TableAddr::vram(0x10000), ALL, va).unwrap().outcome;
            match outcome {
                Outcome::Sparse => assert!(line.contains("sparse")),
                Outcome::Mapped { to, .. } => {
                    let first = PhysAddr::new(to.aperture, to.raw - (va - start)).to_string();
                    assert!(line.contains(&first), "{va:#x} goes to {to}, not as {line}");
                }
                other => panic!("{va:#x}: {other:?}"),
            }
        }
    }
}

#[test]
fn page_tables_written_by_nvidias_walker_are_read_exactly() {
    nvidia::<V2>(include_bytes!("data/nv-v2-12.img"), include_str!("data/nv-v2-12.json"));
    nvidia::<V3>(include_bytes!("data/nv-v3-12.img"), include_str!("data/nv-v3-12.json"));
}

/// Tables for one 2 MiB of v3 at address 0: 0x1000 root … 0x5000 PD0, 0x6000 64K table, 0x7000 4K table.
fn two_tables() -> Image {
    let mut image = Image(vec![0; 0x10000]);
    for (at, next) in [(0x1000, 0x2000), (0x2000, 0x3000), (0x3000, 0x4000), (0x4000, 0x5000)] {
        image.put(at, &[V3::encode_link(Slot::Pde, &Link::table(TableAddr::vram(next))).unwrap()]);
    }
    let table = |at| Link::table(TableAddr::vram(at));
    image.put(0x5000, &V3::encode_dual(&Dual::Links { big: table(0x6000), small: table(0x7000) }).unwrap());
    let word = |pte: Pte| V3::encode_pte(&pte).unwrap();
    let leaf = |at| word(Pte::Leaf(Leaf::new(PhysAddr::vram(at))));
    image.put(0x6000, &[leaf(0x10_0000), 0, word(Pte::NoValid4K), word(Pte::Sparse)]);
    for n in 0..64 {
        image.put(0x7000 + n * 8, &[leaf(0x20_0000 + n * 4096)]);
    }
    image
}

/// Section 3 rule 1: the big entry is asked first; only an all-invalid one lets the small entries count.
#[test]
fn of_two_tables_under_one_dual_entry_the_big_one_is_asked_first() {
    let mut image = two_tables();
    let mut at = |va| walk::<V3, _>(&mut image, TableAddr::vram(0x1000), ALL, va).unwrap();
    assert!(matches!(at(0x3000).outcome, Outcome::Mapped { to, .. } if to == PhysAddr::vram(0x10_3000)));
    assert!(matches!(at(0x1_3000).outcome, Outcome::Mapped { to, .. } if to == PhysAddr::vram(0x21_3000)));
    assert_eq!(at(0x1_3000).steps().count(), 7, "four directories, the dual entry, the 64K and the 4K entry");
    assert_eq!((at(0x2_3000).outcome, at(0x3_3000).outcome), (Outcome::Unmapped, Outcome::Sparse));
    assert_eq!(at(0x4_0000).outcome, Outcome::Unmapped);
}

#[test]
fn a_cursor_shows_what_translates_or_each_table_once() {
    let mut image = two_tables();
    let leaves = |events: &[Event]| -> Vec<u64> {
        events.iter().filter_map(|e| if let Event::Entry { va, .. } = e { Some(*va) } else { None }).collect()
    };
    let (translations, _) = events::<V3>(&mut image, 0x1000, View::Translations);
    let mut wanted = vec![0];
    wanted.extend((0..16).map(|n| 0x1_0000 + n * 4096));
    wanted.push(0x3_0000);
    assert_eq!(leaves(&translations), wanted);

    let (structure, _) = events::<V3>(&mut image, 0x1000, View::Structure);
    let entered: Vec<u64> =
        structure.iter().filter_map(|e| if let Event::Enter(t) = e { Some(t.at.raw()) } else { None }).collect();
    assert_eq!(entered, [0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000]);
    let left: Vec<(u64, u64)> = structure
        .iter()
        .filter_map(|e| if let Event::Leave { table, used, .. } = e { Some((table.at.raw(), *used)) } else { None })
        .collect();
    assert_eq!(left[..2], [(0x6000, 3), (0x7000, 64)], "used entries");
    assert_eq!(leaves(&structure).len(), 2 + 64);
}

#[test]
fn a_range_is_read_and_nothing_else() {
    let mut image = two_tables();
    let range = 0x1_2000..0x1_4000;
    let mut cursor = Cursor::<V3>::new(TableAddr::vram(0x1000), ALL, range, View::Translations, 10).unwrap();
    let mut found = Vec::new();
    while let Some(event) = cursor.next(&mut image).unwrap() {
        if let Event::Entry { va, .. } = event {
            found.push(va);
        }
    }
    assert_eq!(found, [0x1_2000, 0x1_3000]);
}

#[test]
fn what_cannot_be_followed_is_said_where_it_is() {
    let mut image = Image(vec![0; 0x3000]);
    let link = |at| V2::encode_link(Slot::Pde, &Link::table(TableAddr::vram(at))).unwrap();
    let sys = TableAddr::SysCoherent(gmmu::addr::SysAddr::new(0x8000));
    image.put(0x1000, &[link(0x2000), link(0x9_0000), u64::MAX, 0xbadf_5040_badf_5040]);
    image.put(0x2000, &[V2::encode_link(Slot::Pde, &Link::table(sys)).unwrap()]);
    let (events, error) = events::<V2>(&mut image, 0x1000, View::Translations);
    let bad: Vec<String> = events
        .iter()
        .filter_map(|e| match e {
            Event::Entry { step, .. } => match step.is {
                Is::Bad(why) => Some(format!("{} {}: {why}", step.level.name, step.entry)),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert_eq!(error, None);
    assert_eq!(bad.len(), 4, "{bad:#?}");
    assert!(bad[0].contains("sys-coh:0x000000008000") && bad[0].contains("aperture"), "{}", bad[0]);
    assert!(bad[1].contains("outside the memory"), "{}", bad[1]);
    assert!(bad[2].contains("0xffffffffffffffff") && bad[3].contains("0xbadf5040badf5040"), "{bad:?}");
}

/// Of two tables under one dual entry only the small one is missing: big pages still translate, for both readers.
#[test]
fn big_pages_beside_a_missing_small_table_still_translate() {
    let mut image = two_tables();
    let (big, small) = (Link::table(TableAddr::vram(0x6000)), Link::table(TableAddr::vram(0x9_0000)));
    image.put(0x5000, &V3::encode_dual(&Dual::Links { big, small }).unwrap());
    let at = walk::<V3, _>(&mut image, TableAddr::vram(0x1000), ALL, 0x3000).unwrap();
    assert!(matches!(at.outcome, Outcome::Mapped { .. }));
    for view in [View::Translations, View::Structure] {
        let (events, _) = events::<V3>(&mut image, 0x1000, view);
        let found: Vec<bool> = events
            .iter()
            .filter_map(|e| if let Event::Entry { step, .. } = e { Some(matches!(step.is, Is::Bad(_))) } else { None })
            .collect();
        assert_eq!(found, [true, false, false], "one bad entry, then the 64K page and the sparse one");
    }
}

/// What a cursor says of the bad entries that it finds.
fn bad_entries<F: Format>(image: &mut Image, root: u64) -> (Vec<Why>, Option<WalkError>) {
    let (events, error) = events::<F>(image, root, View::Translations);
    let bad = events.iter().filter_map(|e| match e {
        Event::Entry { step, .. } => match step.is {
            Is::Bad(why) => Some(why),
            _ => None,
        },
        _ => None,
    });
    (bad.collect(), error)
}

#[test]
fn a_table_that_points_to_one_above_it_is_said_entry_by_entry() {
    let mut image = Image(vec![0; 0x4000]);
    let link = |at| V3::encode_pde(&Pde::Link(Link::table(TableAddr::vram(at)))).unwrap();
    // At itself.
    image.put(0x1000, &[link(0x1000); 2]);
    let walk = walk::<V3, _>(&mut image, TableAddr::vram(0x1000), ALL, 0).unwrap();
    assert!(walk.steps().count() <= 7, "the hardware's walk ends at the depth of the format");
    let (bad, error) = bad_entries::<V3>(&mut image, 0x1000);
    assert_eq!((bad, error), (vec![Why::Loop(TableAddr::vram(0x1000)); 2], None));
    // At each other.
    image.put(0x1000, &[link(0x2000), 0]);
    image.put(0x2000, &[link(0x1000); 512]);
    let (bad, error) = bad_entries::<V3>(&mut image, 0x1000);
    assert_eq!((bad.len(), error), (512, None));
    assert_eq!(bad[0].to_string(), "it points back to vram:0x000000001000, a table above it");
}

/// Tables that are shared but never loop can still be many.
#[test]
fn a_cursor_reads_as_many_tables_as_it_may() {
    let mut image = Image(vec![0; 0x6000]);
    for table in [0x1000, 0x2000, 0x3000] {
        let next = V3::encode_pde(&Pde::Link(Link::table(TableAddr::vram(table + 0x1000)))).unwrap();
        image.put(table, &[next; 512]);
    }
    let (bad, error) = bad_entries::<V3>(&mut image, 0x1000);
    assert_eq!((bad.len(), error), (0, Some(WalkError::TooManyTables { limit: 2000 })));
}

/// An image that ends within a table: what is there is read, what is missing is said.
#[test]
fn a_table_that_is_partly_there_is_read_as_far_as_it_is() {
    let mut image = two_tables();
    image.0.truncate(0x7000 + 40 * 8);
    image.put(0x6000, &[0; 32]);
    let (events, _) = events::<V3>(&mut image, 0x1000, View::Translations);
    let leaves = events.iter().filter(|e| matches!(e, Event::Entry { step, .. } if matches!(step.is, Is::Leaf(_))));
    assert_eq!(leaves.count(), 40);
    let (bad, _) = bad_entries::<V3>(&mut image, 0x1000);
    assert_eq!(bad.len(), 512 - 40);
    assert!(matches!(bad[0], Why::Unreadable(DeviceError::OutOfRange { .. })));
}

#[test]
fn a_page_size_that_the_chip_lacks_is_said() {
    let mut image = Image(vec![0; 0x4000]);
    let link = |at| V2::encode_link(Slot::Pde, &Link::table(TableAddr::vram(at))).unwrap();
    image.put(0x1000, &[link(0x2000)]);
    image.put(0x2000, &[link(0x3000)]);
    image.put(0x3000, &[V2::encode_pte(&Pte::Leaf(Leaf::new(PhysAddr::vram(0)))).unwrap()]);
    let mut on = |sizes| walk::<V2, _>(&mut image, TableAddr::vram(0x1000), sizes, 0x1234).unwrap().outcome;
    assert!(matches!(on(PageSizes::UP_TO_512M), Outcome::Mapped { .. }));
    assert!(matches!(on(PageSizes::UP_TO_2M), Outcome::Bad(Why::NotOnChip(_))));
}

#[test]
fn an_address_beyond_the_format_is_an_error() {
    let mut image = Image(vec![0; 0x2000]);
    let error = walk::<V2, _>(&mut image, TableAddr::vram(0x1000), ALL, 1 << 49).unwrap_err();
    assert_eq!(error, WalkError::VaTooWide { va: 1 << 49, bits: 49 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random images of 1 MiB, dense enough that tables point to each other.
    #[test]
    fn rubbish_ends_and_never_panics(seed: u64, root in 0u64..256, vas: [u64; 8]) {
        let mut state = seed;
        let mut bytes = vec![0u8; 1 << 20];
        for chunk in bytes.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let noise = state ^ state >> 29;
            // Mostly plausible directory words that stay within the image, some leaves, some noise.
            let word = match noise & 7 {
                0..=3 => (noise & 0xf_f000) << 24 >> 24 | (noise >> 40 & 0xff) << 12 | 2,
                4 => noise | 1,
                5 => noise,
                _ => 0,
            };
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let mut image = Image(bytes);
        let root = TableAddr::vram(root << 12);
        for va in vas {
            let _ = walk::<V2, _>(&mut image, root, ALL, va & ((1 << 49) - 1)).unwrap();
            let _ = walk::<V3, _>(&mut image, root, ALL, va & ((1 << 57) - 1)).unwrap();
        }
        for view in [View::Translations, View::Structure] {
            let _ = events::<V2>(&mut image, root.raw(), view);
            let _ = events::<V3>(&mut image, root.raw(), view);
        }
    }

    /// A cursor finds exactly the pages that single walks find.
    #[test]
    fn cursor_and_walk_agree(words in prop::collection::vec(0u8..4, 32), small in prop::collection::vec(any::<bool>(), 512)) {
        let mut image = two_tables();
        let leaf = |at| V3::encode_pte(&Pte::Leaf(Leaf::new(PhysAddr::vram(at)))).unwrap();
        for (n, word) in (0u64..).zip(&words) {
            image.put(0x6000 + n * 8, &[[0, leaf(n << 16), 0x18, 0x8][usize::from(*word)]]);
        }
        for (n, on) in (0u64..).zip(&small) {
            image.put(0x7000 + n * 8, &[if *on { leaf(n << 12) } else { 0 }]);
        }
        let mut mapped = std::collections::BTreeSet::new();
        for event in events::<V3>(&mut image, 0x1000, View::Translations).0 {
            if let Event::Entry { va, step } = event {
                mapped.extend((va..va + step.level.span()).step_by(4096));
            }
        }
        for va in (0..2 << 20).step_by(4096) {
            let outcome = walk::<V3, _>(&mut image, TableAddr::vram(0x1000), ALL, va).unwrap().outcome;
            prop_assert_eq!(outcome != Outcome::Unmapped, mapped.contains(&va), "{:#x}", va);
        }
    }
}
