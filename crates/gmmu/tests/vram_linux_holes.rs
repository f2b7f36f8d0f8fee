//! Ten inputs for which the GPU buddy allocator of Linux 7.2 answers wrongly, one test each.

use gmmu::addr::VramAddr;
use gmmu::vram::{AllocError, Cleared, Extent, Place, Request, RequestBuilder, State, Vram};

const K: u64 = 1 << 10;

fn memory(bytes: u64) -> Vram {
    Vram::new(&[VramAddr::new(0)..VramAddr::new(bytes)]).expect("memory")
}

fn one(vram: &mut Vram, builder: RequestBuilder) -> Result<Extent, AllocError> {
    Ok(vram.alloc_contiguous(&builder.build()?)?.extent())
}

fn range(lo: u64, hi: u64) -> core::ops::Range<VramAddr> {
    VramAddr::new(lo)..VramAddr::new(hi)
}

/// Memory of which only `holes` are free.
fn only(bytes: u64, holes: &[(u64, u64)]) -> Vram {
    let mut vram = memory(bytes);
    let all = one(&mut vram, Request::new(bytes)).expect("everything");
    let mut rest = Some(all);
    for &(at, len) in holes {
        let hole = Extent::new(VramAddr::new(at), len);
        let [_, behind] = vram.free_part(rest.expect("holes in order"), hole, State::Dirty).expect("inside");
        rest = behind;
    }
    vram
}

/// A contiguous request smaller than its alignment came back unaligned.
#[test]
fn linux_hole_a() {
    for place in [Place::Best, Place::Low, Place::High] {
        for bytes in [4 * K, 12 * K] {
            let got = one(&mut memory(1 << 20), Request::new(bytes).align(64 * K).contiguous().place(place));
            assert!(got.expect("fits").start().is_aligned(64 * K));
        }
    }
}

/// Half of the memory clear, half dirty: 8K of 8K were not found, for the merge looked at an empty range.
#[test]
fn linux_hole_b() {
    let mut vram = memory(8 * K);
    let page = one(&mut vram, Request::new(4 * K)).expect("a page");
    vram.free(page, State::Cleared).expect("live");
    assert_eq!(vram.cleared_bytes(), 4 * K);
    for cleared in [Cleared::Any, Cleared::Prefer] {
        let all = one(&mut vram, Request::new(8 * K).cleared(cleared)).expect("everything is free");
        assert_eq!((all.bytes(), all.is_cleared()), (8 * K, false));
        vram.free(all, State::Dirty).expect("live");
        let page = one(&mut vram, Request::new(4 * K)).expect("a page");
        vram.free(page, State::Cleared).expect("live");
    }
}

/// A contiguous request that failed freed blocks that its caller had got before.
#[test]
fn linux_hole_c() {
    let mut vram = memory(20 * K);
    let mut pieces = [Extent::default(); 4];
    let earlier = one(&mut vram, Request::new(4 * K).place(Place::Low)).expect("a page");
    pieces[0] = earlier;
    let too_much = Request::new(64 * K).contiguous().build().expect("valid");
    assert_eq!(vram.alloc(&too_much, &mut pieces), Err(AllocError::NoSpace { largest: 16 * K }));
    assert_eq!(vram.free_bytes(), 16 * K);
    vram.verify(earlier).expect("still the caller's");
}

/// Cleared memory in the range was passed over for dirty memory.
#[test]
fn linux_hole_d() {
    let mut vram = memory(1 << 20);
    let inside = one(&mut vram, Request::new(64 * K).within(range(256 * K, 512 * K))).expect("free");
    vram.free(inside, State::Cleared).expect("live");
    for cleared in [Cleared::Prefer, Cleared::Require] {
        let got = one(&mut vram, Request::new(64 * K).within(range(256 * K, 512 * K)).cleared(cleared)).expect("free");
        assert!(got.is_cleared());
        vram.free(got, State::Cleared).expect("live");
    }
}

/// 2^32 pages and more were refused as invalid, or allocated page by page. The sizes are right here up to the limit of
/// the memory; beyond that the answer is how much there would have been.
#[test]
fn linux_hole_e() {
    let mut vram = memory(1 << 34);
    for bytes in [1 << 44, (1 << 44) + 4 * K, 1 << 49, u64::MAX - 4095] {
        let refused = one(&mut vram, Request::new(bytes));
        assert_eq!(refused, Err(AllocError::NoSpace { largest: 1 << 34 }), "{bytes:#x}");
    }
    let all = one(&mut vram, Request::new(1 << 34)).expect("everything");
    assert_eq!((all.bytes(), vram.free_bytes()), (1 << 34, 0));
}

/// The only free run starts at an odd page.
#[test]
fn linux_hole_f() {
    let mut vram = only(16 * K, &[(4 * K, 8 * K)]);
    let got = one(&mut vram, Request::new(8 * K).contiguous()).expect("pages 1 and 2");
    assert_eq!(got.start().raw(), 4 * K);
}

/// With a range, the alignment was forgotten.
#[test]
fn linux_hole_h() {
    let mut vram = memory(1 << 20);
    let got = one(&mut vram, Request::new(4 * K).align(64 * K).within(range(4 * K, 1 << 20))).expect("15 places");
    assert!(got.start().is_aligned(64 * K) && got.start().raw() >= 64 * K);
    let none = one(&mut vram, Request::new(4 * K).align(64 * K).within(range(4 * K, 64 * K)));
    assert_eq!(none, Err(AllocError::NoSpace { largest: 0 }));
}

/// 12K in an empty [4K, 20K) were not found, for they were rounded up to 16K.
#[test]
fn linux_hole_j() {
    let mut vram = memory(1 << 20);
    let got = one(&mut vram, Request::new(12 * K).contiguous().within(range(4 * K, 20 * K))).expect("free");
    assert!(got.start().raw() >= 4 * K && got.start().raw() + got.bytes() <= 20 * K);
}

/// The pieces of a range were not in order, so that the first was not the start.
#[test]
fn linux_hole_o() {
    let mut vram = memory(1 << 20);
    let mut pieces = [Extent::default(); 8];
    let request = Request::new(12 * K).within(range(4 * K, 20 * K)).build().expect("valid");
    let got = vram.alloc(&request, &mut pieces).expect("free");
    assert_eq!(got, [Extent::new(VramAddr::new(4 * K), 12 * K)], "one piece, not two that touch");
    let mut broken = only(1 << 20, &[(0, 8 * K), (32 * K, 4 * K), (64 * K, 16 * K)]);
    let request = Request::new(28 * K).build().expect("valid");
    let got = broken.alloc(&request, &mut pieces).expect("all that is free");
    assert!(got.windows(2).all(|pair| pair[0].start() < pair[1].start()));
    assert_eq!(got.iter().map(Extent::bytes).sum::<u64>(), 28 * K);
}

/// From the top, cleared if possible: without cleared memory it came from the bottom.
#[test]
fn linux_hole_t() {
    let mut vram = memory(256 * K);
    let got = one(&mut vram, Request::new(4 * K).place(Place::High).cleared(Cleared::Prefer)).expect("free");
    assert_eq!(got.start().raw(), 0x3f000);
}
