//! Numbers and ranges, as they are typed.
//!
//! `0x` hex or decimal, `_` between digits (so that the `0x725f_fb800000` of a log line reads), and K, M, G, T for
//! powers of 1024 behind decimal ones. A hex number without its `0x` is refused: read as decimal it would be another
//! number, and page tables are no place to guess.

use std::fmt;

/// Why a number or a range does not read, and what would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadNumber(String);

impl fmt::Display for BadNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadNumber {}

fn bad<T>(why: impl Into<String>) -> Result<T, BadNumber> {
    Err(BadNumber(why.into()))
}

/// A range of addresses, not empty: from `start` up to, but not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
}

impl Range {
    /// Length in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.end - self.start
    }
}

/// One address, or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressOrRange {
    /// One address.
    One(u64),
    /// One address in decimal, which addresses rarely are: perhaps its 0x is missing.
    Decimal(u64),
    /// A range.
    Range(Range),
}

/// Reads a number: `0x1f_0000`, `2031616`, `64K`.
///
/// # Errors
/// [`BadNumber`] says what is wrong with the text.
pub fn number(text: &str) -> Result<u64, BadNumber> {
    let value = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => hex(text, digits)?,
        None => decimal(text)?,
    };
    value.map_or_else(|| bad(format!("{} does not fit 64 bits", shown(text))), Ok)
}

/// Reads a range: `A..B` or `A+LEN`.
///
/// # Errors
/// [`BadNumber`] says what is wrong with the text.
pub fn range(text: &str) -> Result<Range, BadNumber> {
    match address_or_range(text)? {
        AddressOrRange::Range(range) => Ok(range),
        AddressOrRange::One(start) | AddressOrRange::Decimal(start) => {
            bad(format!("a range has an end: write {start:#x}+LENGTH or {start:#x}..END, for example {start:#x}+2M"))
        }
    }
}

/// Reads one address or a range: `A`, `A..B`, `A+LEN`.
///
/// # Errors
/// [`BadNumber`] says what is wrong with the text.
pub fn address_or_range(text: &str) -> Result<AddressOrRange, BadNumber> {
    let (start, end) = if let Some((start, end)) = text.split_once("..") {
        if end.starts_with('=') {
            return bad("the end of A..B is exclusive: write the first address behind the range");
        }
        (number(start)?, number(end)?)
    } else if let Some((start, length)) = text.split_once('+') {
        let (start, length) = (number(start)?, number(length)?);
        match start.checked_add(length) {
            Some(end) => (start, end),
            None => return bad(format!("{start:#x}+{length:#x} ends beyond 64 bits")),
        }
    } else {
        let plain = text.len() > 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        return number(text).map(if plain { AddressOrRange::Decimal } else { AddressOrRange::One });
    };
    if end <= start {
        return bad(format!("the range {start:#x}..{end:#x} is empty: its end must be above its start"));
    }
    Ok(AddressOrRange::Range(Range { start, end }))
}

fn hex(text: &str, digits: &str) -> Result<Option<u64>, BadNumber> {
    let plain = without_underscores(text, digits)?;
    if let Some(other) = plain.chars().find(|c| !c.is_ascii_hexdigit()) {
        let why = match other {
            'K' | 'M' | 'G' | 'T' => "K, M, G and T go behind decimal numbers only".to_owned(),
            _ => format!("`{}` is not a hex digit", other.escape_default()),
        };
        return bad(format!("{}: {why}", shown(text)));
    }
    let significant = plain.trim_start_matches('0');
    Ok(if significant.is_empty() { Some(0) } else { u64::from_str_radix(significant, 16).ok() })
}

fn decimal(text: &str) -> Result<Option<u64>, BadNumber> {
    let (digits, shift) = match text.chars().next_back() {
        Some('K') => (text.trim_end_matches('K'), 10),
        Some('M') => (text.trim_end_matches('M'), 20),
        Some('G') => (text.trim_end_matches('G'), 30),
        Some('T') => (text.trim_end_matches('T'), 40),
        _ => (text, 0),
    };
    if shift != 0 && digits.len() + 1 != text.len() {
        return bad(format!("{} has more than one suffix", shown(text)));
    }
    if digits.is_empty() {
        return bad(not_a_number(text));
    }
    if !digits.chars().all(|c| c.is_ascii_digit() || c == '_') {
        return bad(not_a_number(text));
    }
    let plain = without_underscores(text, digits)?;
    if plain.len() > 1 && plain.starts_with('0') {
        return bad(format!(
            "{} starts with 0: if it is hex, write 0x{}; if it is decimal, leave the 0 away",
            shown(text),
            shown(text)
        ));
    }
    let Ok(value) = plain.parse::<u64>() else { return Ok(None) };
    Ok(value.checked_mul(1 << shift))
}

/// `digits` without its underscores, each of which must have a digit on both sides.
fn without_underscores(text: &str, digits: &str) -> Result<String, BadNumber> {
    if digits.is_empty() {
        return bad(format!("{} has no digits", shown(text)));
    }
    if digits.starts_with('_') || digits.ends_with('_') || digits.contains("__") {
        return bad(format!("{}: `_` goes between two digits", shown(text)));
    }
    Ok(digits.replace('_', ""))
}

fn not_a_number(text: &str) -> String {
    if text.is_empty() {
        return "a number is missing".to_owned();
    }
    if text.chars().all(|c| c.is_ascii_hexdigit() || c == '_') {
        return format!("{} is hex without 0x: write 0x{}", shown(text), shown(text));
    }
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '_')).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let unit = unit.to_ascii_uppercase();
    if !digits.is_empty() && matches!(unit.trim_end_matches('B').trim_end_matches('I'), "K" | "M" | "G" | "T") {
        let letter = unit.get(..1).unwrap_or_default();
        return format!(
            "{} has no suffix that is known: write {digits}{letter} (K, M, G, T are powers of 1024)",
            shown(text)
        );
    }
    if text.starts_with('-') {
        return format!("{} is negative", shown(text));
    }
    format!("{} is not a number: write 0x… for hex, or decimal with K, M, G or T behind it", shown(text))
}

/// The text as it goes into a message: escaped, and not longer than a line.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn says(text: &str) -> String {
        number(text).map_or_else(|bad| bad.to_string(), |value| panic_free(text, value))
    }

    fn panic_free(text: &str, value: u64) -> String {
        format!("{text} was read as {value:#x}")
    }

    #[test]
    fn numbers_read() {
        for (text, value) in [
            ("0", 0),
            ("0x0", 0),
            ("4096", 4096),
            ("0x725f_fb800000", 0x725f_fb80_0000),
            ("0x0_0abe0000", 0x0abe_0000),
            ("0XFF", 255),
            ("1_000", 1000),
            ("64K", 65536),
            ("2M", 2 << 20),
            ("96G", 96 << 30),
            ("16T", 16 << 40),
            ("0xffffffffffffffff", u64::MAX),
            ("0x00000000000000000001", 1),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(number(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_does_not_read_says_what_would() {
        for (text, part) in [
            ("1f00", "write 0x1f00"),
            ("725f_fb800000", "write 0x725f_fb800000"),
            ("deadbeef", "hex without 0x"),
            ("00201000", "if it is hex, write 0x00201000"),
            ("64KiB", "write 64K"),
            ("64kb", "write 64K"),
            ("1g", "write 1G"),
            ("0x1G", "behind decimal numbers only"),
            ("0x", "no digits"),
            ("0x_1", "between two digits"),
            ("1__0", "between two digits"),
            ("1_K", "between two digits"),
            ("", "missing"),
            ("-1", "negative"),
            ("K", "not a number"),
            ("1KK", "more than one suffix"),
            ("0x1_0000_0000_0000_0000", "64 bits"),
            ("16777216T", "64 bits"),
            ("99999999999999999999", "64 bits"),
            ("0xgg", "not a hex digit"),
            ("zwölf", "not a number"),
        ] {
            assert!(says(text).contains(part), "{text}: {}", says(text));
        }
    }

    #[test]
    fn ranges_read() {
        assert_eq!(range("0x1000..0x3000"), Ok(Range { start: 0x1000, end: 0x3000 }));
        assert_eq!(range("0x1000+8K"), Ok(Range { start: 0x1000, end: 0x3000 }));
        assert_eq!(address_or_range("0x1000"), Ok(AddressOrRange::One(0x1000)));
        for (text, part) in [
            ("0x1000", "a range has an end"),
            ("0x1000..0x1000", "empty"),
            ("0x2000..0x1000", "empty"),
            ("0x1000+0", "empty"),
            ("0x1000..=0x2000", "exclusive"),
            ("0xffffffffffffffff+2", "beyond 64 bits"),
            ("0x1000..", "missing"),
            ("+4K", "missing"),
        ] {
            let said = range(text).map_or_else(|bad| bad.to_string(), |range| format!("{range:?}"));
            assert!(said.contains(part), "{text}: {said}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,40}") {
            let _ = (number(&text), range(&text), address_or_range(&text));
        }

        #[test]
        fn what_is_printed_reads_back(value: u64) {
            prop_assert_eq!(number(&format!("{value:#x}")), Ok(value));
            prop_assert_eq!(number(&value.to_string()), Ok(value));
        }
    }
}
