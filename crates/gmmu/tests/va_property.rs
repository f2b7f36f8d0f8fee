//! Random operations on `VaSpace` against a naive model, which must agree in every answer.
//!
//! `GMMU_SEED=n` runs one seed, `GMMU_SOAK=n` runs n times as many.

#![allow(clippy::cast_possible_truncation, reason = "small spaces; tests run on 64 bits")]

mod va_model;

use gmmu::va::{InsertError, SplitError, VaError, VaSpace};
use std::ops::Range;
use va_model::{seeds, Ask, Live, Model, Rng, PAGE};

struct Pair {
    space: VaSpace<u64>,
    model: Model,
    rng: Rng,
    /// Bytes of what the model calls a page: larger ones make larger spaces.
    unit: u64,
    /// Longest range, in pages.
    longest: u64,
    guards: bool,
    made: u64,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let pages = [16, 100, 700, 1300, 4096][rng.below(5) as usize];
        let unit = [PAGE, PAGE, PAGE, 2 << 20, 64 << 20, 1 << 40][rng.below(6) as usize];
        let bytes = pages * unit;
        let top = !(unit - 1);
        let bases = [0, unit, 2 << 20, (1 << 57) - bytes, (512 * unit) - 17 * unit, top - bytes];
        let base = bases[rng.below(6) as usize].next_multiple_of(unit);
        let limits = base..base + bytes;
        let space = VaSpace::new(limits.clone()).expect("limits are pages");
        let longest = [1, 2, 5, 40, 700][rng.below(5) as usize];
        let guards = rng.one_in(3);
        Self { space, model: Model::new(limits, unit), rng, unit, longest, guards, made: 0 }
    }

    fn page(&mut self) -> u64 {
        let pages = (self.model.limits.end - self.model.limits.start) / self.unit;
        self.model.limits.start + self.rng.below(pages) * self.unit
    }

    /// A range, now and then partly or wholly outside.
    fn window(&mut self) -> Range<u64> {
        let (a, b) = (self.page(), self.page());
        match self.rng.below(8) {
            0 => a.min(b)..u64::MAX,
            1 => 0..a.max(b).max(self.unit),
            _ => a.min(b)..a.max(b) + self.unit,
        }
    }

    fn ask(&mut self) -> Ask {
        let mut ask = Ask::new(1 + self.rng.below(self.longest), self.unit);
        ask.high = self.rng.one_in(3);
        // The model cannot tell where in a large page the first 2 MiB end.
        ask.null = self.unit > 2 << 20 || !self.rng.one_in(4);
        if self.rng.one_in(3) {
            ask.align = Some(1 << self.rng.below(if self.unit > 4096 { 42 } else { 25 }));
        }
        if self.rng.one_in(3) {
            let window = self.window();
            // Windows need not be whole pages; the model cannot tell where in a large one they end.
            let odd = if self.unit == PAGE { self.rng.below(3) } else { 0 };
            ask.within = Some(window.start.saturating_add(odd)..window.end - odd).filter(|w| w.start < w.end);
        }
        if self.guards && self.rng.one_in(2) {
            ask.guard = self.rng.below(4);
        }
        if self.rng.one_in(12) {
            ask.at = Some(self.page());
            ask.align = None;
        }
        ask
    }

    fn insert(&mut self, range: Range<u64>, guard: u64) {
        self.made += 1;
        let value = self.made;
        let with = self.model.overlapping(&range).first().map(|(with, _)| with.clone());
        let outside = range.start < self.model.limits.start || range.end > self.model.limits.end;
        if !self.rng.one_in(50) {
            self.space.reserve(1).expect("memory");
        }
        match self.space.insert_guarded(range.clone(), guard * self.unit, value) {
            Ok(()) => {
                assert!(with.is_none() && !outside, "inserted over {with:?}");
                self.model.insert(Live { range, guard, value });
            }
            Err((InsertError::OutOfLimits, back)) => assert!(outside && back == value),
            Err((InsertError::Overlap { with: other }, back)) => assert_eq!((Some(other), value), (with, back)),
            Err((InsertError::NoRoom, back)) => assert!(back == value && with.is_none() && !outside),
            Err((other, _)) => unreachable!("{other}"),
        }
    }

    fn find_and_insert(&mut self) {
        let ask = self.ask();
        let (got, want) = (self.space.find(&ask.request()), self.model.find(&ask));
        assert_eq!(got.map(|va| va.raw()), want, "{ask:?}");
        if let Ok(va) = want {
            let guard = if self.rng.one_in(2) { ask.guard } else { 0 };
            self.insert(va..va + ask.pages * self.unit, guard);
        } else if let Err(VaError::NoSpace { largest }) = want {
            // What is promised can be had, and no page more.
            let mut small = ask.clone();
            small.align = Some(PAGE);
            for (pages, fits) in [(largest / self.unit, largest > 0), (largest / self.unit + 1, false)] {
                small.pages = pages.max(1);
                assert_eq!(self.space.find(&small.request()).is_ok(), fits, "{small:?}");
            }
        }
    }

    fn some_live(&mut self) -> Option<Live> {
        let at = self.rng.below(self.model.live.len() as u64) as usize;
        self.model.live.get(at).cloned()
    }

    fn remove(&mut self) {
        let Some(live) = self.some_live() else { return };
        assert_eq!(self.space.remove(live.range.start), Some((live.range.clone(), live.value)));
        let at = self.model.seek(live.range.start);
        self.model.live.remove(at);
        assert_eq!(self.space.remove(live.range.start), None);
    }

    fn split(&mut self) {
        let at = match self.some_live() {
            Some(live) if !self.rng.one_in(4) => {
                let pages = (live.range.end - live.range.start) / self.unit;
                live.range.start + self.rng.below(pages) * self.unit
            }
            _ => self.page(),
        };
        self.space.reserve(1).expect("memory");
        self.made += 1;
        let value = self.made;
        let slot = self.model.seek(at);
        let inside = self.model.live.get(slot).is_some_and(|live| live.range.start < at);
        let got = self.space.split(at, |lower, offset| {
            assert_eq!((*lower, offset), (self.model.live[slot].value, at - self.model.live[slot].range.start));
            value
        });
        assert_eq!(got, if inside { Ok(()) } else { Err(SplitError::NotInside) });
        if inside {
            let lower = &mut self.model.live[slot];
            let upper = Live { range: at..lower.range.end, value, ..lower.clone() };
            lower.range.end = at;
            self.model.live.insert(slot + 1, upper);
        }
    }

    fn join(&mut self) {
        let at = match self.some_live() {
            Some(live) => live.range.start,
            None => self.page(),
        };
        let slot = self.model.seek(at);
        let touch = slot > 0
            && self.model.live.get(slot).is_some_and(|upper| upper.range.start == at)
            && self.model.live[slot - 1].range.end == at;
        let mut parts = None;
        assert_eq!(self.space.join(at, |lower, upper| parts = Some((*lower, upper))), touch);
        if touch {
            let upper = self.model.live.remove(slot);
            let lower = &mut self.model.live[slot - 1];
            assert_eq!(parts, Some((lower.value, upper.value)));
            lower.range.end = upper.range.end;
        }
    }

    fn windows(&mut self) {
        let window = self.window();
        if self.rng.one_in(2) {
            self.space.exclude(window.clone()).expect("memory");
            self.model.set_excluded(&window, true);
        } else {
            self.space.include(window.clone()).expect("memory");
            self.model.set_excluded(&window, false);
        }
        if self.rng.one_in(3) {
            self.space.include(0..u64::MAX).expect("memory");
            self.model.excluded.fill(false);
        }
    }

    fn queries(&mut self) {
        let va = self.page().saturating_add(self.rng.below(3)).saturating_sub(1);
        let slot = self.model.seek(va);
        let item = |live: &Live| (live.range.clone(), live.value);
        let at = self.model.live.get(slot);
        let inside = at.filter(|live| live.range.start <= va).map(item);
        assert_eq!(self.space.get(va).map(|(range, value)| (range, *value)), inside);
        assert_eq!(self.space.get_mut(va).map(|(range, value)| (range, *value)), inside);
        let next = self.model.live.iter().find(|live| live.range.start >= va).map(item);
        assert_eq!(self.space.next(va).map(|(range, value)| (range, *value)), next);
        let prev = self.model.live.iter().rev().find(|live| live.range.start < va).map(item);
        assert_eq!(self.space.prev(va).map(|(range, value)| (range, *value)), prev);
        let window = self.window();
        let over: Vec<_> = self.space.overlapping(window.clone()).map(|(range, value)| (range, *value)).collect();
        assert_eq!(over, self.model.overlapping(&window));
    }

    fn step(&mut self, growing: bool) {
        match self.rng.below(16) {
            0..=4 => self.find_and_insert(),
            5 => {
                let start = self.page();
                let pages = 1 + self.rng.below(self.longest);
                let guard = if self.guards { self.rng.below(3) } else { 0 };
                self.insert(start..start.saturating_add(pages * self.unit) & !(self.unit - 1), guard);
            }
            6 if growing => self.find_and_insert(),
            6..=9 => self.remove(),
            10 => self.split(),
            11 => self.join(),
            12 if self.rng.one_in(20) => self.windows(),
            _ => self.queries(),
        }
    }

    fn compare(&self) {
        assert_eq!(self.space.check(), Ok(()));
        let got: Vec<_> = self.space.iter().map(|(range, value)| (range, *value)).collect();
        let want: Vec<_> = self.model.live.iter().map(|live| (live.range.clone(), live.value)).collect();
        assert_eq!(got, want);
        assert_eq!(self.space.len(), want.len());
    }
}

/// P1, P2, P8 and every other answer: the space does what the model does.
#[test]
fn random_operations_agree_with_the_model() {
    for seed in seeds(200) {
        let mut pair = Pair::new(seed);
        for round in 0..5000 {
            pair.step(round / 500 % 2 == 0);
            if round % 100 == 0 {
                pair.compare();
            }
        }
        pair.compare();
    }
}

/// P8: whatever fails, the ranges stay.
#[test]
fn a_failed_call_changes_nothing() {
    for seed in seeds(20) {
        let mut pair = Pair::new(seed);
        for round in 0..1000 {
            let before: Vec<_> = pair.space.iter().map(|(range, value)| (range, *value)).collect();
            let live = pair.some_live();
            let failed = match (round % 4, live) {
                (0, Some(live)) => pair.space.insert(live.range.end - PAGE..live.range.end, 0).is_err(),
                (1, Some(live)) => pair.space.split(live.range.start, |_, _| 0).is_err(),
                (2, _) => pair.space.insert(0..!(PAGE - 1), 0).is_err(),
                _ => pair.space.remove(1).is_none(),
            };
            let after: Vec<_> = pair.space.iter().map(|(range, value)| (range, *value)).collect();
            assert!(failed && before == after);
            pair.step(true);
        }
        pair.compare();
    }
}

/// P6 and P7: where a request succeeds, it also does in a larger window, for less, and with a smaller alignment or guard.
#[test]
fn success_is_monotonic() {
    for seed in seeds(40) {
        let mut pair = Pair::new(seed);
        for round in 0..500 {
            pair.step(true);
            let mut ask = pair.ask();
            if pair.space.find(&ask.request()).is_err() {
                continue;
            }
            match round % 4 {
                0 => ask.within = None,
                1 if ask.at.is_none() => {
                    ask.align = Some(ask.align.unwrap_or(PAGE) >> pair.rng.below(3)).filter(|a| *a > 0)
                }
                2 => ask.guard = pair.rng.below(ask.guard + 1),
                _ => ask.pages = 1 + pair.rng.below(ask.pages),
            }
            assert!(pair.space.find(&ask.request()).is_ok(), "{ask:?}");
        }
    }
}

/// P10: the highest place is the lowest one of the mirrored space.
#[test]
fn high_mirrors_low() {
    for seed in seeds(40) {
        let mut rng = Rng::new(seed);
        let pages = 1024;
        let mut spaces =
            [VaSpace::new(0..pages * PAGE).expect("limits"), VaSpace::new(0..pages * PAGE).expect("limits")];
        let mirror = |range: &Range<u64>| pages * PAGE - range.end..pages * PAGE - range.start;
        for _ in 0..400 {
            let align = 1 << rng.below(5);
            let mut ask = Ask::new(align * (1 + rng.below(8)), PAGE);
            ask.align = Some(align * PAGE);
            ask.null = true;
            ask.guard = rng.below(2);
            let low = spaces[0].find(&ask.request());
            ask.high = true;
            let high = spaces[1].find(&ask.request());
            let (low, high) = match (low, high) {
                (Ok(low), Ok(high)) => (low.raw(), high.raw()),
                (low, high) => {
                    assert_eq!(low, high);
                    break;
                }
            };
            let range = low..low + ask.pages * PAGE;
            assert_eq!(high, mirror(&range).start);
            for (space, range) in spaces.iter_mut().zip([range.clone(), mirror(&range)]) {
                space.reserve(1).expect("memory");
                space.insert(range, 0).expect("free");
            }
            if rng.one_in(3) {
                let at = rng.below(pages) * PAGE;
                if let Some((range, _)) = spaces[0].next(at).map(|(range, value)| (range, *value)) {
                    spaces[0].remove(range.start).expect("live");
                    spaces[1].remove(mirror(&range).start).expect("live");
                }
            }
        }
    }
}

/// A tree of many levels, in order and out of it, against the map of the standard library.
#[test]
fn deep_trees_stay_sound() {
    for seed in seeds(2) {
        let mut rng = Rng::new(seed);
        let mut space = VaSpace::new(0..1 << 57).expect("limits");
        let mut map = std::collections::BTreeMap::new();
        for step in 0..300_000u64 {
            // Grows, shrinks to little, grows again; in ascending, descending and random order.
            let shrinking = step / 60_000 % 2 == 1;
            let start = match step / 20_000 % 3 {
                0 => step << 20,
                1 => (1 << 56) - (step << 20),
                _ => rng.below(1 << 44) << 12,
            };
            let at = if shrinking { map.range(start..).next().map(|(start, _)| *start) } else { None };
            if let Some(start) = at {
                let end = map.remove(&start).expect("it is there");
                assert_eq!(space.remove(start), Some((start..end, start)));
            } else if space.overlapping(start..start + PAGE).next().is_none() {
                space.reserve(1).expect("memory");
                space.insert(start..start + PAGE, start).expect("free");
                map.insert(start, start + PAGE);
            }
            if step % 10_000 == 0 {
                assert_eq!(space.check(), Ok(()));
                assert!(space.iter().map(|(range, _)| (range.start, range.end)).eq(map.clone()));
            }
        }
    }
}
