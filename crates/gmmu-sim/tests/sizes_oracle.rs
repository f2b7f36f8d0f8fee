//! The rule on page sizes against a judge that looks at every address after every store.
//!
//! The judge remembers, for each 4K page of two PD0 entries, with which sizes it translated since the last covering
//! invalidate. It is slow and knows of tables only the one exception that the rule makes: where a whole directory table
//! is linked, pages below it are compared with large leaves alone. The sanitizer must say the same about random stores.

mod common;
use common::*;
use gmmu::addr::TableAddr;
use gmmu_sim::Rule;
use proptest::prelude::*;

/// Tables of the second PD0 entry, in pages of their own.
const SMALL_2: u64 = 0x22_000;
const BIG_2: u64 = 0x23_000;
const PAGES: u16 = 1024;

#[derive(Default)]
struct Judge {
    /// Level of the leaf that translates now, by page.
    now: Vec<Option<u8>>,
    /// Levels that did since the last covering invalidate, as bits.
    lately: Vec<u8>,
    /// The same, as far as the rule compares it with pages below the directory table that is linked now.
    below: Vec<u8>,
}

/// The leaf of PD1.
const LARGE: u8 = 1 << 3;

fn levels(driver: &Driver) -> Vec<Option<u8>> {
    let level = |page| {
        let found = driver.gpu.peek_translate(pdb(), VA + 4096 * u64::from(page)).ok()?;
        Some(match found.page_bytes {
            0x1000 => 0,
            0x1_0000 => 1,
            0x20_0000 => 2,
            _ => 3,
        })
    };
    (0..PAGES).map(level).collect()
}

impl Judge {
    /// Whether a store broke the rule.
    fn store(&mut self, now: Vec<Option<u8>>, links_directory: bool) -> bool {
        let mut broken = false;
        let lately = self.lately.iter_mut().zip(&mut self.below);
        for ((old, new), (lately, below)) in self.now.iter().zip(&now).zip(lately) {
            if links_directory {
                *below &= LARGE;
            }
            if let Some(bit) = new.filter(|_| old != new).map(|level| 1 << level) {
                broken |= if bit == LARGE { *lately } else { *below } & !bit != 0;
                *lately |= bit;
                *below |= bit;
            }
        }
        self.now = now;
        broken
    }

    fn invalidate(&mut self, depth: u32) {
        let kept = if depth == 0 { 0 } else { 0xffu32 << (depth + 1) };
        let lately = self.lately.iter_mut().zip(&mut self.below);
        for (now, (lately, below)) in self.now.iter().zip(lately) {
            for sizes in [lately, below] {
                *sizes = *sizes & (kept & 0xff) as u8 | now.map_or(0, |level| 1 << level);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Store { at: u64, word: Word },
    Invalidate(u32),
}

#[derive(Clone, Copy, Debug)]
enum Word {
    Zero,
    Leaf(u64),
    Sparse,
    No4k,
    Big(u64),
    Small(u64),
    Directory,
}

fn step() -> impl Strategy<Value = Step> {
    let second = any::<bool>();
    // Few slots, so that they meet: three chunks, their first pages and one more.
    let small = (prop::sample::select(vec![0u64, 1, 16, 17, 511]), second)
        .prop_map(|(slot, second)| if second { SMALL_2 } else { SMALL } + 8 * slot);
    let big = (prop::sample::select(vec![0u64, 1, 31]), second)
        .prop_map(|(slot, second)| if second { BIG_2 } else { BIG } + 8 * slot);
    let page = (1u64..16).prop_map(|page| Word::Leaf(page << 21));
    let simple = prop_oneof![3 => Just(Word::Zero), 4 => page, 1 => Just(Word::Sparse)];
    let store =
        |at: BoxedStrategy<u64>, word: BoxedStrategy<Word>| (at, word).prop_map(|(at, word)| Step::Store { at, word });
    prop_oneof![
        4 => store(small.boxed(), simple.clone().boxed()),
        4 => store(big.boxed(), prop_oneof![4 => simple.clone(), 1 => Just(Word::No4k)].boxed()),
        3 => store(Just(PD0_LO).boxed(), prop_oneof![simple.clone(), Just(Word::Big(BIG))].boxed()),
        2 => store(Just(PD0_HI).boxed(), prop_oneof![Just(Word::Zero), Just(Word::Small(SMALL))].boxed()),
        2 => store(Just(PD0_LO + 16).boxed(), prop_oneof![simple.clone(), Just(Word::Big(BIG_2))].boxed()),
        2 => store(Just(PD0_HI + 16).boxed(), prop_oneof![Just(Word::Zero), Just(Word::Small(SMALL_2))].boxed()),
        1 => store(Just(PD1_SLOT).boxed(), prop_oneof![1 => simple, 3 => Just(Word::Directory)].boxed()),
        3 => prop::sample::select(vec![0u32, 1, 1, 2, 2, 3, 4]).prop_map(Step::Invalidate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn the_sanitizer_agrees_with_the_judge(steps in prop::collection::vec(step(), 1..40), v3: bool) {
        let mut driver = Driver::with_directories(if v3 { "gh100" } else { "ga100" });
        let mut judge = Judge { now: levels(&driver), lately: vec![0; PAGES.into()], below: vec![0; PAGES.into()] };
        for (number, step) in steps.iter().enumerate() {
            match *step {
                Step::Invalidate(depth) => {
                    driver.invalidate(depth);
                    judge.invalidate(depth);
                }
                Step::Store { at, word } => {
                    let word = match word {
                        Word::Zero => 0,
                        Word::Leaf(to) => driver.pte(to),
                        Word::Sparse => 8,
                        Word::No4k => driver.no_4k(),
                        Word::Big(table) => driver.big_half(table),
                        Word::Small(table) => driver.pde(table),
                        Word::Directory => driver.pde(PD0),
                    };
                    let links = at == PD1_SLOT && word == driver.pde(PD0) && driver.gpu.peek_word(TableAddr::vram(at)) != word;
                    driver.write(at, word);
                    let broken = judge.store(levels(&driver), links);
                    let said = driver.rules().contains(&Rule::ValidToValid);
                    prop_assert_eq!(said, broken, "step {} of {:?}", number, &steps);
                }
            }
        }
    }
}
