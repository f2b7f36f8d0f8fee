//! A trace of what the client does, with neighbours that are written one after the other as one event: whole tables are
//! cleared byte by byte.

use gmmu::device::{Run, Width};
use gmmu_sim::trace::{Event, Tape, Way};

/// No event has more words: what a trace's reader takes.
const RUN_MAX: u32 = 1 << 16;

/// A tape, and the writes that may go on.
#[derive(Debug)]
pub(crate) struct Recording {
    tape: Tape,
    open: Option<(Way, u64, Width, Run)>,
}

impl Recording {
    pub(crate) const fn new(tape: Tape) -> Self {
        Self { tape, open: None }
    }

    /// Writes down what is no write.
    pub(crate) fn note(&mut self, event: &Event) {
        self.close();
        self.tape.note(event);
    }

    /// Writes down a write, now or with those behind it.
    pub(crate) fn write(&mut self, way: Way, at: u64, width: Width, value: u64) {
        if let Some((open_way, from, open_width, run)) = &mut self.open {
            let next = from.wrapping_add(u64::from(run.count) * u64::from(width.bytes()));
            let step = if run.count == 1 { value.wrapping_sub(run.first) } else { run.step };
            let goes_on = run.first.wrapping_add(step.wrapping_mul(run.count.into())) == value;
            if (*open_way, *open_width, next) == (way, width, at) && goes_on && run.count < RUN_MAX {
                (run.step, run.count) = (step, run.count + 1);
                return;
            }
        }
        self.close();
        self.open = Some((way, at, width, Run { first: value, step: 0, count: 1 }));
    }

    /// Writes down what has waited.
    pub(crate) fn close(&mut self) {
        let Some((way, at, width, run)) = self.open.take() else { return };
        let event = match run.count {
            1 => Event::write(way, at, width, run.first),
            _ => Some(Event::WriteRun(way, at, width, run)),
        };
        if let Some(event) = event {
            self.tape.note(&event);
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.close();
    }
}
