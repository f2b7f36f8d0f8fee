//! Whose turn it is: the schedules of a script's threads.

use std::collections::VecDeque;

/// A choice: who could have gone on, and who did.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) able: Vec<usize>,
    pub(super) taken: usize,
}

/// Who goes on where nobody says: whoever did, or the first who can.
pub(super) fn usual(last: Option<usize>, able: &[usize]) -> Option<usize> {
    last.filter(|last| able.contains(last)).or_else(|| able.first().copied())
}

/// Schedules that are still to be tried, as what they begin with: those first in which threads are interrupted least.
///
/// From the beginning on, every thread that could have gone on instead of the one that did makes another schedule, so each
/// one comes once.
#[derive(Debug)]
pub(super) struct Untried(Vec<VecDeque<Vec<usize>>>);

impl Untried {
    /// The schedule that interrupts nobody.
    pub(super) fn new() -> Self {
        Self(vec![VecDeque::from([Vec::new()])])
    }

    /// What the next schedule begins with.
    pub(super) fn next(&mut self) -> Option<Vec<usize>> {
        self.0.iter_mut().find_map(VecDeque::pop_front)
    }

    /// A schedule that began with `begin` choices of its own was tried: those that leave it later are to be.
    pub(super) fn tried(&mut self, begin: usize, choices: &[Choice]) {
        let mut interruptions = 0;
        for (at, choice) in choices.iter().enumerate() {
            let last = at.checked_sub(1).and_then(|before| choices.get(before)).map(|choice| choice.taken);
            let could_go_on = last.is_some_and(|last| choice.able.contains(&last));
            for &other in choice.able.iter().filter(|&&other| at >= begin && other != choice.taken) {
                let cost = interruptions + usize::from(could_go_on && last != Some(other));
                let taken = choices.iter().take(at).map(|choice| choice.taken);
                if self.0.len() <= cost {
                    self.0.resize_with(cost + 1, VecDeque::new);
                }
                if let Some(queue) = self.0.get_mut(cost) {
                    queue.push_back(taken.chain([other]).collect());
                }
            }
            interruptions += usize::from(could_go_on && last != Some(choice.taken));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Two threads of `a` and `b` steps have (a+b)! / a! b! schedules, and all of them come, each once.
    #[test]
    fn every_schedule_comes_once() {
        for (a, b, all) in [(1, 1, 2), (2, 3, 10), (4, 4, 70)] {
            let (mut untried, mut seen, mut interruptions) = (Untried::new(), HashSet::new(), Vec::new());
            while let Some(begin) = untried.next() {
                let (mut left, mut choices) = ([a, b], Vec::<Choice>::new());
                while left != [0, 0] {
                    let able: Vec<usize> = (0..2).filter(|thread| left[*thread] > 0).collect();
                    let said = begin.get(choices.len()).copied();
                    let taken = said.or_else(|| usual(choices.last().map(|c| c.taken), &able)).unwrap_or(0);
                    left[taken] -= 1;
                    choices.push(Choice { able, taken });
                }
                untried.tried(begin.len(), &choices);
                let taken: Vec<usize> = choices.iter().map(|choice| choice.taken).collect();
                let is_interrupted =
                    |pair: &&[Choice]| pair[0].taken != pair[1].taken && pair[1].able.contains(&pair[0].taken);
                interruptions.push(choices.windows(2).filter(is_interrupted).count());
                assert!(seen.insert(taken), "twice");
            }
            assert_eq!(seen.len(), all);
            assert!(interruptions.is_sorted() && interruptions.last() > Some(&0) || all == 2, "{interruptions:?}");
        }
    }
}
