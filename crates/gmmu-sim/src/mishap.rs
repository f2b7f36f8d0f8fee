//! What can be made to go wrong with a card, so that a driver meets it on purpose.

use crate::gpu::Gpu;
use crate::memory::Space;
use crate::model::Model;
use crate::order::Path;
use crate::pramin::Window;
use crate::regs;
use crate::rng::mix;
use crate::sanitizer::Rule;
use crate::store::{Origin, Source};
use crate::tlb::Tlb;

/// TRIGGER of `NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE`.
const TRIGGER: u32 = 1 << 31;

/// Something that goes wrong: see [`Gpu::inject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mishap {
    /// An invalidate is accepted and does nothing: what a driver would have that forgot it. Invalidates are counted.
    InvalidateSkipped,
    /// An invalidate takes effect, but its trigger bit stays set: for ever, or for so many looks at it. Invalidates are
    /// counted.
    AcknowledgementLost,
    /// The card has left the bus: reads give all-ones, writes are lost. Accesses of BAR0 are counted.
    BusDead,
    /// A write of the window register is lost. Writes of that register are counted.
    WindowWriteLost,
    /// An invalidate reaches another space than the one that it names. Invalidates are counted.
    InvalidateMisdirected,
    /// Reads answer with the bus's error word `0xbadf5040`. Reads of BAR0 are counted.
    Poison,
    /// A bit of an entry flips, in a table that can be reached; the seed of the card picks it. Accesses of BAR0 are
    /// counted.
    BitFlip,
    /// Video memory loses its contents, as by a reset: it holds garbage, the caches hold nothing, and no root is known
    /// until it is named again. Accesses of BAR0 are counted.
    VramLost,
}

impl Mishap {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::InvalidateSkipped,
        Self::AcknowledgementLost,
        Self::BusDead,
        Self::WindowWriteLost,
        Self::InvalidateMisdirected,
        Self::Poison,
        Self::BitFlip,
        Self::VramLost,
    ];
}

/// What a read or write of BAR0 meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meets {
    Nothing,
    /// All-ones; a write is lost.
    DeadBus,
    /// An error word, where it is a read.
    Poison,
}

/// What a unit that does not answer reads as, in each half.
pub(crate) const POISON: u64 = 0xbadf_5040_badf_5040;

/// Events that go well for a while, then do not, then do again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Countdown {
    /// How many events are left that go well.
    good: u64,
    /// How many go wrong after these.
    bad: u64,
}

impl Countdown {
    /// Event number `at`, from 1, is the first of `times` that go wrong.
    pub(crate) const fn new(at: u64, times: u64) -> Self {
        Self { good: at.saturating_sub(1), bad: times }
    }

    /// Another event: whether it goes wrong.
    pub(crate) const fn strikes(&mut self) -> bool {
        if self.good > 0 {
            self.good -= (self.bad > 0) as u64;
            return false;
        }
        let strikes = self.bad > 0;
        // So many events never come: it is for ever.
        self.bad = self.bad.saturating_sub((self.bad != u64::MAX) as u64);
        strikes
    }

    const fn is_armed(&self) -> bool {
        self.bad > 0
    }
}

/// All that is to go wrong with a card.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mishaps {
    skipped: Countdown,
    lost: Countdown,
    /// Looks at the trigger bit for which a lost acknowledgement is kept back, once there is one.
    lost_looks: u64,
    /// The same, of the one that is kept back now.
    held: u64,
    dead: Countdown,
    window: Countdown,
    misdirected: Countdown,
    poison: Countdown,
    flip: Countdown,
    vram_lost: Countdown,
    /// Bits flipped so far.
    flips: u64,
}

impl Model {
    /// Flips a bit of a word of a live table.
    fn flip(&mut self, roll: u64) {
        let tables = self
            .memory
            .cells
            .iter()
            .zip(0u32..)
            .flat_map(|(cell, number)| cell.tables.iter().map(move |table| (number, table.first, table.level)));
        let tables: Vec<_> = tables.collect();
        let Some(count) = std::num::NonZeroU64::new(tables.len() as u64) else { return };
        let picked = usize::try_from(roll % count).ok().and_then(|at| tables.get(at));
        let Some(&(number, first, level)) = picked else { return };
        let slot = first + ((roll >> 32 & 0x1ff) as u16) % self.decoder.table_words(level);
        let cell = self.memory.cell(number);
        let word = cell.word(slot) ^ 1 << (roll >> 48 & 63);
        let at = cell.at(slot);
        self.store_words(Origin::Tables(Path::Settled), Space::of(at), at.raw(), Source::Words(&[word]));
    }

    /// Video memory holds something else, and nobody remembers what it held; `garbage` says what an address holds then.
    pub(crate) fn lose_vram(&mut self, garbage: impl Fn(u64) -> u64) {
        let roots: Vec<u64> = self.roots.keys().copied().collect();
        for root in roots {
            self.drop_root(root);
        }
        self.tlb = Tlb::default();
        self.shortcut = None;
        self.recent.clear();
        self.torn.clear();
        for cell in &mut self.memory.cells {
            cell.lose(&garbage);
        }
    }
}

impl Gpu {
    /// From now on, event number `at` of the kind that the mishap counts (from 1) goes wrong, and all together `times`
    /// of them in a row; `None` for all that follow. Of a lost acknowledgement, `times` are the looks for which it is
    /// kept back. A second call for the same mishap takes the place of the first.
    pub const fn inject(&mut self, mishap: Mishap, at: u64, times: Option<u64>) {
        let times = match times {
            Some(times) => times,
            None => u64::MAX,
        };
        let all = &mut self.mishaps;
        match mishap {
            Mishap::InvalidateSkipped => all.skipped = Countdown::new(at, times),
            Mishap::AcknowledgementLost => (all.lost, all.lost_looks) = (Countdown::new(at, 1), times),
            Mishap::BusDead => all.dead = Countdown::new(at, times),
            Mishap::WindowWriteLost => all.window = Countdown::new(at, times),
            Mishap::InvalidateMisdirected => all.misdirected = Countdown::new(at, times),
            Mishap::Poison => all.poison = Countdown::new(at, times),
            Mishap::BitFlip => all.flip = Countdown::new(at, times),
            Mishap::VramLost => all.vram_lost = Countdown::new(at, times),
        }
    }

    /// Injects up to three mishaps that a seed picks, within the next `events` events of their kinds. What was picked:
    /// (mishap, at, times).
    pub fn inject_from(&mut self, seed: u64, events: u64) -> Vec<(Mishap, u64, Option<u64>)> {
        let pick = |number| {
            let roll = mix(seed, number);
            let mishap = Mishap::ALL[(roll & 7) as usize];
            // Half of them pass.
            let times = if roll >> 8 & 1 == 0 { Some(1 + (roll >> 9 & 3)) } else { None };
            (mishap, 1 + (roll >> 16) % events.max(1), times)
        };
        let picked: Vec<_> = (1..=1 + mix(seed, 0) % 3).map(pick).collect();
        for &(mishap, at, times) in &picked {
            self.inject(mishap, at, times);
        }
        picked
    }

    /// Whether accesses have to come one by one, to be counted.
    pub(crate) const fn counts_accesses(&self) -> bool {
        let all = &self.mishaps;
        all.dead.is_armed() || all.poison.is_armed() || all.flip.is_armed() || all.vram_lost.is_armed()
    }

    /// What an access of BAR0 meets. Memory may go wrong in the same moment.
    pub(crate) fn meet(&mut self, is_read: bool) -> Meets {
        if self.mishaps.flip.strikes() {
            self.mishaps.flips += 1;
            self.model.flip(mix(self.seed, self.mishaps.flips));
        }
        if self.mishaps.vram_lost.strikes() {
            let seed = self.seed;
            self.model.lose_vram(|at| mix(seed, at));
        }
        match self.mishaps.dead.strikes() {
            true => Meets::DeadBus,
            false if is_read && self.mishaps.poison.strikes() => Meets::Poison,
            false => Meets::Nothing,
        }
    }

    /// Whether the invalidate that starts reaches another space.
    pub(crate) const fn misdirects(&mut self) -> bool {
        self.mishaps.misdirected.strikes()
    }

    /// The command register of the invalidates as it reads, where it holds `word`.
    pub(crate) const fn acknowledged(&mut self, offset: u32, word: u32) -> u32 {
        if offset != regs::INVALIDATE || self.mishaps.held == 0 {
            return word;
        }
        if self.mishaps.held != u64::MAX {
            self.mishaps.held -= 1;
        }
        word | TRIGGER
    }

    /// Whether a write of a register is lost on its way.
    pub(crate) fn loses(&mut self, offset: u32, value: u32) -> bool {
        if offset == regs::INVALIDATE && value & TRIGGER != 0 {
            if self.mishaps.held > 0 {
                let what = "an invalidate was triggered while another one ran";
                let finding = self.model.finding(Rule::InvalidateWhileRunning, what);
                self.model.report.add(finding);
                return true;
            }
            if self.mishaps.skipped.strikes() {
                return true;
            }
            if self.mishaps.lost.strikes() {
                self.mishaps.held = self.mishaps.lost_looks;
            }
            return false;
        }
        offset == Window::register(self.chip) && self.mishaps.window.strikes()
    }
}
