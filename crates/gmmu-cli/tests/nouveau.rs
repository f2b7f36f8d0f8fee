//! What Debian's nouveau did to the software GP107, replayed: it boots, a first client writes buffers through BAR1, a
//! second one maps parts of a buffer and takes them away again. How the trace was made, and what the sanitizer says of
//! it, is in `docs/nouveau.md`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::allow_attributes, reason = "tests")]

use std::io::Read;
use std::ops::Range;

use gmmu::addr::TableAddr;
use gmmu_sim::trace::{Event, Replay, Trace};
use gmmu_sim::{Client, Config, Gpu, Rule};

/// The buffer of the second client holds this plus the offset at every 64K.
const FILLED: u64 = 0xd0_0000_0000_0000;
const STRIDE: u64 = 0x1_0000;

/// What the second client asked for, behind the mark with that number: where, and the buffer's offset or sparse.
type Asked = (u32, &'static [(Range<u64>, Option<u64>)]);
const STEPS: &[Asked] = &[
    (12, &[(0x12_3456_0000..0x12_3466_0000, Some(0))]),
    (13, &[(0x12_3456_0000..0x12_3466_0000, Some(0)), (0x12_3480_0000..0x12_34a0_0000, Some(0x20_0000))]),
    (
        14,
        &[
            (0x12_3456_0000..0x12_345a_0000, Some(0)),
            (0x12_345a_0000..0x12_345c_0000, Some(0x40_0000)),
            (0x12_345c_0000..0x12_3466_0000, Some(0x6_0000)),
            (0x12_3480_0000..0x12_34a0_0000, Some(0x20_0000)),
        ],
    ),
    (
        16,
        &[
            (0x12_3456_0000..0x12_3458_0000, Some(0)),
            (0x12_3459_0000..0x12_345a_0000, Some(0x3_0000)),
            (0x12_345a_0000..0x12_345c_0000, Some(0x40_0000)),
            (0x12_345c_0000..0x12_3466_0000, Some(0x6_0000)),
            (0x12_3480_0000..0x12_3490_0000, Some(0x20_0000)),
            (0x12_3498_0000..0x12_34a0_0000, Some(0x38_0000)),
        ],
    ),
    (17, &[(0x12_4000_0000..0x12_4040_0000, None)]),
    (
        18,
        &[
            (0x12_4000_0000..0x12_4001_0000, None),
            (0x12_4001_0000..0x12_4002_0000, Some(0x1_0000)),
            (0x12_4002_0000..0x12_4040_0000, None),
        ],
    ),
    (19, &[(0x12_4000_0000..0x12_4040_0000, None)]),
];

fn trace() -> Trace {
    let mut text = String::new();
    let packed: &[u8] = include_bytes!("data/nouveau-gp107.trace.gz");
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    Trace::read(&text).unwrap()
}

/// The space of the second client: the one that is none of the BARs' and maps what only that client asked for.
fn client(gpu: &Gpu) -> Option<TableAddr> {
    gpu.roots()
        .find(|root| !gpu.bar_roots().contains(&Some(*root)) && gpu.peek_translate(*root, 0x12_3456_0000).is_ok())
}

/// What a page is: sparse, or memory that holds a word.
#[derive(Debug, PartialEq, Eq)]
enum Page {
    Sparse,
    Word(u64),
}

fn look(gpu: &Gpu, root: TableAddr, va: u64) -> Option<Page> {
    let found = gpu.peek_translate(root, va).ok()?;
    let mut word = [0; 8];
    gpu.peek_vram(found.to.raw, &mut word);
    Some(if found.sparse { Page::Sparse } else { Page::Word(u64::from_le_bytes(word)) })
}

/// Every page in the neighbourhood of what was asked for: those that were, and no other.
fn judge(gpu: &Gpu, root: TableAddr, mark: u32, asked: &[(Range<u64>, Option<u64>)]) {
    let sparse = mark > 16;
    let around = if sparse { 0x12_3fe0_0000..0x12_4060_0000 } else { 0x12_3440_0000..0x12_34c0_0000 };
    for va in around.step_by(0x1000) {
        let part = asked.iter().find(|(range, _)| range.contains(&va));
        let wanted = part.map(|(range, offset)| offset.map(|offset| offset + va - range.start));
        match (wanted, look(gpu, root, va)) {
            (None, None) | (Some(None), Some(Page::Sparse)) => {}
            // Only the first page of 64K holds a word that tells where it is from.
            (Some(Some(offset)), Some(Page::Word(_))) if offset % STRIDE != 0 => {}
            (Some(Some(offset)), Some(Page::Word(word))) => assert_eq!(word, FILLED + offset, "mark {mark}: {va:#x}"),
            (wanted, found) => panic!("mark {mark}: {va:#x} is to be {wanted:x?}, and is {found:x?}"),
        }
    }
}

#[test]
fn nouveau_maps_what_it_was_asked_for() {
    let trace = trace();
    let mut replay = Replay::new(&trace.config(Config::default())).unwrap();
    let (mut root, mut judged, mut read) = (None, 0, 0);
    for (line, event) in &trace.events {
        replay.step(*line, event);
        match event {
            Event::Bar1Read(at, width, value) => {
                let mut bytes = [0; 8];
                replay.gpu().load(Client::Bar1, *at, &mut bytes[..width.bytes() as usize]).unwrap();
                assert_eq!(u64::from_le_bytes(bytes), *value, "line {line}");
                read += 1;
            }
            Event::Label(label) => {
                let mark: u32 = label.strip_prefix("mark ").unwrap().parse().unwrap();
                root = root.or_else(|| client(replay.gpu()));
                if let (Some((_, asked)), Some(root)) = (STEPS.iter().find(|(step, _)| *step == mark), root) {
                    judge(replay.gpu(), root, mark, asked);
                    judged += 1;
                }
            }
            _ => {}
        }
    }
    assert_eq!(judged, STEPS.len());
    assert!(read > 400, "{read}");
    assert!(replay.differences().0.is_empty() && replay.refused() == 0);

    let found: Vec<Rule> = replay.gpu().findings().iter().map(|finding| finding.rule).collect();
    assert_eq!(found, [Rule::WindowMoving, Rule::ValidToValid, Rule::ValidToValid], "see docs/nouveau.md");
    assert_eq!(replay.gpu().faults(), 0);
}
