//! The Xid lines of NVIDIA's driver, in all dialects.
//!
//! `NVRM: Xid (PCI:0000:2b:00): 31, pid=1234, name=python, Ch 00000023, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC6
//! GPCCLIENT_T1_13 faulted @ 0x6f17_04027000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_WRITE`
//!
//! pid and name came with driver 440 or so, `channel 0x…` replaced `Ch …` and the `GPCn` word came with 580, and a MIG
//! card adds ` GPU-I:05` to its PCI address. Every part may be missing: people paste what they have.

use super::{Access, Fault, Kind, Source};

/// What an Xid line holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Xid {
    /// An MMU fault.
    Fault(Box<Fault>),
    /// Another Xid, by its number.
    Other(u32),
}

/// Reads a line with an Xid, or with the `MMU Fault:` part of one. `None` where the line holds neither.
#[must_use]
pub fn parse(line: &str) -> Option<Xid> {
    let mut fault = Fault::unknown(Source::Nvrm);
    let Some((_, rest)) = line.split_once("Xid (") else {
        let (_, body) = line.split_once("MMU Fault:")?;
        read_body(body, &mut fault);
        return fault.va.is_some().then(|| Xid::Fault(Box::new(fault)));
    };
    let (place, rest) = rest.split_once(')')?;
    // Some versions put the MIG instance outside, and it has a colon of its own.
    let (beside, rest) = rest.split_once(": ")?;
    read_place(&format!("{place} {beside}"), &mut fault);
    let rest = rest.trim_start();
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, rest) = rest.split_at(digits);
    let number: u32 = number.parse().ok()?;
    if number != 31 {
        return Some(Xid::Other(number));
    }
    let (head, body) = rest.split_once("MMU Fault:").unwrap_or((rest, ""));
    read_head(head, &mut fault);
    read_body(body, &mut fault);
    Some(Xid::Fault(Box::new(fault)))
}

/// `PCI:0000:2b:00 GPU-I:05`.
fn read_place(place: &str, fault: &mut Fault) {
    for word in place.split_whitespace() {
        if let Some(instance) = word.strip_prefix("GPU-I:") {
            fault.mig = Some(clean(instance));
        } else if fault.gpu.is_none() {
            fault.gpu = Some(clean(word.strip_prefix("PCI:").unwrap_or(word)));
        }
    }
}

/// `, pid=1234, name=python, Ch 00000023, intr 00000000. `
fn read_head(head: &str, fault: &mut Fault) {
    // A process chooses its own name, commas and all: the channel behind it is looked for from the end.
    let channel_at = [", Ch ", ", channel 0x", ", Channel ID "].iter().filter_map(|mark| head.rfind(mark)).max();
    let (before, channel) = head.split_at(channel_at.unwrap_or(head.len()));
    fault.channel = channel.split([' ', ',', '.']).filter_map(hex_word).next();
    let intr_at = before.rfind(", intr ").unwrap_or(before.len());
    let before = before.get(..intr_at).unwrap_or(before);
    let (before, name) = match before.split_once("name=") {
        Some((before, name)) => (before, Some(name)),
        None => (before, None),
    };
    fault.name = name.map(unquoted).filter(|name| !matches!(*name, "" | "<unknown>")).map(clean);
    let pid = before.split_once("pid=").map(|(_, pid)| unquoted(pid));
    fault.pid = pid.and_then(|pid| pid.parse().ok());
}

/// ` ENGINE GRAPHICS GPC6 GPCCLIENT_T1_13 faulted @ 0x6f17_04027000. Fault is of type FAULT_PDE ACCESS_…`
fn read_body(body: &str, fault: &mut Fault) {
    let (unit, rest) = body.split_once("faulted @").unwrap_or((body, ""));
    let mut words = unit.split_whitespace();
    while let Some(word) = words.next() {
        if word == "ENGINE" {
            fault.engine = words.next().map(clean);
        } else if let Some(gpc) = word.strip_prefix("GPC").and_then(|gpc| gpc.parse().ok()) {
            fault.gpc = Some(gpc);
        } else if word.contains("CLIENT") {
            fault.client = Some(clean(word));
        }
    }
    let (address, rest) = rest.split_once("Fault is of type").unwrap_or((rest, ""));
    fault.va = split_address(address.trim().trim_end_matches('.'));
    for word in rest.split_whitespace().map(|word| word.trim_end_matches(['.', ','])) {
        fault.kind = fault.kind.or_else(|| Kind::from_name(word));
        fault.access = fault.access.or_else(|| Access::from_name(word));
    }
    fault.complete = fault.va.is_some() && fault.kind.is_some() && fault.access.is_some();
}

/// `0x6f17_04027000`: the high word, and the low one with all its eight digits.
fn split_address(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
    match digits.split_once('_') {
        Some((high, low)) if low.len() == 8 => {
            let high = u32::from_str_radix(high, 16).ok()?;
            let low = u32::from_str_radix(low, 16).ok()?;
            Some(u64::from(high) << 32 | u64::from(low))
        }
        Some(_) => None,
        None => u64::from_str_radix(digits, 16).ok(),
    }
}

fn hex_word(word: &str) -> Option<u32> {
    let digits = word.strip_prefix("0x").unwrap_or(word);
    // `Ch` itself is no number, but `c` alone would be one.
    if digits.len() < 2 { None } else { u32::from_str_radix(digits, 16).ok() }
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_end_matches(',').trim_matches('\'').trim()
}

/// Text of a log as it may be printed: no control characters, and no longer than a name.
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: &str) -> Fault {
        match parse(line) {
            Some(Xid::Fault(fault)) => *fault,
            other => panic_with(line, &other),
        }
    }

    #[expect(clippy::panic, reason = "a test says what it saw")]
    fn panic_with(line: &str, other: &Option<Xid>) -> Fault {
        panic!("{line} was read as {other:?}")
    }

    const BODY: &str = "MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_3 faulted @ 0x7f29_5b8c9000. \
                        Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ";

    #[test]
    fn the_newest_dialect() {
        let fault = fault(
            "NVRM: Xid (PCI:0000:2b:00): 31, pid=1234, name=python, channel 0x00000023, intr 00000000. MMU Fault: \
             ENGINE GRAPHICS GPC6 GPCCLIENT_T1_13 faulted @ 0x6f17_04027000. Fault is of type FAULT_PDE \
             ACCESS_TYPE_VIRT_WRITE",
        );
        assert_eq!(fault.gpu.as_deref(), Some("0000:2b:00"));
        assert_eq!(fault.va, Some(0x6f17_0402_7000));
        assert_eq!(fault.kind, Some(Kind::Pde));
        assert_eq!(fault.access.map(Access::name), Some("ACCESS_TYPE_VIRT_WRITE"));
        assert_eq!(fault.engine.as_deref(), Some("GRAPHICS"));
        assert_eq!(fault.client.as_deref(), Some("GPCCLIENT_T1_13"));
        assert_eq!((fault.gpc, fault.channel, fault.pid), (Some(6), Some(0x23), Some(1234)));
        assert_eq!(fault.name.as_deref(), Some("python"));
        assert!(fault.complete);
    }

    #[test]
    fn heads_of_all_ages() {
        for (head, pid, name, channel) in [
            ("31, pid=169800, name=chrome, Ch 00000023, intr 00000000. ", Some(169_800), Some("chrome"), Some(0x23)),
            ("31, Ch 00000010, intr 00000000. ", None, None, Some(0x10)),
            ("31, Ch 00000010, intr 10000000. ", None, None, Some(0x10)),
            ("31, channel 0x0000001a, intr 00000000. ", None, None, Some(0x1a)),
            ("31, pid='<unknown>', name=<unknown>, Ch 0000000c, intr 00000000. ", None, None, Some(0xc)),
            ("31, pid=<unknown>, name=<unknown>, channel 0x0000000c, intr 00000000. ", None, None, Some(0xc)),
            ("31, pid='1234', name=a.out, Ch 00000008, intr 00000000. ", Some(1234), Some("a.out"), Some(8)),
            ("31, pid=7, name=x, Ch 1, y, Ch 00000002, intr 00000000. ", Some(7), Some("x, Ch 1, y"), Some(2)),
            ("31, pid=7, name=my prog, intr 00000000. ", Some(7), Some("my prog"), None),
            ("31, ", None, None, None),
        ] {
            let fault = fault(&format!("NVRM: Xid (PCI:0000:01:00): {head}{BODY}"));
            assert_eq!((fault.pid, fault.name.as_deref(), fault.channel), (pid, name, channel), "{head}");
            assert!(fault.complete, "{head}");
        }
    }

    #[test]
    fn places_of_all_kinds() {
        for (place, gpu, mig) in [
            ("(PCI:0000:2b:00)", "0000:2b:00", None),
            ("(PCI:0000:2b:00 GPU-I:05)", "0000:2b:00", Some("05")),
            ("(PCI:0000:2b:00) GPU-I:05", "0000:2b:00", Some("05")),
            ("(0000:01:00)", "0000:01:00", None),
            ("(PCI:0009:01:00.0)", "0009:01:00.0", None),
        ] {
            let fault = fault(&format!("NVRM: Xid {place}: 31, Ch 00000010, intr 00000000. {BODY}"));
            assert_eq!((fault.gpu.as_deref(), fault.mig.as_deref()), (Some(gpu), mig), "{place}");
        }
    }

    #[test]
    fn bodies_of_all_ages() {
        let body = |text: &str| fault(&format!("NVRM: Xid (PCI:0000:01:00): 31, Ch 00000010, intr 00000000. {text}"));
        let copy = body(
            "MMU Fault: ENGINE CE0 HUBCLIENT_HSCE0 faulted @ 0x0_0abe0000. Fault is of type FAULT_PTE \
             ACCESS_TYPE_VIRT_READ",
        );
        assert_eq!((copy.va, copy.kind), (Some(0x0abe_0000), Some(Kind::Pte)));
        assert_eq!((copy.engine.as_deref(), copy.client.as_deref()), (Some("CE0"), Some("HUBCLIENT_HSCE0")));
        let old = body(
            "MMU Fault: ENGINE GRAPHICS GPCCLIENT_PE_4 faulted @ 0x0_00000000. Fault is of type FAULT_PDE \
             ACCESS_TYPE_READ",
        );
        assert_eq!((old.va, old.access.map(Access::name)), (Some(0), Some("ACCESS_TYPE_VIRT_READ")));
        let unknown = body(
            "MMU Fault: ENGINE HOST7 UNRECOGNIZED_CLIENT faulted @ 0xff_ffff0000. Fault is of type \
             UNRECOGNIZED_FAULT UNRECOGNIZED_ACCESS_TYPE",
        );
        assert_eq!((unknown.va, unknown.kind), (Some(0xff_ffff_0000), Some(Kind::Unrecognized)));
        assert_eq!(unknown.client.as_deref(), Some("UNRECOGNIZED_CLIENT"));
        let poisoned = body(
            "MMU Fault: ENGINE GRAPHICS GPC0 GPCCLIENT_T1_0 faulted @ 0x7f00_00000000. Fault is of type \
             FAULT_INFO_TYPE_POISONED ACCESS_TYPE_VIRT_ATOMIC",
        );
        assert_eq!(poisoned.kind, Some(Kind::Poisoned));
        let cc = body(
            "MMU Fault: ENGINE GRAPHICS GPC0 GPCCLIENT_T1_0 faulted @ 0x7f00_00000000. Fault is of type \
             FAULT_CC_VIOLATION ACCESS_TYPE_PHYS_READ",
        );
        assert_eq!((cc.kind, cc.access.map(|access| access.physical)), (Some(Kind::CcViolation), Some(true)));
    }

    #[test]
    fn prefixes_do_not_matter() {
        for prefix in [
            "",
            "[12345.678901] ",
            "[Sat Nov 22 14:32:01 2026] ",
            "Nov 22 14:32:01 host kernel: ",
            "Nov 22 14:32:01 host kernel: [12345.678901] ",
            "2026-11-22T14:32:01.123456+01:00 host kernel: ",
            "<3>",
            "> ",
        ] {
            let fault = fault(&format!("{prefix}NVRM: Xid (PCI:0000:01:00): 31, Ch 00000010, intr 00000000. {BODY}"));
            assert!(fault.complete, "{prefix}");
        }
    }

    #[test]
    fn parts_of_lines() {
        assert!(fault(BODY).complete);
        let cut = fault("NVRM: Xid (PCI:0000:01:00): 31, Ch 00000010, intr 00000000. MMU Fault: ENGINE GRAPH");
        assert!(!cut.complete);
        assert_eq!(cut.channel, Some(0x10));
        let ancient = fault("NVRM: Xid (PCI:0000:01:00): 31, Ch 00000005, engmask 00000101, intr 10000000");
        assert_eq!((ancient.channel, ancient.va), (Some(5), None));
        assert_eq!(parse("NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."), Some(Xid::Other(79)));
        assert_eq!(parse("NVRM: Xid (PCI:0000:01:00): 310, x"), Some(Xid::Other(310)));
        for line in ["", "NVRM: Xid", "Xid (", "Xid ()", "Xid ():", "MMU Fault:", "MMU Fault: faulted @ 0x1_2. Fault"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
