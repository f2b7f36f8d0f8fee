//! The words of an operation, and what to say of those that nobody understands.

use std::collections::{HashMap, VecDeque};

use gmmu::format::Flags;
use gmmu::vmm::Live;

use crate::notation::Size;
use crate::num::{Range, number, range, shown};

/// What a part of reading gives, or what to tell the user.
pub(super) type Read<T> = Result<T, String>;

/// All flags, as they are typed.
pub(super) const FLAGS: [&str; 6] = ["acd", "encrypted", "noatomic", "priv", "ro", "vol"];
/// No flags at all, for `protect`.
pub(super) const NO_FLAGS: &str = "none";
/// How faults beside the range are met.
const LIVES: [&str; 3] = ["quiesced", "replayable", "live"];

/// The words of an operation, taken one by one; what is left over is an error.
pub(super) struct Args<'a> {
    words: VecDeque<&'a str>,
    values: HashMap<&'a str, &'a str>,
    /// All that the operation has asked for by name so far, to compare with what it did not.
    asked: Vec<&'static str>,
}

impl<'a> Args<'a> {
    pub(super) fn read(words: &[&'a str]) -> Read<Self> {
        let (mut plain, mut values) = (VecDeque::new(), HashMap::new());
        for &word in words {
            match word.split_once('=') {
                Some((key, value)) => {
                    if values.insert(key, value).is_some() {
                        return Err(format!("{key}= is there twice"));
                    }
                }
                None => plain.push_back(word),
            }
        }
        Ok(Self { words: plain, values, asked: Vec::new() })
    }

    pub(super) fn take_word(&mut self, what: &str) -> Read<&'a str> {
        self.words.pop_front().ok_or_else(|| format!("{what} is missing"))
    }

    /// A word of the user's own.
    pub(super) fn take_name(&mut self, what: &str) -> Read<String> {
        self.take_word(what).map(ToOwned::to_owned)
    }

    /// One of `known`.
    pub(super) fn take_one_of(&mut self, what: &str, known: &[&'static str]) -> Read<&'a str> {
        let all = known.join(" ");
        let word = self.take_word(&format!("{what} ({all})"))?;
        if known.contains(&word) {
            return Ok(word);
        }
        let near = nearest(word, known.iter().copied());
        let hint = near.map_or_else(|| format!("{what} is one of {all}"), |near| format!("did you mean {near}?"));
        Err(format!("{}: {hint}", shown(word)))
    }

    /// What `key` is where nobody says.
    pub(super) fn default(&mut self, key: &'static str, value: &'static str) {
        self.values.entry(key).or_insert(value);
    }

    /// Takes `word` out, wherever it is among those without a value. Whether it was there.
    pub(super) fn take_plain(&mut self, word: &'static str) -> bool {
        self.asked.push(word);
        let before = self.words.len();
        self.words.retain(|found| *found != word);
        self.words.len() < before
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<&'a str> {
        self.asked.push(key);
        self.values.remove(key)
    }

    /// The same, where it has to be there.
    pub(super) fn need(&mut self, key: &'static str, what: &str) -> Read<&'a str> {
        self.take(key).ok_or_else(|| self.missing(key, what))
    }

    /// That `key` is missing, and what may stand there instead of it.
    pub(super) fn missing(&self, key: &'static str, what: &str) -> String {
        let slips = self.values.keys().copied().filter(|found| !self.asked.contains(found));
        let hint = match (nearest(key, slips), self.words.iter().find_map(|word| range(word).ok())) {
            (Some(slip), _) => format!("; did you mean {key}= by {slip}=?"),
            (None, Some(range)) => format!("; a range is written {}", as_words(range)),
            (None, None) => String::new(),
        };
        format!("{key}= is missing: {what}{hint}")
    }

    pub(super) fn take_number(&mut self, key: &'static str) -> Read<Option<u64>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        number(value).map(Some).map_err(|why| format!("{key}={value}: {why}"))
    }

    /// A number from 1 on.
    pub(super) fn take_count(&mut self, key: &'static str) -> Read<Option<u64>> {
        match self.take_number(key)? {
            Some(0) => Err(format!("{key}=0: the first is 1")),
            count => Ok(count),
        }
    }

    pub(super) fn take_kind(&mut self) -> Read<Option<u8>> {
        let Some(kind) = self.take_number("kind")? else { return Ok(None) };
        u8::try_from(kind).map(Some).map_err(|_| format!("kind={kind}: a kind has 8 bits at most"))
    }

    /// How faults beside the range are met: nobody is there, unless the script says something else.
    pub(super) fn take_live(&mut self) -> Read<Live> {
        let found: Vec<&str> = LIVES.into_iter().filter(|word| self.take_plain(word)).collect();
        match found.as_slice() {
            [] | ["quiesced"] => Ok(Live::Quiesced),
            ["replayable"] => Ok(Live::Replayable),
            ["live"] => Ok(Live::MustNotFault),
            several => Err(format!("{}: only one of them", several.join(" "))),
        }
    }

    /// All that is left are flags.
    pub(super) fn take_flags(&mut self) -> Read<Flags> {
        self.asked.extend(FLAGS);
        if let Some(word) = self.words.iter().find(|word| !FLAGS.contains(word)) {
            return Err(match self.hint(word) {
                Some(hint) => format!("{}: {hint}", shown(word)),
                None => format!("{}: no such flag ({})", shown(word), FLAGS.join(" ")),
            });
        }
        Flags::from_names(self.words.drain(..)).map_err(|word| format!("{word}: no such flag"))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub(super) fn end(self) -> Read<()> {
        let mut rest: Vec<(String, &str)> = self.words.iter().map(|&word| (word.to_owned(), word)).collect();
        rest.extend(self.values.iter().map(|(key, value)| (format!("{key}={value}"), *key)));
        rest.sort();
        let Some((_, first)) = rest.first() else { return Ok(()) };
        let hint = self.hint(first).map(|hint| format!(": {hint}")).unwrap_or_default();
        let rest: Vec<&str> = rest.iter().map(|(word, _)| word.as_str()).collect();
        Err(format!("not understood: {}{hint}", rest.join(" ")))
    }

    /// What somebody may have meant who wrote `word`.
    fn hint(&self, word: &str) -> Option<String> {
        if let Ok(range) = range(word) {
            return Some(format!("a range is written {}", as_words(range)));
        }
        let near = nearest(word, self.asked.iter().copied())?;
        let key = !(FLAGS.contains(&near) || LIVES.contains(&near) || near == NO_FLAGS);
        Some(format!("did you mean {near}{}?", if key { "=" } else { "" }))
    }
}

/// A range as scripts have it.
fn as_words(range: Range) -> String {
    format!("va={:#x} len={}", range.start, Size(range.bytes()))
}

/// The one of `words` that `word` is a slip of, if there is any.
pub(super) fn nearest<'w>(word: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    // Of short words, two letters are too much to be a slip.
    let most = if word.len() <= 4 { 1 } else { 2 };
    let near = words.map(|known| (distance(word, known), known)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, _)| *distance <= most).map(|(_, known)| known)
}

/// How many letters have to be changed, added, left away, or swapped with the next, to make one word of the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().take(32).collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for (n, a) in (1..).zip(&from) {
        let above = &rows[n - 1];
        let mut row = vec![n];
        for (m, b) in (1..).zip(&to) {
            let mut best = (above[m] + 1).min(row[m - 1] + 1).min(above[m - 1] + usize::from(a != b));
            if n > 1 && m > 1 && from[n - 2] == *b && to[m - 2] == *a {
                best = best.min(rows[n - 2][m - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_seen_and_other_words_are_not() {
        let near = |word| nearest(word, ["map", "unmap", "sparse", "protect", "ro", "quiesced"].into_iter());
        assert_eq!(near("mpa"), Some("map"));
        assert_eq!(near("unmpa"), Some("unmap"));
        assert_eq!(near("spares"), Some("sparse"));
        assert_eq!(near("quisced"), Some("quiesced"));
        assert_eq!(near("execute"), None);
        assert_eq!(near("walk"), None);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
