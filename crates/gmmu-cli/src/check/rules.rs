//! The rules of `gmmu check`, as data. Ids are an interface: a rule keeps its number, and a number is not used again.

use schemars::JsonSchema;
use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Probably not meant.
    Warning,
    /// Cannot work, or is dangerous.
    Error,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Rule {
    /// `GM001` and so on.
    pub id: &'static str,
    /// Its name, for people.
    pub name: &'static str,
    /// How bad a finding is.
    pub severity: Severity,
    /// What the hardware makes of it.
    pub means: &'static str,
    /// What to do about it.
    pub todo: &'static str,
}

/// Names the rules, in the order of their ids.
macro_rules! rules {
    ($($rule:ident $severity:ident $name:literal $means:literal $todo:literal)*) => {
        $(
            #[doc = $means]
            pub const $rule: Rule = Rule {
                id: stringify!($rule), name: $name, severity: Severity::$severity, means: $means, todo: $todo,
            };
        )*
        /// All rules.
        pub const RULES: &[Rule] = &[$($rule),*];
    };
}

rules! {
    GM001 Error "poison"
        "The word is what a bus reads where nothing answers, or what a debug driver fills dead entries with."
        "See whether the memory could be read when the image was taken: a card off the bus or asleep reads as all ones."
    GM002 Error "undefined"
        "The words have no meaning in this format: a code that is not defined, or a page at a level that has none."
        "See that --mmu and --root are right (`gmmu roots` tries both formats); else something else wrote here."
    GM003 Warning "reserved-bits"
        "Bits are set that the format does not define. Today's hardware may ignore them; the next may not."
        "Look at the code that puts the entry together, first for an address that is too wide."
    GM004 Error "beyond-memory"
        "A table or page lies outside the video memory. The access ends in a fault, or in another's memory."
        "Check the address for a wrong base or shift; for a part of the memory, give --base."
    GM005 Error "misaligned-page"
        "A page lies at an address that is no multiple of its size. The hardware drops the low bits."
        "Map it with smaller pages, or move the memory."
    GM006 Error "misaligned-table"
        "A table lies at an address that is no multiple of its size. The hardware drops the low bits."
        "Allocate directories and 4K tables at multiples of 4 KiB, and 64K tables at multiples of 256 bytes."
    GM007 Error "cycle"
        "An entry points to a table above it. The same words are then read as entries of another level."
        "Look for a table that was freed and used again while it was still linked."
    GM008 Warning "shared-table"
        "Two entries point to one table, so that a change at one address shows at another."
        "Where that is meant, allow the rule; else look for a table that was given out twice."
    GM009 Error "table-mapped-writable"
        "A page of these page tables is mapped in their own space and may be written: who can write there owns the GPU."
        "Unmap it or map it read-only; privileged mappings of a driver are told as well."
    GM010 Warning "behind-root"
        "Something lies in the page of the top table behind its few entries. The hardware does not read it as entries, \
         but its walk cache may fetch it."
        "Give the top table a page of its own, filled with 0."
    GM011 Note "empty-table"
        "A table without an entry. It costs memory, and a fault there is told one level too deep."
        "Give it back with the last entry, unless it waits for the next mapping."
    GM012 Warning "alias-differs"
        "One piece of memory is mapped twice, with different kinds or caching: the two see different bytes, or stale ones."
        "Use the same kind and caching in both, or flush the L2 cache between uses."
    GM013 Warning "both-halves"
        "A 64K page and 4K pages are valid for the same addresses. The 64K page wins; TLBs may hold the others."
        "Clear the 4K entries, with an invalidate, before the 64K page is written."
    GM014 Note "stale-4k"
        "The 64K entry is 0 and its 16 4K entries map one whole 64 KiB of memory in order, as left behind where a 64K \
         page had replaced them: they count again."
        "Where a 64K page was unmapped here, write the no-4K pattern and not 0, or clear the 4K entries."
    GM015 Error "compressible-4k"
        "A compressible kind on a 4K page. The hardware needs pages of at least 64K for it."
        "Use the plain kind of the same layout (`gmmu decode` names it), or larger pages."
    GM016 Note "not-in-source"
        "A table cannot be read in this source, as it lies in system memory or was missing when that was made."
        "Read the whole machine's memory, or take it that this part is not checked."
    GM017 Note "hidden-4k"
        "4K entries are valid where the 64K entry says that there are none, or is sparse. They come alive when it \
         becomes 0."
        "Clear the 4K entries."
    GM018 Error "page-size"
        "A page of a size that the chip does not have."
        "See that --chip is right; else map smaller pages."
}

/// The rule of an id, however it is written: `GM007`, `gm007`, `cycle`.
#[must_use]
pub fn by_name(text: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id.eq_ignore_ascii_case(text) || rule.name.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_count_up_and_everything_is_said() {
        for (number, rule) in (1..).zip(RULES) {
            assert_eq!(rule.id, format!("GM{number:03}"));
            assert!(rule.means.ends_with('.') && rule.todo.ends_with('.'), "{}", rule.id);
            assert_eq!((by_name(rule.id), by_name(rule.name)), (Some(rule), Some(rule)));
        }
    }
}
