//! Page tables that somebody else wrote: NVIDIA's walker library, for random requests. The model finds exactly the
//! mappings that are known to be in them.

mod common;
use common::pdb;
use gmmu::addr::{Aperture, PhysAddr};
use gmmu_sim::{AccessKind, Client, Config, FaultType, Gpu, Rule};

struct Range {
    va: u64,
    bytes: u64,
    page: u64,
    to: Option<PhysAddr>,
    kind: u8,
    flags: String,
}

fn number(text: &str) -> u64 {
    let digits = text.strip_prefix("0x");
    digits.map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16)).expect("a number")
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').collect())
}

fn range(line: &[&str]) -> Range {
    let [va, bytes, page, to, kind, flags] = *line else { unreachable!("six columns") };
    let to = to.split_once(':').map(|(space, raw)| {
        let aperture = match space {
            "vram" => Aperture::Vram,
            "sys-coh" => Aperture::SysCoherent,
            _ => Aperture::SysNonCoherent,
        };
        PhysAddr::new(aperture, number(raw))
    });
    let page = match page {
        "4K" => 12,
        "64K" => 16,
        _ => 21,
    };
    let flags = flags.trim_matches('-').replace(',', " ");
    Range { va: number(va), bytes: number(bytes), page: 1 << page, to, kind: kind.parse().unwrap_or(0), flags }
}

fn load(chip: &str, words: &str) -> Gpu {
    let mut gpu = Gpu::new(&Config::chip(chip)).expect("a chip");
    for line in lines(words) {
        let [at, first, step, count] = line.iter().map(|text| number(text)).collect::<Vec<_>>()[..] else {
            unreachable!("four columns")
        };
        for word in 0..count {
            let value = first.wrapping_add(step.wrapping_mul(word));
            gpu.load_vram(at + 8 * word, &value.to_le_bytes());
        }
    }
    gpu
}

/// Every page of every range, and the pages beside it, which are unmapped where no other range is.
fn check(chip: &str, words: &str, ranges: &str) {
    let mut gpu = load(chip, words);
    let ranges: Vec<_> = lines(ranges).map(|line| range(&line)).collect();
    let engine = Client::Engine { pdb: pdb() };
    for range in &ranges {
        for at in (0..range.bytes).step_by(4096) {
            let va = range.va + at;
            let found = gpu.peek_translate(pdb(), va).expect("mapped");
            assert_eq!(found.page_bytes, range.page, "{va:#x}");
            assert_eq!(found.sparse, range.to.is_none(), "{va:#x}");
            assert_eq!(found.kind, range.kind, "{va:#x}");
            assert_eq!(found.flags.names().collect::<Vec<_>>().join(" "), range.flags, "{va:#x}");
            if let Some(to) = range.to {
                assert_eq!(Some(found.to), to.checked_add(at), "{va:#x}");
            }
            // Through the caches it is the same.
            assert_eq!(gpu.access(engine, va, AccessKind::Read, true), Ok(found), "{va:#x}");
        }
    }
    let gaps = ranges.iter().zip(ranges.iter().skip(1)).map(|(one, next)| (one.va + one.bytes, next.va));
    let last = ranges.last().map_or(0, |range| range.va + range.bytes);
    for (from, to) in gaps.chain([(0, ranges[0].va), (last, last + 4096)]) {
        for va in [from, from + (to - from) / 8192 * 4096, to.saturating_sub(4096)] {
            if from <= va && va < to {
                let fault = gpu.peek_translate(pdb(), va).expect_err("unmapped");
                assert!(matches!(fault.fault, FaultType::Pde | FaultType::Pte), "{fault}");
            }
        }
    }
    // The requests drew their flags at random: non-coherent pages that are not volatile are among them.
    let others = gpu.findings().iter().filter(|finding| finding.rule != Rule::CachedNonCoherentPage);
    assert_eq!(others.count(), 0);
}

#[test]
fn version_2() {
    check("tu102", include_str!("data/nv-v2.words"), include_str!("data/nv-v2.ranges"));
}

#[test]
fn version_3() {
    check("gh100", include_str!("data/nv-v3.words"), include_str!("data/nv-v3.ranges"));
}
