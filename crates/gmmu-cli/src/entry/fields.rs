//! The bit fields of an entry, by NVIDIA's names.

use std::borrow::Cow;

use gmmu::bits::Field;
use gmmu::format::{EntryKind, Format};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// One field of an entry with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// The field.
    pub field: Field,
    /// Which word of the entry it is in.
    pub word: usize,
    /// Its value.
    pub value: u64,
}

/// The fields of an entry, in the order of its bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<Value>);

impl Fields {
    /// The fields of a word.
    #[must_use]
    pub fn of<F: Format>(kind: EntryKind, raw: u64) -> Self {
        let mut fields = Self::default();
        fields.push::<F>(kind, 0, raw);
        fields
    }

    /// The fields of an entry of a directory or leaf table: one word, or the two of a dual entry. Bit 0 of the first
    /// word tells a leaf from a directory entry.
    #[must_use]
    pub fn of_entry<F: Format>(in_leaf_table: bool, raw: &[u64]) -> Self {
        match *raw {
            [low, high] if low & 1 == 0 => {
                let mut fields = Self::of::<F>(EntryKind::DualBig, low);
                fields.push::<F>(EntryKind::DualSmall, 1, high);
                fields
            }
            [word, ..] if in_leaf_table || word & 1 == 1 => Self::of::<F>(EntryKind::Pte, word),
            [word, ..] => Self::of::<F>(EntryKind::Pde, word),
            [] => Self::default(),
        }
    }

    fn push<F: Format>(&mut self, kind: EntryKind, word: usize, raw: u64) {
        let values = F::fields(kind, raw).iter().map(|&field| Value { field, word, value: field.get(raw) });
        self.0.extend(values);
        self.0.sort_by_key(|value| (value.word, value.field.range().1));
    }

    /// The bits of word `word`, whose value is `raw`, that belong to none of these fields: the hardware's own, 0 in a
    /// sound entry.
    #[must_use]
    pub fn undefined(&self, word: usize, raw: u64) -> u64 {
        let fields = self.0.iter().filter(|value| value.word == word);
        raw & !fields.fold(0, |bits, value| bits | value.field.max() << value.field.range().1)
    }

    /// All fields in one line: `VALID=1 APERTURE=0 …`. Values from 10 on are hex.
    #[must_use]
    pub fn line(&self) -> String {
        let pairs = self.0.iter().map(|Value { field, value, .. }| match value {
            0..10 => format!("{}={value}", field.name),
            _ => format!("{}={value:#x}", field.name),
        });
        pairs.collect::<Vec<_>>().join(" ")
    }
}

impl JsonSchema for Fields {
    fn schema_name() -> Cow<'static, str> {
        "Fields".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": { "type": "integer", "minimum": 0 } })
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for value in &self.0 {
            map.serialize_entry(value.field.name, &value.value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gmmu::format::{V2, V3};

    #[test]
    fn fields_come_in_the_order_of_their_bits() {
        let fields = Fields::of_entry::<V3>(true, &[0x0000_0002_0000_0e01]);
        assert_eq!(fields.line(), "VALID=1 APERTURE=0 PCF=0 KIND=0xe ADDRESS=0x200000");
        let dual = Fields::of_entry::<V2>(false, &[0x8, 0]);
        let names: Vec<_> = dual.0.iter().map(|value| (value.word, value.field.name)).collect();
        assert_eq!(names.first(), Some(&(0, "IS_PTE")));
        assert_eq!(names.last().map(|(word, _)| *word), Some(1));
    }
}
