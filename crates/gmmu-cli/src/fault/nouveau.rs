//! The lines of the driver nouveau.
//!
//! `nouveau 0000:01:00.0: fifo: fault 01 [VIRT_WRITE] at 0000000000510000 engine 40 [GR] client 13 [GPC0/T1_3] reason
//! 02 [PTE] on channel 2 [00ff8b9000 Xorg[1087]]`, and from older versions `read fault at …` or `write fault at …`.
//! Addresses are hex without `0x`. Codes count more than the names beside them, which have changed.

use super::nvrm::clean;
use super::{Access, Fault, Kind, Source};

/// Reads a line with nouveau's message, or the part of it behind `fifo: `. `None` where there is none.
#[must_use]
pub fn parse(line: &str) -> Option<Fault> {
    let (before, rest) = line.split_once(" at ").filter(|(before, _)| opening(before).is_some())?;
    let mut fault = Fault::unknown(Source::Nouveau);
    fault.access = opening(before);
    fault.gpu = before.split_once("nouveau ").and_then(|(_, rest)| rest.split_whitespace().next()).map(device);
    let (address, rest) = word(rest);
    fault.va = u64::from_str_radix(address, 16).ok();
    fault.va?;
    // "engine" must follow: `… fault at …` alone stands in many other messages.
    let rest = rest.trim_start();
    if !rest.is_empty() && !rest.starts_with("engine") {
        return None;
    }
    if let Some((_, name)) = coded(rest, "engine ") {
        fault.engine = name.map(clean);
    }
    if let Some((_, Some(name))) = coded(rest, "client ") {
        read_client(name, &mut fault);
    }
    if let Some((code, name)) = coded(rest, "reason ") {
        fault.kind = reason(code, name);
    }
    read_channel(rest, &mut fault);
    // The process is the last thing in the line, and its bracket the last character.
    fault.complete =
        fault.kind.is_some() && fault.access.is_some() && rest.contains("on channel ") && rest.ends_with(']');
    Some(fault)
}

/// Whether `line` might be the beginning of a message that goes on in the next line.
#[must_use]
pub fn may_begin(line: &str) -> bool {
    // Register accesses fault too, and have lines of their own.
    line.contains("nouveau ") && (line.contains(" fault ") || line.ends_with(" fault")) && !line.contains("MMIO")
}

/// `… fifo: fault 01 [VIRT_WRITE]` or `… fifo: write fault`.
fn opening(before: &str) -> Option<Access> {
    if let Some(before) = before.strip_suffix(" fault") {
        return match before.rsplit([' ', ':']).next() {
            Some("read") => Access::from_code(0),
            Some("write") => Access::from_code(1),
            _ => None,
        };
    }
    let (lead, code) = before.rsplit_once("fault ")?;
    if !(lead.is_empty() || lead.ends_with([' ', ':'])) {
        return None;
    }
    let (code, rest) = word(code);
    let rest = rest.trim();
    let named = rest.is_empty() || (rest.starts_with('[') && rest.ends_with(']'));
    if named { Access::from_code(u64::from_str_radix(code, 16).ok()?) } else { None }
}

fn device(word: &str) -> String {
    clean(word.trim_end_matches(':'))
}

/// The code and the bracketed name behind `key`; the name may be empty, but its brackets must be there.
fn coded<'a>(text: &'a str, key: &str) -> Option<(u64, Option<&'a str>)> {
    let (_, rest) = text.split_once(key)?;
    let (code, rest) = word(rest);
    let code = u64::from_str_radix(code, 16).ok()?;
    let (name, _) = rest.trim_start().strip_prefix('[')?.split_once(']')?;
    Some((code, Some(name.trim()).filter(|name| !name.is_empty())))
}

/// `GPC0/T1_3` or `HUB/HOST`, as NVIDIA's driver would write it.
fn read_client(name: &str, fault: &mut Fault) {
    match name.split_once('/') {
        Some(("HUB", unit)) => fault.client = Some(format!("HUBCLIENT_{}", clean(unit))),
        Some((cluster, unit)) if cluster.starts_with("GPC") => {
            fault.gpc = cluster.strip_prefix("GPC").and_then(|number| u32::from_str_radix(number, 16).ok());
            fault.client = Some(format!("GPCCLIENT_{}", clean(unit)));
        }
        _ => fault.client = Some(clean(name)),
    }
}

/// The fault type: by its code, but code 11 has two meanings, which only the name tells apart.
fn reason(code: u64, name: Option<&str>) -> Option<Kind> {
    match (Kind::from_code(code), name.and_then(Kind::from_name)) {
        (Some(Kind::CompressionFailure), Some(Kind::CcViolation)) => Some(Kind::CcViolation),
        (Some(kind), _) => Some(kind),
        (None, Some(kind)) => Some(kind),
        (None, None) => Some(Kind::Unrecognized),
    }
}

/// `on channel 2 [00ff8b9000 Xorg[1087]]`.
fn read_channel(text: &str, fault: &mut Fault) {
    let Some((_, rest)) = text.split_once("on channel ") else { return };
    let (number, rest) = word(rest);
    // -1: nouveau does not know the channel.
    fault.channel = number.parse().ok();
    let Some(inside) = rest.trim().strip_prefix('[').map(|inside| inside.strip_suffix(']').unwrap_or(inside)) else {
        return;
    };
    let (instance, who) = word(inside);
    fault.instance = u64::from_str_radix(instance, 16).ok().filter(|&at| at != 0);
    let who = who.trim();
    let (name, pid) = match who.strip_suffix(']').and_then(|who| who.rsplit_once('[')) {
        Some((name, pid)) => (name, pid.parse().ok()),
        None => (who, None),
    };
    fault.pid = pid;
    fault.name = Some(clean(name)).filter(|name| !name.is_empty() && name != "unknown");
}

/// The first word, and the rest.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_once(char::is_whitespace).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: &str) -> Fault {
        parse(line).unwrap_or_else(|| Fault::unknown(Source::Nvrm))
    }

    #[test]
    fn the_new_form() {
        let fault = fault(
            "[   12.345678] nouveau 0000:01:00.0: fifo: fault 01 [VIRT_WRITE] at 0000000000510000 engine 40 [gr] \
             client 13 [GPC1/T1_3] reason 02 [PTE] on channel 2 [00ff8b9000 Xorg[1087]]",
        );
        assert_eq!(fault.source, Source::Nouveau);
        assert_eq!(fault.gpu.as_deref(), Some("0000:01:00.0"));
        assert_eq!((fault.va, fault.kind), (Some(0x51_0000), Some(Kind::Pte)));
        assert_eq!(fault.access.map(Access::name), Some("ACCESS_TYPE_VIRT_WRITE"));
        assert_eq!((fault.engine.as_deref(), fault.client.as_deref()), (Some("gr"), Some("GPCCLIENT_T1_3")));
        assert_eq!((fault.gpc, fault.channel, fault.instance), (Some(1), Some(2), Some(0xff_8b9000)));
        assert_eq!((fault.name.as_deref(), fault.pid), (Some("Xorg"), Some(1087)));
    }

    #[test]
    fn the_unknown_channel() {
        let fault = fault(
            "nouveau 0000:01:00.0: fifo: fault 00 [VIRT_READ] at 0000000000001000 engine c0 [BAR2] client 08 \
             [HUB/HOST_CPU_NB] reason 0a [UNSUPPORTED_APERTURE] on channel -1 [0000000000 unknown]",
        );
        assert_eq!((fault.channel, fault.instance, fault.pid), (None, None, None));
        assert_eq!((fault.name, fault.kind), (None, Some(Kind::UnsupportedAperture)));
        assert_eq!(fault.client.as_deref(), Some("HUBCLIENT_HOST_CPU_NB"));
    }

    #[test]
    fn the_old_form_and_names() {
        let old = fault(
            "nouveau 0000:03:00.0: fifo: read fault at 0000a74000 engine 00 [PGRAPH] client 01 [GPC0/T1_0] reason 02 \
             [PAGE_NOT_PRESENT] on channel 2 [007f9d3000 my prog[7][1087]]",
        );
        assert_eq!((old.va, old.kind), (Some(0xa7_4000), Some(Kind::Pte)));
        assert_eq!(old.access.map(Access::name), Some("ACCESS_TYPE_VIRT_READ"));
        assert_eq!((old.name.as_deref(), old.pid), (Some("my prog[7]"), Some(1087)));
        let write = fault("nouveau 0000:03:00.0: gr: write fault at 00001000 engine 00 [] client 01 [] reason 0b []");
        assert_eq!((write.kind, write.engine), (Some(Kind::CompressionFailure), None));
        let cc = fault(
            "nouveau 0000:03:00.0: fifo: fault 00 [VIRT_READ] at 00001000 engine 00 [] client 01 [] reason 0b \
             [CC_VIOLATION]",
        );
        assert_eq!(cc.kind, Some(Kind::CcViolation));
        let new = fault("fault 04 [VIRT_ATOMIC_WEAK] at 00001000 engine 00 [gr] client 01 [GPC0/T1_0] reason 1f []");
        assert_eq!((new.kind, new.gpu), (Some(Kind::Unrecognized), None));
        assert_eq!(new.access.map(Access::name), Some("ACCESS_TYPE_VIRT_ATOMIC"));
    }

    #[test]
    fn other_lines_are_left_alone() {
        for line in [
            "",
            "nouveau 0000:01:00.0: fifo: fault",
            "segfault at 0 ip 00005581 sp 00007ffd error 4 in prog",
            "traps: general protection fault at 0",
            "prog[1]: read fault at the station",
            "page fault at 1000 in kernel",
            "default 01 at 1000 engine",
            "nouveau 0000:01:00.0: bus: MMIO read fault at 022554 [ IBUS ]",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
