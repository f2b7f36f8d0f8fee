//! What can be made to go wrong with a card, so that a driver meets it on purpose.

use crate::gpu::Gpu;
use crate::pramin::Window;
use crate::regs;
use crate::sanitizer::Rule;

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
}

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
        }
    }

    /// Whether accesses have to come one by one, to be counted.
    pub(crate) const fn counts_accesses(&self) -> bool {
        self.mishaps.dead.is_armed()
    }

    /// Whether an access of BAR0 meets a card that has left the bus.
    pub(crate) const fn is_off_the_bus(&mut self) -> bool {
        self.mishaps.dead.strikes()
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
