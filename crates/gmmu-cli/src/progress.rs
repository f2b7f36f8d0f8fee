//! Progress of long commands: on stderr, only where somebody watches, and only once it has taken a moment.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::console::Terminal;

/// What finishes faster than this shows nothing.
const PATIENCE: Duration = Duration::from_millis(500);
/// How many steps pass between two looks at the clock.
const STEPS_BETWEEN_LOOKS: u64 = 1024;

/// A progress bar that is cheap to move: most steps only count.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: Option<u64>,
    done: u64,
    look_at: u64,
    started: Instant,
    watched: bool,
}

impl Progress {
    /// Progress of `what` while lines are written to stdout all the time: shown only where nobody watches those.
    #[must_use]
    pub fn beside_output(terminal: Terminal, what: &'static str, total: Option<u64>) -> Self {
        let err_watched = terminal.err_watched && !terminal.out_watched;
        Self::new(Terminal { err_watched, ..terminal }, what, total)
    }

    /// Progress of `what`, up to `total` steps where that is known.
    #[must_use]
    pub fn new(terminal: Terminal, what: &'static str, total: Option<u64>) -> Self {
        let started = Instant::now();
        Self { bar: None, what, total, done: 0, look_at: STEPS_BETWEEN_LOOKS, started, watched: terminal.err_watched }
    }

    /// Counts `steps` more.
    pub fn advance(&mut self, steps: u64) {
        self.done = self.done.saturating_add(steps);
        if self.watched && self.done >= self.look_at {
            self.look_at = self.done.saturating_add(STEPS_BETWEEN_LOOKS);
            self.look();
        }
    }

    /// How many steps were counted.
    #[must_use]
    pub const fn done(&self) -> u64 {
        self.done
    }

    fn look(&mut self) {
        if self.bar.is_none() && self.started.elapsed() >= PATIENCE {
            self.bar = Some(bar(self.what, self.total));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        }
    }
}

impl Drop for Progress {
    /// The bar goes away; what the command found out stays.
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &'static str, total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
    let template = match total {
        Some(_) => "{msg} {wide_bar} {percent:>3}% {eta}",
        None => "{msg} {spinner} {human_pos}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_watching_means_no_bar() {
        let mut progress = Progress::new(Terminal::default(), "walking", Some(10));
        progress.started = Instant::now().checked_sub(PATIENCE * 2).unwrap_or(progress.started);
        for _ in 0..10 {
            progress.advance(STEPS_BETWEEN_LOOKS);
        }
        assert_eq!(progress.done(), 10 * STEPS_BETWEEN_LOOKS);
        assert!(progress.bar.is_none());
    }
}
