//! A fault as the hardware writes it: the 32 bytes of a fault buffer's entry, alike from Turing to Blackwell
//! (`NVC369_BUF_ENTRY_*`). Names of engines and units follow from the architecture.

use gmmu::chip::Chip;

use super::{Access, Fault, Kind, Operation, Source};

/// Architecture, table, name and number, from the manuals' lists.
const IDS: &str = include_str!("ids.csv");
const ARCHITECTURES: [(&str, &str); 5] =
    [("tu", "turing"), ("ga", "ampere"), ("ad", "ampere"), ("gh", "hopper"), ("gb", "blackwell")];
/// Subcontexts of the graphics engine: each has an engine number of its own.
const SUBCONTEXTS: u64 = 64;

/// Words of a packet.
type Packet = [u32; 8];

/// Reads 32 bytes in hex, in the order of memory, or eight 32-bit words with spaces or commas between them.
///
/// # Errors
/// What they are instead.
pub fn words(text: &str) -> Result<Packet, String> {
    let pieces: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c == ',' || c == ':')
        .map(|piece| piece.strip_prefix("0x").unwrap_or(piece))
        .filter(|piece| !piece.is_empty())
        .collect();
    let wrong =
        || format!("a packet is 32 bytes in hex (64 digits) or eight 32-bit words, not {}", crate::num::shown(text));
    if !pieces.iter().all(|piece| piece.chars().all(|digit| digit.is_ascii_hexdigit())) {
        return Err(wrong());
    }
    let mut packet = Packet::default();
    if pieces.len() == packet.len() && pieces.iter().all(|piece| piece.len() <= 8) {
        for (word, piece) in packet.iter_mut().zip(pieces) {
            *word = u32::from_str_radix(piece, 16).map_err(|_| wrong())?;
        }
        return Ok(packet);
    }
    let digits = pieces.concat();
    if digits.len() != 64 {
        return Err(wrong());
    }
    for (n, word) in packet.iter_mut().enumerate() {
        let bytes = digits.get(n * 8..n * 8 + 8).and_then(|bytes| u32::from_str_radix(bytes, 16).ok());
        *word = bytes.ok_or_else(wrong)?.swap_bytes();
    }
    Ok(packet)
}

/// The fault that a packet tells of.
///
/// # Errors
/// Why it tells of none.
pub fn parse(packet: Packet, chip: Option<&Chip>) -> Result<Fault, &'static str> {
    let [inst_low, inst_high, at_low, at_high, .., engine, info] = packet.map(u64::from);
    if packet == [u32::MAX; 8] {
        return Err("the packet is all ones: it was read while the card did not answer");
    }
    if info >> 31 == 0 {
        return Err("the packet is not valid: bit 31 of its last word is 0, so the hardware has not written it yet");
    }
    let field = |high: u32, low: u32| info >> low & ((1 << (high - low + 1)) - 1);
    let hub = field(20, 20) == 1;
    let architecture = chip.and_then(|chip| {
        let known = ARCHITECTURES.iter().find(|(start, _)| chip.name.starts_with(start));
        known.map(|(_, architecture)| *architecture)
    });
    let kind = match (Kind::from_code(field(4, 0)), architecture) {
        (Some(Kind::CompressionFailure), Some("blackwell")) => Kind::CcViolation,
        (kind, _) => kind.unwrap_or(Kind::Unrecognized),
    };
    let client = field(14, 8);
    let table = if hub { ("client_hub", "HUBCLIENT_") } else { ("client_gpc", "GPCCLIENT_") };
    let name = named(architecture, table.0, client).map_or_else(|| client.to_string(), str::to_owned);
    let unrecognized = Access { operation: Operation::Unrecognized, physical: false };
    Ok(Fault {
        va: Some(at_high << 32 | at_low & !0xfff),
        kind: Some(kind),
        access: Some(Access::from_code(field(19, 16)).unwrap_or(unrecognized)),
        engine: Some(engine_name(architecture, engine & 0x1ff)),
        client: Some(format!("{}{name}", table.1)),
        gpc: u32::try_from(field(28, 24)).ok().filter(|_| !hub),
        instance: Some(inst_high << 32 | inst_low & !0xfff).filter(|&at| at != 0),
        complete: true,
        line: 1,
        last_line: 1,
        ..Fault::unknown(Source::Packet)
    })
}

/// The engine of a number: numbers from the graphics engine's on are its subcontexts.
fn engine_name(architecture: Option<&str>, id: u64) -> String {
    if let Some(name) = named(architecture, "mmu_eng_id", id) {
        return name.to_owned();
    }
    let is_graphics = |base: &u64| named(architecture, "mmu_eng_id", *base) == Some("GRAPHICS");
    match (id.saturating_sub(SUBCONTEXTS - 1)..id).rev().find(is_graphics) {
        Some(_) => "GRAPHICS".to_owned(),
        None => format!("ENGINE_{id}"),
    }
}

/// The name of a number; without an architecture, where all that have the number agree on it.
fn named(architecture: Option<&str>, table: &str, id: u64) -> Option<&'static str> {
    let mut found = IDS.lines().filter_map(|line| {
        let mut columns = line.split(',');
        let (arch, kind, name, value) = (columns.next()?, columns.next()?, columns.next()?, columns.next()?);
        let wanted = kind == table && architecture.is_none_or(|wanted| wanted == arch) && value.parse() == Ok(id);
        wanted.then_some(name)
    });
    let first = found.next()?;
    // One architecture may have two names for a number; the first is the one that drivers print.
    (architecture.is_some() || found.all(|other| other == first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A write of `T1_0` of cluster 3 at 0x7f1234567000, which found no leaf.
    const PACKET: Packet = [0xff8b_9000, 0, 0x3456_7000, 0x7f12, 0, 0, 64, 1 << 31 | 3 << 24 | 1 << 16 | 2];

    fn fault(packet: Packet, chip: &str) -> Fault {
        parse(packet, Chip::by_name(chip)).unwrap_or_else(|_| Fault::unknown(Source::Nvrm))
    }

    #[test]
    fn every_field_is_where_the_manual_has_it() {
        let fault = fault(PACKET, "tu102");
        assert_eq!((fault.va, fault.kind, fault.gpc), (Some(0x7f12_3456_7000), Some(Kind::Pte), Some(3)));
        assert_eq!((fault.instance, fault.access), (Some(0xff8b_9000), Access::from_code(1)));
        assert_eq!((fault.engine.as_deref(), fault.client.as_deref()), (Some("GRAPHICS"), Some("GPCCLIENT_T1_0")));
    }

    #[test]
    fn names_follow_from_the_architecture() {
        let mut packet = PACKET;
        packet[7] = 1 << 31 | 1 << 20 | 6 << 8 | 11;
        for (chip, graphics, kind) in [
            ("tu102", 64, Kind::CompressionFailure),
            ("ga102", 64, Kind::CompressionFailure),
            ("gh100", 384, Kind::CompressionFailure),
            ("gb202", 384, Kind::CcViolation),
        ] {
            for subcontext in [0, 5] {
                packet[6] = graphics + subcontext;
                let fault = fault(packet, chip);
                assert_eq!(fault.engine.as_deref(), Some("GRAPHICS"), "{chip} {subcontext}");
                assert_eq!((fault.kind, fault.gpc), (Some(kind), None), "{chip}");
                assert_eq!(fault.client.as_deref(), Some("HUBCLIENT_HOST"), "{chip}");
            }
        }
    }

    #[test]
    fn what_is_no_fault_is_said_to_be_none() {
        assert!(parse([0; 8], None).is_err_and(|why| why.contains("not valid")));
        assert!(parse([u32::MAX; 8], None).is_err_and(|why| why.contains("all ones")));
    }

    proptest! {
        #[test]
        fn bytes_and_words_read_alike(packet: [u32; 8]) {
            let bytes: String = packet.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(words(&bytes), Ok(packet));
            let spaced = packet.map(|word| format!("{word:#010x}")).join(", ");
            prop_assert_eq!(words(&spaced), Ok(packet));
            let _ = (parse(packet, None), parse(packet, Chip::by_name("gh100")));
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,80}") {
            let _ = words(&text);
        }
    }
}
