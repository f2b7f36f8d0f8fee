//! What one cache holds of one table page.

use crate::memory::WORDS;
use crate::order::When;

/// Values of one word that a cache may hold.
pub(crate) type Held = [Option<u64>; 3];

/// One cache (client class, address space, level) and one page.
#[derive(Debug)]
pub(crate) struct Record {
    context: u32,
    level: u8,
    /// An invalidate has to look at it.
    listed: bool,
    cached: [u64; 8],
    /// Words that are cached anew whatever becomes of them.
    watched: [u64; 8],
    /// Operation in which the first word was cached.
    pub(crate) since: u64,
    old: Option<Box<Old>>,
}

/// Words that changed after they were cached.
#[derive(Debug)]
struct Old {
    stale: [u64; 8],
    words: [Past; WORDS],
}

/// What a word was since it was cached. Values between the first and the last are forgotten.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    first: u64,
    /// Before the latest change.
    last: u64,
    changed: When,
}

const fn bit(slot: u16) -> (usize, u64) {
    ((slot >> 6) as usize & 7, 1 << (slot & 63))
}

const fn place(slot: u16) -> usize {
    slot as usize & (WORDS - 1)
}

impl Record {
    pub(crate) const fn new(context: u32, level: u8, op: u64) -> Self {
        Self { context, level, listed: false, cached: [0; 8], watched: [0; 8], since: op, old: None }
    }

    pub(crate) const fn is_of(&self, context: u32, level: u8) -> bool {
        self.context == context && self.level == level
    }

    pub(crate) const fn context(&self) -> u32 {
        self.context
    }

    pub(crate) const fn level(&self) -> u8 {
        self.level
    }

    pub(crate) const fn is_cached(&self, slot: u16) -> bool {
        let (part, mask) = bit(slot);
        self.cached[part] & mask != 0
    }

    const fn is_watched(&self, slot: u16) -> bool {
        let (part, mask) = bit(slot);
        self.watched[part] & mask != 0
    }

    fn past(&self, slot: u16) -> Option<Past> {
        let (part, mask) = bit(slot);
        self.old.as_deref().filter(|old| old.stale[part] & mask != 0).map(|old| old.words[place(slot)])
    }

    /// The outdated value of a cached word that memory holds as `now`, if there is one, and when it changed.
    pub(crate) fn stale(&self, slot: u16, now: u64) -> Option<(u64, When)> {
        let past = self.past(slot)?;
        let last = if self.is_watched(slot) { past.last } else { past.first };
        [past.first, last].into_iter().find(|&word| word != now).map(|word| (word, past.changed))
    }

    /// All that the cache may hold of a word, where memory holds `now`.
    pub(crate) fn held(&self, slot: u16, now: u64) -> Held {
        match self.past(slot) {
            _ if !self.is_cached(slot) => [None; 3],
            None => [Some(now), None, None],
            Some(past) if self.is_watched(slot) => [Some(past.first), Some(past.last), Some(now)],
            Some(past) => [Some(past.first), None, None],
        }
    }

    /// Whether it is new that an invalidate has to look at the record.
    pub(crate) const fn list(&mut self) -> bool {
        !std::mem::replace(&mut self.listed, true)
    }

    pub(crate) const fn cache(&mut self, slot: u16) {
        let (part, mask) = bit(slot);
        self.cached[part] |= mask;
    }

    /// Drops a word, as a cache does that needs room.
    pub(crate) fn evict(&mut self, slot: u16) {
        let (part, mask) = bit(slot);
        self.cached[part] &= !mask;
        if let Some(old) = &mut self.old {
            old.stale[part] &= !mask;
        }
    }

    /// Caches a word for good. Whether that is new.
    pub(crate) const fn watch(&mut self, slot: u16) -> bool {
        let (part, mask) = bit(slot);
        let new = self.watched[part] & mask == 0;
        self.cached[part] |= mask;
        self.watched[part] |= mask;
        new
    }

    /// Leaves a word to the next invalidate. Whether it was cached for good.
    pub(crate) const fn unwatch(&mut self, slot: u16) -> bool {
        let (part, mask) = bit(slot);
        let was = self.watched[part] & mask != 0;
        self.watched[part] &= !mask;
        was
    }

    /// Notes that a cached word, so far `word`, is about to change.
    pub(crate) fn keep(&mut self, slot: u16, word: u64, changed: When) {
        let (part, mask) = bit(slot);
        let old = self.old.get_or_insert_with(|| Box::new(Old { stale: [0; 8], words: [Past::default(); WORDS] }));
        let past = &mut old.words[place(slot)];
        if old.stale[part] & mask == 0 {
            old.stale[part] |= mask;
            past.first = word;
        }
        (past.last, past.changed) = (word, changed);
    }

    /// Forgets what an invalidate covers: (slot, first value, latest change) says whether it does. Whether anything was
    /// outdated.
    pub(crate) fn forget(&mut self, covers: impl Fn(u16, u64, When) -> bool) -> bool {
        let mut outdated = false;
        if let Some(old) = self.old.as_deref_mut() {
            for slot in slots(old.stale) {
                outdated = true;
                let past = old.words[place(slot)];
                if covers(slot, past.first, past.changed) {
                    let (part, mask) = bit(slot);
                    old.stale[part] &= !mask;
                }
            }
        }
        let stale = self.old.as_ref().map_or([0; 8], |old| old.stale);
        if stale == [0; 8] {
            self.old = None;
        }
        for ((cached, stale), watched) in self.cached.iter_mut().zip(stale).zip(self.watched) {
            *cached &= stale | watched;
        }
        self.listed = stale != [0; 8];
        outdated
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cached == [0; 8]
    }

    pub(crate) const fn is_listed(&self) -> bool {
        self.listed
    }

    /// The words that are cached.
    pub(crate) fn words(&self) -> impl Iterator<Item = u16> + use<> {
        slots(self.cached)
    }

    /// Whether any of the words `from .. from + count` is cached.
    pub(crate) fn holds_any(&self, from: u16, count: u16) -> bool {
        (from..from.saturating_add(count).min(512)).any(|slot| self.is_cached(slot))
    }
}

/// The numbers of the bits that are set.
fn slots(bits: [u64; 8]) -> impl Iterator<Item = u16> {
    (0..512).filter(move |&slot| bits[bit(slot).0] & bit(slot).1 != 0)
}
