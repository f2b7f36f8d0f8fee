//! Progress of long commands: on stderr, only where somebody watches, and only once it has taken a moment.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
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

/// A sign of life for what cannot count its steps: a spinner that a thread of its own turns, until this is dropped.
#[derive(Debug)]
pub struct Waiting(Option<(mpsc::Sender<()>, JoinHandle<bool>)>);

impl Waiting {
    /// Shows that `what` goes on, where somebody watches and it takes a moment.
    #[must_use]
    pub fn new(terminal: Terminal, what: &'static str) -> Self {
        let spin = move |done: mpsc::Receiver<()>| {
            let waits = done.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
            if waits {
                let spinner = bar(what, None);
                spinner.set_style(ProgressStyle::with_template("{msg} {spinner} {elapsed}").unwrap_or(spinner.style()));
                spinner.enable_steady_tick(PATIENCE / 4);
                // The sender goes away with what is waited for.
                let _ = done.recv();
                spinner.finish_and_clear();
            }
            waits
        };
        Self(terminal.err_watched.then(|| {
            let (going, done) = mpsc::channel();
            (going, thread::spawn(move || spin(done)))
        }))
    }

    /// Ends it. Whether anything was shown.
    fn end(&mut self) -> bool {
        let Some((going, thread)) = self.0.take() else { return false };
        drop(going);
        thread.join().unwrap_or(false)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.end();
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
        let mut waiting = Waiting::new(Terminal::default(), "measuring");
        assert!(waiting.0.is_none() && !waiting.end());
    }

    #[test]
    fn who_watches_sees_what_takes_a_moment_and_no_sooner() {
        let watched = Terminal { err_watched: true, ..Terminal::default() };
        let mut progress = Progress::new(watched, "walking", Some(1 << 20));
        progress.advance(STEPS_BETWEEN_LOOKS);
        assert!(progress.bar.is_none(), "it has not taken a moment");
        progress.started = Instant::now().checked_sub(PATIENCE * 2).unwrap_or(progress.started);
        progress.advance(STEPS_BETWEEN_LOOKS);
        let shown = progress.bar.as_ref().map(|bar| (bar.position(), bar.length(), bar.message()));
        assert_eq!(shown, Some((2 * STEPS_BETWEEN_LOOKS, Some(1 << 20), "walking".to_owned())));
        // Beside lines on the same terminal it would only be in the way.
        let both = Terminal { out_watched: true, ..watched };
        let mut beside = Progress::beside_output(both, "walking", None);
        beside.started = progress.started;
        beside.advance(STEPS_BETWEEN_LOOKS);
        assert!(beside.bar.is_none());

        assert!(!Waiting::new(watched, "measuring").end(), "it was over at once");
        let mut long = Waiting::new(watched, "measuring");
        thread::sleep(PATIENCE * 2);
        assert!(long.end());
    }
}
