//! Frames that come between prepare and execute: which pages they are for, and what can be wrong with them.

use super::piece::{Backed, Piece};
use crate::addr::{PageSize, Pfn, PAGE_BYTES};
use crate::storage::{List, NoMemory};
use core::ops::Range;

/// Why frames do not fit a prepared change. The job is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FramesError {
    /// The list has another length than there are pages.
    #[error("{given} frames for {wanted} pages")]
    Count {
        /// Frames in the list.
        given: usize,
        /// Pages that want one.
        wanted: u64,
    },
    /// A frame does not start a page of this size.
    #[error("frame {frame:#x} (number {index} of the list) is not aligned to {page} pages")]
    Unaligned {
        /// The frame number.
        frame: u64,
        /// Its place in the list.
        index: usize,
        /// The size of its page.
        page: PageSize,
    },
    /// A frame lies beyond what can be reached of its aperture: the end of video memory, or what an entry can name.
    #[error(
        "frame {frame:#x} (number {index} of the list) lies beyond what can be reached, which ends at frame {end:#x}"
    )]
    BeyondReach {
        /// The frame number.
        frame: u64,
        /// Its place in the list.
        index: usize,
        /// The first frame that is not there.
        end: u64,
    },
    /// Entries may have been written with other frames already: go on with the [`Ready`](super::Ready) that came back.
    #[error("the job was begun with other frames")]
    Begun,
    /// The change knows its memory already.
    #[error("the job was prepared with its memory, and takes no frames")]
    NotWanted,
}

/// Pages of one mapping that a job needs the frames of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The address of the first page.
    pub va: u64,
    /// How many.
    pub pages: u64,
    /// Their size: that of the list which the mapping was made with.
    pub page: PageSize,
    /// The first frame that cannot be reached.
    pub end: u64,
    /// The caller's number of what is mapped.
    pub object: u64,
    /// The address of the object's first byte: page `(va - mapping) / page` of its list comes first.
    pub mapping: u64,
    /// Where they begin in the job's list.
    first: u64,
}

impl Want {
    fn behind(&self) -> u64 {
        self.va + (self.pages << self.page.shift())
    }

    fn check(&self, frames: &[Pfn]) -> Result<(), FramesError> {
        let per_page = self.page.bytes() / PAGE_BYTES;
        // One test for all of them, which the usual list passes and compilers make wide: no low bit is set, and neither
        // is the sign of any frame or of what is left above it.
        let most = self.end.checked_sub(per_page);
        let (mut low, mut sign) = (0, 0);
        for frame in frames.iter().map(|frame| frame.raw()) {
            low |= frame;
            sign |= frame | most.unwrap_or(0).wrapping_sub(frame);
        }
        if low & (per_page - 1) == 0 && sign >> 63 == 0 && most.is_some_and(|most| most >> 63 == 0) {
            return Ok(());
        }
        let first = usize::try_from(self.first).unwrap_or(usize::MAX);
        for (index, frame) in (first..).zip(frames.iter().map(|frame| frame.raw())) {
            if frame & (per_page - 1) != 0 {
                return Err(FramesError::Unaligned { frame, index, page: self.page });
            }
            if frame.checked_add(per_page).is_none_or(|last| last > self.end) {
                return Err(FramesError::BeyondReach { frame, index, end: self.end });
            }
        }
        Ok(())
    }
}

/// All frames that a job wants, in the order of their addresses.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    list: List<Want>,
}

impl Wants {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    pub(crate) fn as_slice(&self) -> &[Want] {
        &self.list
    }

    /// Notes that `range` of `piece` needs its frames; returns where the first of them is in the job's list.
    pub(crate) fn add(&mut self, range: &Range<u64>, piece: &Piece, end: u64) -> Result<u64, NoMemory> {
        let Backed::Frames { page, .. } = piece.to else { return Ok(0) };
        let mask = page.bytes() - 1;
        let start = range.start & !mask;
        let pages = (range.end - start).div_ceil(page.bytes());
        let (object, mapping) = (piece.object, piece.mapping);
        let mut first = 0;
        if let Some(last) = self.list.last_mut() {
            first = last.first + last.pages;
            // Two parts of one cut page share its frame. Mappings that follow one another at one address may differ in what
            // their frames can reach.
            let alike = (last.object, last.mapping, last.page, last.end) == (object, mapping, page, end);
            if alike && last.va <= start && start <= last.behind() {
                let index = (start - last.va) >> page.shift();
                last.pages = last.pages.max(index + pages);
                return Ok(last.first + index);
            }
        }
        self.list.push(Want { va: start, pages, page, end, object, mapping, first })?;
        Ok(first)
    }

    /// Checks all that can be wrong with `frames`.
    pub(crate) fn check(&self, frames: &[Pfn]) -> Result<(), FramesError> {
        let Some(last) = self.list.last() else { return Err(FramesError::NotWanted) };
        let wanted = last.first + last.pages;
        if frames.len() as u64 != wanted {
            return Err(FramesError::Count { given: frames.len(), wanted });
        }
        let mut rest = frames;
        for want in self.list.iter() {
            let pages = usize::try_from(want.pages).unwrap_or(usize::MAX).min(rest.len());
            let (these, behind) = rest.split_at(pages);
            want.check(these)?;
            rest = behind;
        }
        Ok(())
    }
}
