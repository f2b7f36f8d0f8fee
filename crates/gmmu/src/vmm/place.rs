//! Where a mapping goes: addresses that are free, in the tables as in the records.

use super::piece::smallest_page;
use super::request::{MapRequest, Place, PrepareError};
use super::space::Vmm;
use crate::format::Format;
use crate::va::{VaError, VaRequest};
use core::ops::Range;

impl<F: Format> Vmm<F> {
    /// The addresses of a mapping.
    pub(super) fn choose(&self, request: &MapRequest<'_>, bytes: u64) -> Result<Range<u64>, PrepareError> {
        let limit = self.va.limits().end;
        let smallest = smallest_page(request.kind).bytes();
        let wish = VaRequest::new(bytes);
        let wish = request.page_size().map_or(wish.clone(), |page| wish.align(page.bytes()));
        let mut window = match &request.place {
            Place::At(va) => {
                let end = va.checked_add(bytes).ok_or(PrepareError::Overflow)?;
                if end > limit {
                    return Err(PrepareError::BeyondVa { end, limit });
                }
                return Ok(*va..end);
            }
            Place::Anywhere => 0..limit,
            Place::Within(range) => range.clone(),
        };
        // Addresses that an uncommitted unmap still holds, and sparse ones, are passed over, and tables of firmware's where
        // pages cannot be smaller; each pass leaves one behind.
        let stretches = self.jobs.iter().map(|(_, record)| record.stretches()).sum::<usize>() + self.tree.foreign();
        for _ in 0..=stretches + self.sparse.len() {
            let wish = wish.clone().within(window.clone());
            let mut start = self.va.find(&wish).map_err(PrepareError::NoVa)?.raw();
            if start % smallest != 0 {
                // Found only with the alignment of a page that this kind cannot use.
                start = self.va.find(&wish.align(smallest)).map_err(PrepareError::NoVa)?.raw();
            }
            let range = start..start + bytes;
            let kept = self.jobs.iter().filter_map(|(_, record)| record.keeps(&range));
            let kept = kept.chain(self.foreign_until(&range, request.page_size()));
            match kept.chain(self.sparse.overlapping(range.clone()).map(|window| window.end)).max() {
                None => return Ok(range),
                Some(end) => window.start = end.max(window.start),
            }
            if window.start >= window.end {
                break;
            }
        }
        Err(PrepareError::NoVa(VaError::NoSpace { largest: 0 }))
    }
}
