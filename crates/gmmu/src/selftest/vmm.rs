//! Self-tests of address spaces: do the tables in memory say what was asked for, and do jobs keep their order?
//!
//! [`run`] makes a space of its own, which nothing translates through, and ends it again. It judges by walking the tables
//! in memory; whether the GPU follows them is [`bar1`](super::bar1)'s to see.

use core::ops::Range;

use super::{base_of, Bench, Check, Seen, SelftestError, Sight, Tally};
use crate::addr::{PageSize, PhysAddr, TableAddr, PAGE_BYTES};
use crate::device::{Hardware, NoTableMemory, TablePool};
use crate::format::{Flags, Format, SMALL_TABLE};
use crate::vmm::{ExecuteError, Extent, Job, MapRequest, PrepareError, Protection, SpaceConfig, Vmm};
use crate::walk::Outcome;

/// Where most checks map: not at a border of anything.
const HERE: u64 = 0x40_0040_0000;
/// Where no check has left a table: whoever maps there first brings one.
const NEW: u64 = HERE + (64 << 20);
/// Far enough from there to share no table with it but the upper ones.
const FAR: u64 = HERE + (1 << 30);

/// Runs every check in a new space of `config`, and hands each result to `report`. Tables come from `pool` and go back to
/// it; of `memory`, video memory that nobody else uses, only addresses are used: [`BYTES_MIN`](super::BYTES_MIN) at least.
///
/// # Errors
/// [`SelftestError`] where no check could be made. A card that fails a check, or stops answering, is no error; what its
/// space then holds of the pool is lost.
pub fn run<F: Format, H: Hardware, P: TablePool>(
    hardware: &mut H,
    config: SpaceConfig,
    pool: &mut P,
    memory: Range<u64>,
    report: impl FnMut(&Check),
) -> Result<Tally, SelftestError> {
    let base = base_of(memory, config.vram_bytes, PageSize::Size2M.bytes())?;
    let mut bench = Bench::new(report);
    let mut pool = Counted { pool, out: 0, allowed: u64::MAX };
    let vmm = match Vmm::<F>::create(config, hardware, &mut pool) {
        Ok(vmm) => vmm,
        Err(why) => {
            bench.look("an empty space leads nowhere", nowhere(HERE), Err::<Sight, _>(why));
            return Ok(bench.tally);
        }
    };
    let mut bed = Bed { hardware, vmm, pool, base };
    bench.look("an empty space leads nowhere", nowhere(HERE), bed.leads(HERE));
    bed.mappings(&mut bench);
    bed.order(&mut bench);
    bed.failures(&mut bench);
    let Bed { hardware, vmm, mut pool, .. } = bed;
    let closed = vmm.close(hardware, &mut pool);
    let seen = closed.map_err(|(_, why)| why).map(|()| Sight::Tables(pool.out));
    bench.look("all tables come back at the end", Sight::Tables(0), seen);
    Ok(bench.tally)
}

const fn nowhere(va: u64) -> Sight {
    Sight::Leads { va, to: None }
}

/// A pool that counts what is out, and runs dry when a check wants it to.
struct Counted<'p, P> {
    pool: &'p mut P,
    out: usize,
    allowed: u64,
}

impl<P: TablePool> TablePool for Counted<'_, P> {
    fn take(&mut self, bytes: u64, near: Option<TableAddr>) -> Result<TableAddr, NoTableMemory> {
        let allowed = self.allowed.checked_sub(1).ok_or(NoTableMemory { bytes })?;
        let at = self.pool.take(bytes, near)?;
        (self.allowed, self.out) = (allowed, self.out.saturating_add(1));
        Ok(at)
    }

    fn give(&mut self, at: TableAddr, bytes: u64) {
        self.out = self.out.saturating_sub(1);
        self.pool.give(at, bytes);
    }
}

/// What the checks work with.
struct Bed<'h, 'p, F: Format, H, P> {
    hardware: &'h mut H,
    vmm: Vmm<F>,
    pool: Counted<'p, P>,
    base: u64,
}

impl<F: Format, H: Hardware, P: TablePool> Bed<'_, '_, F, H, P> {
    fn page(&self, n: u64) -> PhysAddr {
        PhysAddr::vram(self.base + n * PAGE_BYTES)
    }

    fn extent(&self, n: u64) -> Extent {
        Extent { to: self.page(n), bytes: PAGE_BYTES }
    }

    fn prepare(&mut self, va: u64, extents: &[Extent]) -> Result<Job, PrepareError> {
        self.vmm.prepare_map(self.hardware, &mut self.pool, &MapRequest::extents(extents).at(va))
    }

    fn finish(&mut self, job: Job) -> Result<(), Sight> {
        let receipt = job.execute(self.hardware).map_err(|failed| failed.why)?;
        self.vmm.commit(&mut self.pool, receipt).map_err(|(_, why)| why)?;
        Ok(())
    }

    fn map(&mut self, va: u64, extents: &[Extent]) -> Result<(), Sight> {
        let job = self.prepare(va, extents)?;
        self.finish(job)
    }

    fn unmap(&mut self, range: Range<u64>) -> Result<(), Sight> {
        let job = self.vmm.prepare_unmap(self.hardware, &mut self.pool, range)?;
        self.finish(job)
    }

    fn outcome(&mut self, va: u64) -> Result<Outcome, Sight> {
        Ok(self.vmm.read_mapping(self.hardware, va)?.outcome)
    }

    fn leads(&mut self, va: u64) -> Seen {
        let to = match self.outcome(va)? {
            Outcome::Mapped { to, .. } => Some(to),
            _ => None,
        };
        Ok(Sight::Leads { va, to })
    }

    /// What the first of these addresses that does not lead where it should leads to.
    fn all_lead(&mut self, pages: &[(u64, Option<PhysAddr>)]) -> Seen {
        for &(va, to) in pages {
            let seen = self.leads(va)?;
            if seen != (Sight::Leads { va, to }) {
                return Ok(seen);
            }
        }
        Ok(Sight::AllLead { pages: u32::try_from(pages.len()).unwrap_or(u32::MAX) })
    }

    /// Pages by themselves.
    fn mappings(&mut self, bench: &mut Bench<impl FnMut(&Check)>) {
        let borders = F::LEVELS.len();
        let pages = u32::try_from(2 * borders).unwrap_or(u32::MAX);
        bench.look("two pages across every border", Sight::AllLead { pages }, self.across_borders());
        bench.look("an unmapped page is gone, others stay", Sight::AllLead { pages: 3 }, self.unmapped());
        bench.look("64K and 2M pages", Sight::AllLead { pages: 4 }, self.large_pages());
        bench.look("a read-only page says so", Sight::ReadOnly(true), self.read_only(false));
        bench.look("a page that becomes read-only says so", Sight::ReadOnly(true), self.read_only(true));
    }

    /// A page on either side of every border at which a table of some level ends.
    fn across_borders(&mut self) -> Seen {
        let extents = [self.extent(7), self.extent(3)];
        let mut pages = 0;
        for level in F::LEVELS {
            let border = level.span();
            let range = border - PAGE_BYTES..border + PAGE_BYTES;
            self.map(range.start, &extents)?;
            let [first, second] = extents.map(|extent| Some(extent.to));
            let seen = self.all_lead(&[(range.start, first), (border, second)]);
            self.unmap(range)?;
            match seen? {
                Sight::AllLead { pages: right } => pages += right,
                wrong => return Ok(wrong),
            }
        }
        Ok(Sight::AllLead { pages })
    }

    fn unmapped(&mut self) -> Seen {
        let extents = [self.extent(1), self.extent(2), self.extent(5)];
        self.map(HERE, &extents)?;
        let (middle, last) = (HERE + PAGE_BYTES, HERE + 2 * PAGE_BYTES);
        self.unmap(middle..last)?;
        let seen = self.all_lead(&[(HERE, Some(self.page(1))), (middle, None), (last, Some(self.page(5)))]);
        self.unmap(HERE..last + PAGE_BYTES)?;
        seen
    }

    fn large_pages(&mut self) -> Seen {
        let (big, huge) = (PageSize::Size64K, PageSize::Size2M);
        let next = HERE + huge.bytes();
        for (va, page) in [(HERE, huge), (next, big)] {
            let extents = [Extent { to: self.page(0), bytes: page.bytes() }];
            let request = MapRequest::extents(&extents).at(va).page(page);
            let job = self.vmm.prepare_map(self.hardware, &mut self.pool, &request)?;
            self.finish(job)?;
        }
        let (last_huge, last_big) = (huge.bytes() - 1, big.bytes() - 1);
        let to = |offset| Some(PhysAddr::vram(self.base + offset));
        let pages = [(HERE, to(0)), (HERE + last_huge, to(last_huge)), (next, to(0)), (next + last_big, to(last_big))];
        let seen = self.all_lead(&pages);
        self.unmap(HERE..next + big.bytes())?;
        seen
    }

    fn read_only(&mut self, later: bool) -> Seen {
        let flags = Flags { read_only: true, ..Flags::NONE };
        let extents = [self.extent(1)];
        let first = if later { Flags::NONE } else { flags };
        let request = MapRequest::extents(&extents).at(HERE).flags(first);
        let job = self.vmm.prepare_map(self.hardware, &mut self.pool, &request)?;
        self.finish(job)?;
        let range = HERE..HERE + PAGE_BYTES;
        if later {
            let to = Protection::flags(flags);
            let job = self.vmm.prepare_protect(self.hardware, &mut self.pool, range.clone(), to)?;
            self.finish(job)?;
        }
        let found = self.outcome(HERE)?;
        self.unmap(range)?;
        Ok(match found {
            Outcome::Mapped { leaf, .. } => Sight::ReadOnly(leaf.flags.read_only),
            _ => nowhere(HERE),
        })
    }

    /// Jobs beside and behind one another.
    fn order(&mut self, bench: &mut Bench<impl FnMut(&Check)>) {
        match self.two_jobs(NEW, NEW + PAGE_BYTES) {
            Ok((waited, both)) => {
                bench.look("the later of two jobs for a table waits", Sight::Waits, Ok::<_, Sight>(waited));
                bench.look("after both, both pages are there", Sight::AllLead { pages: 2 }, both);
            }
            Err(why) => bench.look("the later of two jobs for a table waits", Sight::Waits, Err::<Sight, _>(why)),
        }
        match self.two_jobs(NEW, FAR) {
            Ok((done, both)) => {
                bench.look("jobs far apart go in any order", Sight::Done, Ok::<_, Sight>(done));
                bench.look("after those, both pages are there", Sight::AllLead { pages: 2 }, both);
            }
            Err(why) => bench.look("jobs far apart go in any order", Sight::Done, Err::<Sight, _>(why)),
        }
    }

    /// Prepares two jobs and executes the later one first: what that came to, and what both came to in the end.
    fn two_jobs(&mut self, first: u64, second: u64) -> Result<(Sight, Seen), Sight> {
        let extents = [[self.extent(1)], [self.extent(4)]];
        let [one, other] = &extents;
        let earlier = self.prepare(first, one)?;
        let later = match self.prepare(second, other) {
            Ok(job) => job,
            Err(why) => {
                let _ = self.vmm.cancel(&mut self.pool, earlier);
                return Err(why.into());
            }
        };
        let tried = match later.execute(self.hardware) {
            Ok(receipt) => {
                self.vmm.commit(&mut self.pool, receipt).map_err(|(_, why)| why)?;
                Sight::Done
            }
            Err(failed) if failed.why == ExecuteError::NotYet => {
                self.finish(earlier)?;
                self.finish(failed.job)?;
                return Ok((Sight::Waits, self.both(first, second)));
            }
            Err(failed) => return Err(failed.why.into()),
        };
        self.finish(earlier)?;
        Ok((tried, self.both(first, second)))
    }

    fn both(&mut self, first: u64, second: u64) -> Seen {
        let seen = self.all_lead(&[(first, Some(self.page(1))), (second, Some(self.page(4)))]);
        self.unmap(first..first + PAGE_BYTES)?;
        self.unmap(second..second + PAGE_BYTES)?;
        seen
    }

    /// What cannot be done, and leaves nothing behind.
    fn failures(&mut self, bench: &mut Bench<impl FnMut(&Check)>) {
        bench.look("a page that is mapped is not mapped again", Sight::Refused, self.busy());
        bench.look("an address beyond the last is refused", Sight::Refused, self.beyond());
        let tables = self.pool.out;
        bench.look("a cancelled job leaves no tables", Sight::Tables(tables), self.cancelled(false));
        bench.look("a dropped job leaves no tables", Sight::Tables(tables), self.cancelled(true));
        bench.look("a job without table memory is refused", Sight::Refused, self.exhausted());
        bench.look(
            "a refused job leaves no tables",
            Sight::Tables(tables),
            Ok::<_, Sight>(Sight::Tables(self.pool.out)),
        );
        bench.look("with just enough table memory, it is done", Sight::AllLead { pages: 2 }, self.enough());
    }

    fn busy(&mut self) -> Seen {
        let extents = [self.extent(1)];
        self.map(HERE, &extents)?;
        let again = self.prepare(HERE, &extents);
        let seen = match again {
            Err(PrepareError::Busy { .. }) => Ok(Sight::Refused),
            Err(why) => Err(why.into()),
            Ok(job) => {
                let _ = self.vmm.cancel(&mut self.pool, job);
                Ok(Sight::Allowed(HERE))
            }
        };
        self.unmap(HERE..HERE + PAGE_BYTES)?;
        seen
    }

    fn beyond(&mut self) -> Seen {
        let extents = [self.extent(1), self.extent(2)];
        let va = (1 << F::VA_BITS) - PAGE_BYTES;
        match self.prepare(va, &extents) {
            Err(PrepareError::BeyondVa { .. }) => Ok(Sight::Refused),
            Err(why) => Err(why.into()),
            Ok(job) => {
                let _ = self.vmm.cancel(&mut self.pool, job);
                Ok(Sight::Allowed(va))
            }
        }
    }

    fn cancelled(&mut self, dropped: bool) -> Seen {
        let extents = [self.extent(1)];
        let far = self.fresh();
        let job = self.prepare(far, &extents)?;
        if dropped {
            drop(job);
            // The space notices at its next call.
            let other = self.prepare(HERE, &extents)?;
            self.vmm.cancel(&mut self.pool, other).map_err(|(_, why)| why)?;
        } else {
            self.vmm.cancel(&mut self.pool, job).map_err(|(_, why)| why)?;
        }
        Ok(Sight::Tables(self.pool.out))
    }

    /// An address below whose entry in the root there is nothing yet: two pages across its first 2 MiB need every table.
    fn fresh(&self) -> u64 {
        let root = F::LEVELS.first().map_or(0, crate::format::Level::span);
        // The borders' check went up to the first entry's end, and left tables on both sides where they cannot be dropped.
        let second = F::LEVELS.get(1).map_or(0, crate::format::Level::span);
        root + 3 * second + (SMALL_TABLE.entries() << SMALL_TABLE.shift) - PAGE_BYTES
    }

    fn exhausted(&mut self) -> Seen {
        let extents = [self.extent(1), self.extent(2)];
        let va = self.fresh();
        // All levels but the root, the upper ones of which may be there, and the second leaf table.
        for allowed in 0..2 {
            self.pool.allowed = allowed;
            let prepared = self.prepare(va, &extents);
            self.pool.allowed = u64::MAX;
            match prepared {
                Err(PrepareError::NoSpace(_)) => {}
                Err(why) => return Err(why.into()),
                Ok(job) => {
                    let _ = self.vmm.cancel(&mut self.pool, job);
                    return Ok(Sight::Allowed(allowed));
                }
            }
        }
        Ok(Sight::Refused)
    }

    fn enough(&mut self) -> Seen {
        let extents = [self.extent(1), self.extent(2)];
        let va = self.fresh();
        let most = F::LEVELS.len() as u64 + 2;
        for allowed in 0..=most {
            self.pool.allowed = allowed;
            let prepared = self.prepare(va, &extents);
            self.pool.allowed = u64::MAX;
            match prepared {
                Err(PrepareError::NoSpace(_)) => {}
                Err(why) => return Err(why.into()),
                Ok(job) => {
                    self.finish(job)?;
                    let [first, second] = extents.map(|extent| Some(extent.to));
                    let seen = self.all_lead(&[(va, first), (va + PAGE_BYTES, second)]);
                    self.unmap(va..va + 2 * PAGE_BYTES)?;
                    return seen;
                }
            }
        }
        Ok(Sight::Tables(self.pool.out))
    }
}
