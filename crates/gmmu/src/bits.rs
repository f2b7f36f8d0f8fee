//! Named bit fields: the one mechanism by which entries and registers are taken apart and put together.
//!
//! A field carries the name that NVIDIA's headers give it, so a value too wide for it is an error that names the field,
//! and a table of fields is also what the program prints. No macro and no panic: the layout is checked by the
//! compiler, since every field is a constant.

/// Bits `hi..=lo` of a word, under the manual's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// NVIDIA's name without the prefix of its group, such as `ADDRESS_VID`.
    pub name: &'static str,
    hi: u32,
    lo: u32,
}

/// A value has more bits than the field that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:#x} does not fit the {width} bits of {field}")]
pub struct TooWide {
    /// Name of the field.
    pub field: &'static str,
    /// The value.
    pub value: u64,
    /// Width of the field in bits.
    pub width: u32,
}

impl Field {
    /// A field from the highest and the lowest bit, both included. Only for constants: a nonsensical range fails the
    /// build.
    pub(crate) const fn new(name: &'static str, hi: u32, lo: u32) -> Self {
        assert!(hi < 64 && lo <= hi, "a field is a non-empty range of the bits 63:0");
        Self { name, hi, lo }
    }

    /// A field of one bit.
    pub(crate) const fn bit(name: &'static str, bit: u32) -> Self {
        Self::new(name, bit, bit)
    }

    /// Highest and lowest bit, as the manual writes them.
    #[must_use]
    pub const fn range(self) -> (u32, u32) {
        (self.hi, self.lo)
    }

    /// Width in bits.
    #[must_use]
    pub const fn width(self) -> u32 {
        self.hi - self.lo + 1
    }

    /// The largest value.
    #[must_use]
    pub const fn max(self) -> u64 {
        u64::MAX >> (64 - self.width())
    }

    /// The field's value in `word`.
    #[must_use]
    pub const fn get(self, word: u64) -> u64 {
        (word >> self.lo) & self.max()
    }

    /// Whether any bit of the field is set in `word`.
    #[must_use]
    pub const fn is_set(self, word: u64) -> bool {
        self.get(word) != 0
    }

    /// `value` at the field's place, all other bits 0.
    ///
    /// # Errors
    /// [`TooWide`]: nothing is ever masked away.
    pub const fn put(self, value: u64) -> Result<u64, TooWide> {
        if value > self.max() {
            return Err(TooWide { field: self.name, value, width: self.width() });
        }
        Ok(value << self.lo)
    }

    /// A one-bit field set to `on`, all other bits 0.
    #[must_use]
    pub const fn flag(self, on: bool) -> u64 {
        if on {
            1 << self.lo
        } else {
            0
        }
    }

    /// All bits of the field.
    #[must_use]
    pub const fn mask(self) -> u64 {
        self.max() << self.lo
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Field = Field::new("WIDE", 63, 0);
    const KIND: Field = Field::new("KIND", 63, 56);

    #[test]
    fn a_value_too_wide_is_an_error_and_never_a_mask() {
        assert_eq!(KIND.put(0xff), Ok(0xff << 56));
        assert_eq!(KIND.put(0x100), Err(TooWide { field: "KIND", value: 0x100, width: 8 }));
        assert_eq!((WIDE.max(), WIDE.mask(), WIDE.put(u64::MAX)), (u64::MAX, u64::MAX, Ok(u64::MAX)));
    }

    proptest::proptest! {
        #[test]
        fn what_is_put_is_got(value in 0u64..0x200_0000, noise: u64) {
            const FRAME: Field = Field::new("FRAME", 32, 8);
            let word = (noise & !FRAME.mask()) | FRAME.put(value).expect("25 bits");
            proptest::prop_assert_eq!(FRAME.get(word), value);
        }
    }
}
