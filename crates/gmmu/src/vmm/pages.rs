//! Changes for good, in one call: prepare, execute, commit.

use super::frames::FramesError;
use super::job::{ExecuteError, Job, Receipt};
use super::request::{Backing, MapRequest, PrepareError, Span};
use super::space::{Mapping, Vmm};
use crate::addr::Pfn;
use crate::device::{Hardware, TablePool};
use crate::format::Format;

/// Why [`Vmm::map_pages`] or [`Vmm::unmap_pages`] failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// It was not prepared; nothing was changed.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The frames do not fit; nothing was changed.
    #[error(transparent)]
    Frames(#[from] FramesError),
    /// It was not executed. Unless the job was begun, nothing was changed; else what it owns is in quarantine.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
}

impl<F: Format> Vmm<F> {
    /// Maps pages for good: prepare, execute, commit. Where there is no memory for tables, empty ones are given back first.
    ///
    /// # Errors
    /// [`MapError`]. A job that was refused is cancelled; one that was begun stays in quarantine.
    pub fn map_pages<H: Hardware, P: TablePool>(
        &mut self,
        hardware: &mut H,
        pool: &mut P,
        request: &MapRequest<'_>,
        frames: &[Pfn],
    ) -> Result<Mapping, MapError> {
        let job = match self.prepare_map(hardware, pool, request) {
            Err(PrepareError::NoSpace(none)) if self.reclaim_pages(hardware, pool)? == 0 => {
                return Err(PrepareError::NoSpace(none).into());
            }
            Err(PrepareError::NoSpace(_)) => self.prepare_map(hardware, pool, request)?,
            prepared => prepared?,
        };
        let receipt = match request.backing {
            Backing::Extents(_) => job.execute(hardware).map_err(|failed| (failed.job, failed.why.into())),
            Backing::Late { .. } => match job.with_frames(frames) {
                Ok(ready) => ready.execute(hardware).map_err(|failed| (failed.job.into_job(), failed.why.into())),
                Err((job, why)) => Err((job, why.into())),
            },
        };
        self.conclude(pool, receipt)
    }

    /// Unmaps what is mapped in a range for good: prepare, execute, commit.
    ///
    /// # Errors
    /// As [`map_pages`](Self::map_pages).
    pub fn unmap_pages<H: Hardware, P: TablePool>(
        &mut self,
        hardware: &mut H,
        pool: &mut P,
        span: impl Into<Span>,
    ) -> Result<Mapping, MapError> {
        let job = self.prepare_unmap(hardware, pool, span)?;
        let receipt = job.execute(hardware).map_err(|failed| (failed.job, failed.why.into()));
        self.conclude(pool, receipt)
    }

    /// Gives empty tables back for good: prepare, execute, commit. Returns how many bytes that were.
    ///
    /// # Errors
    /// As [`map_pages`](Self::map_pages).
    pub fn reclaim_pages<H: Hardware, P: TablePool>(
        &mut self,
        hardware: &mut H,
        pool: &mut P,
    ) -> Result<u64, MapError> {
        let bytes = self.reclaimable();
        if bytes > 0 {
            let job = self.prepare_reclaim(hardware, pool)?;
            let receipt = job.execute(hardware).map_err(|failed| (failed.job, failed.why.into()));
            self.conclude(pool, receipt)?;
        }
        Ok(bytes)
    }

    fn conclude<P: TablePool>(
        &mut self,
        pool: &mut P,
        executed: Result<Receipt, (Job, MapError)>,
    ) -> Result<Mapping, MapError> {
        match executed {
            Ok(receipt) => {
                // Not out of `commit`'s answer: a copy of what was stored just now waits until all stores before it are in
                // the cache, those to the tables too.
                let range = receipt.job.range();
                match self.commit(pool, receipt) {
                    Ok(_) => Ok(Mapping { range }),
                    Err(_) => Err(MapError::Execute(ExecuteError::PredecessorLost)),
                }
            }
            Err((job, why)) => {
                // Where it was begun, the job is dropped, and kept in quarantine.
                let _ = self.cancel(pool, job);
                Err(why)
            }
        }
    }
}
