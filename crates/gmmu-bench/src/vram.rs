//! What is measured of physical allocators: the request streams, and how each is timed.
//!
//! Everything comes from fixed seeds, so every allocator sees the same requests. A scenario gets a fresh allocator, does its preparation off
//! the clock, and returns nanoseconds per operation, or `None` where the allocator cannot do it. Call each several
//! times, interleaved with the others, and take the median.

use gmmu::addr::VramAddr;
use gmmu::vram::{AllocError, Extent, Place, Request, State, Vram};
use std::hint::black_box;
use std::time::Instant;

/// Chunks of a GiB.
pub const GIB: u32 = 1 << 18;

/// An allocator of contiguous runs of 4 KiB chunks.
pub trait Chunks {
    /// What has to be kept to free a run.
    type Run: Copy;
    /// An allocator of `chunks` chunks, all free.
    fn fresh(chunks: u32) -> Self;
    /// Takes `len` contiguous chunks.
    fn take(&mut self, len: u32) -> Option<Self::Run>;
    /// Gives a run of `len` chunks back.
    fn give(&mut self, run: Self::Run, len: u32);
}

/// Ours, with every check on.
pub struct Ours(pub Vram);

/// A request for `chunks` contiguous chunks.
///
/// # Panics
/// Never for the sizes that are used here.
pub fn request(chunks: u32) -> Request {
    Request::new(u64::from(chunks) << 12).contiguous().build().expect("a request that makes sense")
}

/// Video memory of `chunks` chunks from 0 on.
///
/// # Panics
/// Where the host has no memory.
pub fn vram(chunks: u32) -> Vram {
    Vram::new(&[VramAddr::new(0)..VramAddr::new(u64::from(chunks) << 12)]).expect("memory")
}

impl Chunks for Ours {
    type Run = Extent;
    fn fresh(chunks: u32) -> Self {
        Self(vram(chunks))
    }
    fn take(&mut self, len: u32) -> Option<Extent> {
        self.0.alloc_contiguous(&request(len)).ok().map(Extent::from)
    }
    fn give(&mut self, run: Extent, _: u32) {
        self.0.free(run, State::Dirty).expect("an allocation");
    }
}

/// `buddy_system_allocator`'s frame allocator: rounds up to powers of two, keeps sets on the heap, checks nothing.
pub struct Buddy(buddy_system_allocator::FrameAllocator<33>);

impl Chunks for Buddy {
    type Run = u32;
    fn fresh(chunks: u32) -> Self {
        let mut frames = buddy_system_allocator::FrameAllocator::new();
        frames.add_frame(0, chunks as usize);
        Self(frames)
    }
    fn take(&mut self, len: u32) -> Option<u32> {
        self.0.alloc(len as usize).map(|start| u32::try_from(start).expect("small"))
    }
    fn give(&mut self, run: u32, len: u32) {
        self.0.dealloc(run as usize, len as usize);
    }
}

/// `offset-allocator`: 256 bins of sizes, no alignment, may refuse what would fit.
pub struct Offset(offset_allocator::Allocator);

impl Chunks for Offset {
    type Run = offset_allocator::Allocation;
    fn fresh(chunks: u32) -> Self {
        Self(offset_allocator::Allocator::with_max_allocs(chunks, chunks.min(4 << 20) + 16))
    }
    fn take(&mut self, len: u32) -> Option<Self::Run> {
        self.0.allocate(len)
    }
    fn give(&mut self, run: Self::Run, _: u32) {
        self.0.free(run);
    }
}

/// Numbers from a seed: xorshift64*.
pub struct Stream(u64);

impl Stream {
    /// The stream of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2) | 1)
    }

    /// The next number below `below`.
    pub fn below(&mut self, below: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        u32::try_from((high * u64::from(below)) >> 32).expect("below 2^32")
    }

    /// Puts `values` into a random order.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for index in (1..values.len()).rev() {
            let other = self.below(u32::try_from(index + 1).expect("small")) as usize;
            values.swap(index, other);
        }
    }
}

/// A stopwatch for long measurements: the time that this thread ran, where the system tells, so that other load on the
/// machine disturbs less; the time on the wall otherwise.
struct Watch {
    ran: Option<u64>,
    wall: Instant,
}

impl Watch {
    /// Nanoseconds that this thread ran so far (Linux; right to a few milliseconds).
    fn ran() -> Option<u64> {
        std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
    }

    fn start() -> Self {
        Self { ran: Self::ran(), wall: Instant::now() }
    }

    fn per_operation(&self, operations: usize) -> f64 {
        let wall = self.wall.elapsed().as_secs_f64() * 1e9;
        let ran = Self::ran().zip(self.ran).map(|(now, then)| now.saturating_sub(then) as f64);
        ran.filter(|&ran| ran > 0.0).unwrap_or(wall) / operations as f64
    }
}

fn per_operation(start: Instant, operations: usize) -> f64 {
    start.elapsed().as_secs_f64() * 1e9 / operations as f64
}

/// All of `chunks` chunks one by one.
fn fill<A: Chunks>(pool: &mut A, chunks: u32) -> Option<Vec<A::Run>> {
    (0..chunks).map(|_| pool.take(1)).collect()
}

/// Fills 8 GiB with single chunks; then frees them in random order: nanoseconds per allocation, and per free.
pub fn fill_and_free<A: Chunks>() -> Option<(f64, f64)> {
    let chunks = 8 * GIB;
    let mut pool = A::fresh(chunks);
    // The list is written once before, so that its page faults are not measured.
    let first = pool.take(1)?;
    pool.give(first, 1);
    let mut runs = vec![first; chunks as usize];
    let start = Watch::start();
    for run in &mut runs {
        *run = pool.take(1)?;
    }
    let fill = start.per_operation(runs.len());
    Stream::new(1).shuffle(&mut runs);
    let start = Watch::start();
    for &run in &runs {
        pool.give(run, 1);
    }
    Some((fill, start.per_operation(runs.len())))
}

/// 8 GiB of single chunks of which a random half was freed: nanoseconds for freeing a random one and taking another.
pub fn steady_pair<A: Chunks>() -> Option<f64> {
    let mut pool = A::fresh(8 * GIB);
    let mut runs = fill(&mut pool, 8 * GIB)?;
    let mut stream = Stream::new(2);
    stream.shuffle(&mut runs);
    for run in runs.split_off(runs.len() / 2) {
        pool.give(run, 1);
    }
    // The order is random already, so that the list of runs itself is walked from front to back.
    let start = Watch::start();
    for slot in &mut runs {
        pool.give(*slot, 1);
        *slot = pool.take(1)?;
    }
    Some(start.per_operation(runs.len()))
}

/// 8 GiB, 60 % full of contiguous runs of 1 to 512 chunks: nanoseconds for freeing a random one and taking one of another
/// size, and how many of 1,000,000 did not fit.
pub fn churn<A: Chunks>() -> Option<(f64, u32)> {
    let total = 8 * GIB;
    let mut pool = A::fresh(total);
    let mut stream = Stream::new(3);
    let (mut runs, mut used) = (Vec::new(), 0);
    while used < total / 10 * 6 {
        let len = 1 + stream.below(512);
        runs.push((pool.take(len)?, len));
        used += len;
    }
    let count = u32::try_from(runs.len()).ok()?;
    let picks: Vec<(u32, u32)> = (0..1_000_000).map(|_| (stream.below(count), 1 + stream.below(512))).collect();
    let mut failed = 0;
    let start = Watch::start();
    for &(pick, len) in &picks {
        let slot = runs.get_mut(pick as usize)?;
        pool.give(slot.0, slot.1);
        match pool.take(len) {
            Some(run) => *slot = (run, len),
            None => {
                failed += 1;
                *slot = (pool.take(1)?, 1);
            }
        }
    }
    Some((start.per_operation(picks.len()), failed))
}

/// 8 GiB, and in a range of 64 MiB of it 8,192 live chunks: nanoseconds for freeing a random one of them, and for taking
/// one in the range.
pub fn ranged_pair(place: Place) -> Option<(f64, f64)> {
    let mut vram = vram(8 * GIB);
    let window = VramAddr::new((1 << 30) + 4096)..VramAddr::new((1 << 30) + (64 << 20) + 4096);
    let one = Request::new(4096).within(window).place(place).build().ok()?;
    let mut runs: Vec<Extent> =
        (0..16384).map(|_| vram.alloc_contiguous(&one).map(Extent::from)).collect::<Result<_, _>>().ok()?;
    let mut stream = Stream::new(4);
    stream.shuffle(&mut runs);
    for run in runs.split_off(8192) {
        vram.free(run, State::Dirty).ok()?;
    }
    let (mut freeing, mut taking, batch) = (0.0, 0.0, 64);
    for _ in 0..2000 {
        let first = stream.below(8192 - batch) as usize;
        let slots = runs.get_mut(first..first + batch as usize)?;
        let start = Instant::now();
        for slot in &*slots {
            vram.free(*slot, State::Dirty).ok()?;
        }
        freeing += per_operation(start, batch as usize);
        let start = Instant::now();
        for slot in slots {
            *slot = vram.alloc_contiguous(&one).ok()?.into();
        }
        taking += per_operation(start, batch as usize);
    }
    Some((freeing / 2000.0, taking / 2000.0))
}

/// What asking for the impossible costs, in nanoseconds.
pub struct Impossible {
    /// The first question, which has to look at everything that changed before.
    pub first: f64,
    /// A question for 12K after that.
    pub settled: f64,
    /// A question for 12K between two of which one chunk was freed and taken again.
    pub busy: f64,
    /// A question for 8K at an alignment that no hole has.
    pub aligned: f64,
}

/// 80 GiB, full but for isolated holes of 8 KiB, one per 16 KiB, none of them aligned.
pub fn impossible() -> Option<Impossible> {
    let mut vram = vram(80 * GIB);
    let at = |chunk: u32| VramAddr::new(u64::from(chunk) << 12);
    vram.reserve(at(0)..at(1)).ok()?;
    for hole in 0..20 * GIB {
        vram.reserve(at(hole * 4 + 3)..at((hole * 4 + 5).min(80 * GIB))).ok()?;
    }
    let none = |vram: &mut Vram, request: &Request, times: u32| {
        let start = Instant::now();
        for _ in 0..times {
            let answer = black_box(&mut *vram).alloc_contiguous(black_box(request));
            assert!(matches!(answer, Err(AllocError::NoSpace { .. })));
        }
        per_operation(start, times as usize)
    };
    let three = request(3);
    let first = none(&mut vram, &three, 1);
    let settled = none(&mut vram, &three, 10_000);
    let mut busy = 0.0;
    let mut stream = Stream::new(5);
    for _ in 0..1000 {
        let lo = VramAddr::new((u64::from(stream.below(20 * GIB - 2)) * 4) << 12);
        let one = Request::new(4096).place(Place::Near(lo)).build().ok()?;
        let chunk = vram.alloc_contiguous(&one).ok()?;
        vram.free(chunk.into(), State::Dirty).ok()?;
        busy += none(&mut vram, &three, 1);
    }
    let unlucky = Request::new(8 << 10).align(16 << 10).contiguous().build().ok()?;
    let aligned = none(&mut vram, &unlucky, 5);
    Some(Impossible { first, settled, busy: busy / 1000.0, aligned })
}

/// Fills 1 GiB with contiguous runs of 4K to 4M until the first does not fit: thousandths that are used then.
pub fn used_at_first_failure<A: Chunks>(seed: u64) -> u32 {
    let mut pool = A::fresh(GIB);
    let mut stream = Stream::new(seed);
    let mut used = 0;
    loop {
        let len = 1 + stream.below(1024);
        if pool.take(len).is_none() {
            return u32::try_from(u64::from(used) * 1000 / u64::from(GIB)).expect("at most 1000");
        }
        used += len;
    }
}

/// Words touched by operations on single chunks: on average, and by the worst one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Words {
    /// All words.
    pub total: u64,
    /// Operations.
    pub operations: u64,
    /// Words of the worst operation.
    pub worst: u64,
}

impl Words {
    fn count<T>(&mut self, vram: &mut Vram, operation: impl FnOnce(&mut Vram) -> T) -> T {
        let before = vram.words_touched();
        let result = operation(vram);
        let words = vram.words_touched() - before;
        self.total += words;
        self.operations += 1;
        self.worst = self.worst.max(words);
        result
    }

    /// Words per operation.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.total as f64 / self.operations.max(1) as f64
    }
}

/// The words of the fill of `gib` GiB, of the random frees after it, and of steady pairs in between. Exact: the same on
/// every machine.
pub fn words(gib: u32) -> Option<[Words; 3]> {
    let mut vram = vram(gib * GIB);
    let [mut fill, mut free, mut pair] = [Words::default(); 3];
    let one = request(1);
    let mut runs = Vec::new();
    for _ in 0..gib * GIB {
        runs.push(fill.count(&mut vram, |vram| vram.alloc_contiguous(&one)).ok()?);
    }
    let mut stream = Stream::new(6);
    stream.shuffle(&mut runs);
    let mut give =
        |vram: &mut Vram, run: gmmu::vram::Contiguous| free.count(vram, |vram| vram.free(run.into(), State::Dirty));
    for run in runs.split_off(runs.len() / 2) {
        give(&mut vram, run).ok()?;
    }
    for _ in 0..100_000 {
        let slot = runs.get_mut(stream.below(gib * GIB / 2) as usize)?;
        pair.count(&mut vram, |vram| vram.free((*slot).into(), State::Dirty)).ok()?;
        *slot = pair.count(&mut vram, |vram| vram.alloc_contiguous(&one)).ok()?;
    }
    for run in runs {
        give(&mut vram, run).ok()?;
    }
    Some([fill, free, pair])
}

/// Bits of metadata per chunk, in hundredths.
pub fn metadata(gib: u32) -> u64 {
    vram(gib * GIB).metadata_bytes() as u64 * 800 / u64::from(gib * GIB)
}
