//! Faults in a log: line by line, with messages that were broken over several lines put together again.

use std::collections::{BTreeMap, HashMap};

use super::{Fault, nouveau, nvrm};
use nvrm::Xid;

/// Different faults that are kept; a log with more is cut, and says so.
pub const FAULTS_MAX: usize = 10_000;
/// Lines that look like a fault but do not read, of which the numbers are kept.
const PUZZLES_MAX: usize = 100;
/// How the second part of an Xid 31 begins.
const BODY: &str = "MMU Fault:";
/// Lines that a broken message may go on for.
const CONTINUATIONS_MAX: u32 = 3;

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The faults, in the order of the log.
    pub faults: Vec<Fault>,
    /// How often each other Xid occurred.
    pub other_xids: BTreeMap<u32, u64>,
    /// Numbers of lines that begin like a fault but do not read.
    pub puzzles: Vec<u64>,
    /// Lines read.
    pub lines: u64,
    /// More than [`FAULTS_MAX`] different faults: the rest was not read.
    pub truncated: bool,
}

/// A message whose end has not been seen yet.
#[derive(Debug)]
struct Broken {
    line: u64,
    time: Option<u64>,
    /// The text so far: once with the pieces put together by a space, once without, and all mixtures of that.
    readings: Vec<String>,
    continuations: u32,
}

/// Finds faults in lines.
#[derive(Debug, Default)]
pub struct Parser {
    log: Log,
    /// Where in the log each fault is, by all that its line says.
    places: HashMap<Fault, usize>,
    broken: Option<Broken>,
}

impl Parser {
    /// Reads one line. False when no more are wanted.
    pub fn line(&mut self, number: u64, line: &str) -> bool {
        self.log.lines = number;
        if let Some(broken) = self.broken.take() {
            if begins_message(line) || broken.has_body() && line.contains(BODY) {
                self.settle(broken);
            } else if !self.go_on(broken, line) {
                return !self.log.truncated;
            }
        }
        if self.broken.is_none() {
            self.fresh(number, line);
        }
        !self.log.truncated
    }

    /// What the log holds.
    #[must_use]
    pub fn finish(mut self) -> Log {
        if let Some(broken) = self.broken.take() {
            self.settle(broken);
        }
        self.log
    }

    fn fresh(&mut self, number: u64, line: &str) {
        match read(line) {
            Read::Fault(fault) if fault.complete => self.found(number, time(line), *fault),
            Read::Other(xid) => *self.log.other_xids.entry(xid).or_default() += 1,
            Read::Nothing => {}
            // Half a message: the rest may be on the next line.
            Read::Fault(_) | Read::Half => {
                let readings = vec![line.to_owned()];
                self.broken = Some(Broken { line: number, time: time(line), readings, continuations: 0 });
            }
        }
    }

    /// Adds `line` to a broken message. True when `line` turned out to be no part of it.
    fn go_on(&mut self, mut broken: Broken, line: &str) -> bool {
        let piece = without_prefix(line);
        let mut readings = Vec::with_capacity(broken.readings.len() * 2);
        for text in &broken.readings {
            readings.push(format!("{text} {piece}"));
            readings.push(format!("{text}{piece}"));
        }
        for text in &readings {
            if let Read::Fault(fault) = read(text)
                && fault.complete
            {
                self.found(broken.line, broken.time, *fault);
                return false;
            }
        }
        broken.continuations += 1;
        if broken.continuations >= CONTINUATIONS_MAX {
            self.settle(broken);
            return true;
        }
        broken.readings.extend(readings);
        // The shorter readings stay: a line that did not belong must not spoil what was there.
        self.broken = Some(broken);
        // Other messages in between are read for themselves.
        if let Read::Other(xid) = read(line) {
            *self.log.other_xids.entry(xid).or_default() += 1;
        }
        false
    }

    /// Takes what is there of a message that does not go on.
    fn settle(&mut self, broken: Broken) {
        let first = broken.readings.first().map_or(Read::Nothing, |text| read(text));
        match first {
            Read::Fault(fault) => self.found(broken.line, broken.time, *fault),
            Read::Half | Read::Other(_) | Read::Nothing => {
                if self.log.puzzles.len() < PUZZLES_MAX {
                    self.log.puzzles.push(broken.line);
                }
            }
        }
    }

    fn found(&mut self, line: u64, time: Option<u64>, fault: Fault) {
        // A fault that repeats can fill a log: it must not keep the others out.
        if let Some(known) = self.places.get(&fault).and_then(|&place| self.log.faults.get_mut(place)) {
            known.count += 1;
            known.last_line = line;
            known.times = known.times.map(|(first, last)| (first, time.unwrap_or(last)));
            return;
        }
        if self.log.faults.len() >= FAULTS_MAX {
            self.log.truncated = true;
            return;
        }
        self.log.faults.push(Fault { line, last_line: line, times: time.map(|time| (time, time)), ..fault.clone() });
        self.places.insert(fault, self.log.faults.len() - 1);
    }
}

impl Broken {
    /// Whether the text has reached its second part, so that another one belongs to another message.
    fn has_body(&self) -> bool {
        self.readings.first().is_some_and(|text| text.contains(BODY))
    }
}

enum Read {
    Fault(Box<Fault>),
    Other(u32),
    Half,
    Nothing,
}

fn read(line: &str) -> Read {
    match nvrm::parse(line) {
        Some(Xid::Fault(fault)) => return Read::Fault(fault),
        Some(Xid::Other(number)) => return Read::Other(number),
        None => {}
    }
    match nouveau::parse(line) {
        Some(fault) => Read::Fault(Box::new(fault)),
        None if nouveau::may_begin(line) || begins_xid(line) => Read::Half,
        None => Read::Nothing,
    }
}

fn begins_xid(line: &str) -> bool {
    line.contains("NVRM: Xid") || line.contains("MMU Fault: ENGINE")
}

fn begins_message(line: &str) -> bool {
    line.contains("NVRM: ") || line.contains("nouveau ") || line.contains("Xid (")
}

/// A line without what a logger put in front of it: `Nov 22 14:32:01 host kernel: `, `[12345.678901] `.
fn without_prefix(line: &str) -> &str {
    let line = line.split_once("kernel: ").map_or(line, |(_, rest)| rest).trim_start();
    let Some((stamp, rest)) = line.strip_prefix('[').and_then(|line| line.split_once(']')) else { return line };
    let is_time = stamp.contains(['.', ':']) && stamp.contains(|c: char| c.is_ascii_digit());
    if is_time { rest.trim_start() } else { line }
}

/// When the kernel printed a line, in microseconds: the `[12345.678901]` in front of its message.
fn time(line: &str) -> Option<u64> {
    let (before, rest) = line.split_once('[')?;
    // What stands in front of it is the date and host of a logger, or nothing.
    let stamp = rest.split_once(']').filter(|_| before.is_empty() || before.ends_with("kernel: "))?.0;
    let (seconds, fraction) = stamp.trim().split_once('.')?;
    if fraction.len() != 6 {
        return None;
    }
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(fraction.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, Source};
    use super::*;
    use proptest::prelude::*;

    fn log(text: &str) -> Log {
        let mut parser = Parser::default();
        for (number, line) in (1..).zip(text.lines()) {
            parser.line(number, line);
        }
        parser.finish()
    }

    const XID: &str = "NVRM: Xid (PCI:0000:2b:00): 31, pid=1234, name=python, Ch 00000023, intr 00000000. MMU Fault: \
                       ENGINE GRAPHICS GPC6 GPCCLIENT_T1_13 faulted @ 0x6f17_04027000. Fault is of type FAULT_PDE \
                       ACCESS_TYPE_VIRT_WRITE";
    const NOUVEAU: &str = "nouveau 0000:01:00.0: fifo: fault 01 [VIRT_WRITE] at 0000000000510000 engine 40 [gr] client \
                           13 [GPC1/T1_3] reason 02 [PTE] on channel 2 [00ff8b9000 Xorg[1087]]";

    #[test]
    fn a_log_keeps_order_and_counts_the_rest() {
        let log = log(&format!(
            "usb 1-1: new device\n{XID}\nNVRM: Xid (PCI:0000:2b:00): 43, Ch 00000023\n{NOUVEAU}\n\
             NVRM: Xid (PCI:0000:2b:00): 43, Ch 00000024\n"
        ));
        let found: Vec<_> = log.faults.iter().map(|fault| (fault.line, fault.source)).collect();
        assert_eq!(found, [(2, Source::Nvrm), (4, Source::Nouveau)]);
        assert_eq!(log.other_xids, BTreeMap::from([(43, 2)]));
        assert_eq!((log.lines, log.puzzles.len(), log.truncated), (5, 0, false));
    }

    #[test]
    fn the_kernels_own_times_are_read() {
        assert_eq!(time("[   12.345678] NVRM: Xid"), Some(12_345_678));
        assert_eq!(time("Nov 22 14:32:01 host kernel: [  812.100001] NVRM: Xid"), Some(812_100_001));
        for none in ["NVRM: Xid", "[Nov22 14:32] NVRM", "x [ 1.000000] y", "[99999999999999999999.000000]", "[1.5] x"] {
            assert_eq!(time(none), None, "{none}");
        }
        let twice = log(&format!("[    1.000000] {XID}\n[    1.500000] {XID}\n{XID}\n"));
        assert_eq!(twice.faults.first().map(|fault| fault.times), Some(Some((1_000_000, 1_500_000))));
    }

    #[test]
    fn messages_broken_anywhere_are_put_together() {
        for (message, stamp) in [(NOUVEAU, "[   12.345678] "), (XID, "Nov 22 14:32:01 host kernel: [  12.345678] ")] {
            let whole = log(message).faults;
            // The first break may only come where the message is recognised already.
            for first in 40..message.len() {
                let (a, rest) = message.split_at(first);
                let broken = log(&format!("{stamp}{a}\n{stamp}{rest}\n"));
                let (Some(fault), Some(wanted)) = (broken.faults.first(), whole.first()) else {
                    assert!(first < 45, "broken at {first}: {broken:?}");
                    continue;
                };
                assert_eq!((fault.va, fault.kind), (wanted.va, wanted.kind), "broken at {first}");
            }
        }
        let three = NOUVEAU.replace(" engine", "\n[ 1.0] engine").replace(" reason", "\n[ 1.0] reason");
        assert_eq!(log(&three).faults.first().and_then(|fault| fault.kind), Some(Kind::Pte));
    }

    #[test]
    fn half_a_message_does_not_eat_the_next_one() {
        let half = XID.split_at(110).0;
        let log = log(&format!("{half}\n{XID}\n{half}\n"));
        let found: Vec<_> =
            log.faults.iter().map(|fault| (fault.complete, fault.line, fault.count, fault.last_line)).collect();
        assert_eq!(found, [(false, 1, 2, 3), (true, 2, 1, 2)]);
    }

    #[test]
    fn half_a_body_does_not_eat_the_next_one() {
        let body = |at: &str| XID.split_at(XID.find(BODY).unwrap_or(0)).1.replace("6f17", at);
        let (one, two) = (body("0"), body("1"));
        let cut = one.split(" Fault is").next().unwrap_or_default();
        let found = log(&format!("{cut}\n{two}\n")).faults;
        let seen: Vec<_> = found.iter().map(|fault| (fault.va, fault.complete)).collect();
        assert_eq!(seen, [(Some(0x0402_7000), false), (Some(0x1_0402_7000), true)]);
    }

    #[test]
    fn what_looks_like_a_fault_but_is_none_is_named() {
        assert_eq!(log("NVRM: Xid 31 happened\nall is well").puzzles, [1]);
        let register = "nouveau 0000:01:00.0: bus: MMIO read fault at 022554 [ IBUS ]";
        assert!(log(register).puzzles.is_empty(), "a fault, but none of the MMU");
    }

    proptest! {
        #[test]
        fn nothing_panics(lines in proptest::collection::vec("\\PC{0,120}", 0..8)) {
            log(&lines.join("\n"));
        }

        #[test]
        fn damaged_messages_do_not_panic(
            cuts in proptest::collection::vec((0usize..220, "[\\PC\\n]{0,6}"), 1..6),
            nouveau: bool,
        ) {
            let mut text: Vec<char> = if nouveau { NOUVEAU } else { XID }.chars().collect();
            for (at, piece) in cuts {
                let at = at.min(text.len());
                let end = (at + piece.len()).min(text.len());
                text.splice(at..end, piece.chars());
            }
            let found = log(&text.into_iter().collect::<String>());
            prop_assert!(found.faults.len() <= 8);
        }
    }
}
