//! The address of a PCI function.

use std::fmt;
use std::str::FromStr;

/// Domain, bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl Bdf {
    /// Reads the name of a folder in `/sys/bus/pci/devices`: only as the kernel writes it.
    #[must_use]
    pub fn of_folder(name: &str) -> Option<Self> {
        name.parse().ok().filter(|bdf: &Self| bdf.to_string() == name)
    }
}

/// Reads `0000:2b:00.0`, and what people paste: without the domain, without the function (as in an Xid line, there with
/// `PCI:` before it), or with the eight digits of `nvidia-smi`.
impl FromStr for Bdf {
    type Err = NoBdf;

    fn from_str(text: &str) -> Result<Self, NoBdf> {
        let named = text.strip_prefix("PCI:").unwrap_or(text);
        let (place, function) = match named.split_once('.') {
            Some((place, function)) => (place, hex(function, 1..=1)?),
            None => (named, 0),
        };
        let parts: Vec<_> = place.splitn(4, ':').collect();
        let (domain, bus, device) = match parts[..] {
            [domain, bus, device] => (hex(domain, 4..=8)?, bus, device),
            // Without domain and function, `2b:00` could as well be a time of day.
            [bus, device] if named.contains('.') => (0, bus, device),
            _ => return Err(NoBdf),
        };
        let part = |value: u32, limit: u8| u8::try_from(value).ok().filter(|&value| value <= limit).ok_or(NoBdf);
        Ok(Self {
            domain,
            bus: part(hex(bus, 2..=2)?, 0xff)?,
            device: part(hex(device, 2..=2)?, 0x1f)?,
            function: part(function, 7)?,
        })
    }
}

fn hex(digits: &str, count: std::ops::RangeInclusive<usize>) -> Result<u32, NoBdf> {
    // `from_str_radix` would take a sign.
    if !count.contains(&digits.len()) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(NoBdf);
    }
    u32::from_str_radix(digits, 16).map_err(|_| NoBdf)
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

/// Text that is no address of a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoBdf;

impl fmt::Display for NoBdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no PCI address: domain, bus, device and function look like 0000:2b:00.0")
    }
}

impl std::error::Error for NoBdf {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_paste_is_read() {
        let card = Bdf { domain: 0, bus: 0x2b, device: 0, function: 0 };
        for text in ["0000:2b:00.0", "2b:00.0", "0000:2B:00", "PCI:0000:2b:00", "00000000:2B:00.0"] {
            assert_eq!(text.parse(), Ok(card), "{text}");
        }
        assert_eq!("10000:e1:1f.7".parse::<Bdf>().map(|bdf| bdf.to_string()), Ok("10000:e1:1f.7".to_owned()));
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            ":",
            ".",
            "0",
            "2b:00",
            "0000:2b:20.0",
            "0000:2b:00.8",
            "0000:2b:00.",
            "0000:2b:00.00",
            "2b.0",
            "0000:2b:00.0.0",
            "0:2b:00.0",
            "000000000:2b:00.0",
            "0000:+b:00.0",
            "0000:2b:0x.0",
            "0000:2b:00:0",
            "é:2b:00.0",
            "0000:2b:00.0 ",
            "PCI:",
            "GPU-3a",
            "a:b:c:d:e",
        ] {
            assert_eq!(text.parse::<Bdf>(), Err(NoBdf), "{text}");
        }
    }

    #[test]
    fn folders_are_named_in_one_way() {
        assert!(Bdf::of_folder("0000:2b:00.0").is_some());
        for name in ["2b:00.0", "0000:2B:00.0", "PCI:0000:2b:00.0", "00000000:2b:00.0", "0000:2b:00"] {
            assert_eq!(Bdf::of_folder(name), None, "{name}");
        }
    }
}
