//! What engines may see of each page at any moment: what was before a change, or what is after it.

use gmmu::addr::Aperture;
use gmmu_sim::{Fault, Finding, Translated};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::ops::Range;

/// What is printed where a test fails.
const LINES: usize = 100;

/// What an access to a page comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Fault,
    /// Reads as 0.
    Sparse,
    Page {
        to: u64,
        read_only: bool,
    },
}

impl Seen {
    fn of(found: &Result<Translated, Fault>) -> Self {
        match found {
            Err(_) => Self::Fault,
            Ok(found) if found.sparse => Self::Sparse,
            Ok(found) => {
                assert_eq!(found.to.aperture, Aperture::Vram, "{found:x?}");
                Self::Page { to: found.to.raw, read_only: found.flags.read_only }
            }
        }
    }
}

/// A change of a page that is to come, or has begun.
#[derive(Clone, Copy, Debug)]
struct Next {
    job: u64,
    value: Seen,
    begun: bool,
    over: bool,
}

#[derive(Clone, Debug)]
struct Page {
    now: Seen,
    /// In the order of prepares, which is that of executions.
    next: Vec<Next>,
}

/// What engines may see of each page. What was never mentioned faults.
#[derive(Debug, Default)]
pub struct Oracle {
    pages: BTreeMap<u64, Page>,
    jobs: HashMap<u64, (Vec<u64>, Option<Range<u64>>)>,
    /// Ranges that may fault, because jobs that were begun cut entries there.
    gaps: HashMap<u64, Range<u64>>,
    /// What the sanitizer said.
    findings: Vec<Finding>,
    /// What happened; its end is printed where a test fails.
    log: Vec<String>,
    looks: u64,
    /// Looks that met a page while it changed.
    between: u64,
}

impl Oracle {
    /// A job was prepared that changes these pages, and may let `gap` fault meanwhile.
    pub fn plan(&mut self, job: u64, what: &impl Debug, values: &[(u64, Seen)], gap: Option<Range<u64>>) {
        self.log.push(format!("{job}: {what:x?}, gap {gap:x?}"));
        for &(va, value) in values {
            let page = self.pages.entry(va).or_insert(Page { now: Seen::Fault, next: Vec::new() });
            page.next.push(Next { job, value, begun: false, over: false });
        }
        self.jobs.insert(job, (values.iter().map(|(va, _)| *va).collect(), gap));
    }

    fn set(&mut self, job: u64, begun: bool) {
        let Some((pages, gap)) = self.jobs.get(&job) else { panic!("job {job} is over") };
        for va in pages {
            for next in self.pages.get_mut(va).into_iter().flat_map(|page| &mut page.next) {
                if next.job == job {
                    next.begun = begun;
                }
            }
        }
        match gap.clone().filter(|_| begun) {
            Some(gap) => drop(self.gaps.insert(job, gap)),
            None => drop(self.gaps.remove(&job)),
        }
    }

    /// From now on its pages may be seen as they are afterwards.
    pub fn begin(&mut self, job: u64) {
        self.log.push(format!("  {job} begins"));
        self.set(job, true);
    }

    /// It was refused, and has written nothing.
    pub fn hold_back(&mut self, job: u64) {
        self.log.push(format!("  {job} is held back"));
        self.set(job, false);
    }

    /// It was executed: nobody may see what was before.
    pub fn end(&mut self, job: u64) {
        self.log.push(format!("  {job} ends"));
        let Some((pages, _)) = self.jobs.remove(&job) else { panic!("job {job} is over") };
        for va in pages {
            let Some(page) = self.pages.get_mut(&va) else { continue };
            for next in &mut page.next {
                // The thread of an earlier job that is over may not have come to say so.
                assert!(next.begun, "{va:#x} was changed by {job} before {}, an earlier job, had begun", next.job);
                next.over |= next.job == job;
                if next.job == job {
                    break;
                }
            }
            while page.next.first().is_some_and(|next| next.over) {
                page.now = page.next.remove(0).value;
            }
        }
        self.gaps.remove(&job);
    }

    /// It was cancelled.
    pub fn withdraw(&mut self, job: u64) {
        self.log.push(format!("  {job} is withdrawn"));
        let Some((pages, _)) = self.jobs.remove(&job) else { panic!("job {job} is over") };
        for va in pages {
            if let Some(page) = self.pages.get_mut(&va) {
                page.next.retain(|next| next.job != job);
            }
        }
    }

    /// The sanitizer said this.
    pub fn keep(&mut self, findings: Vec<Finding>) {
        self.findings.extend(findings);
    }

    pub fn assert_clean(&self) {
        let lines: Vec<String> = self.findings.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }

    /// An engine found this at `va`, and the sanitizer said that of it. The caches may hold what was before as long as a
    /// page changes; to the sanitizer, which knows of no jobs, that is outdated.
    pub fn judge(&mut self, va: u64, found: Result<Translated, Fault>, mut findings: Vec<Finding>) {
        self.looks += 1;
        let seen = Seen::of(&found);
        let page = self.pages.get(&va);
        let now = page.map_or(Seen::Fault, |page| page.now);
        let begun = page.into_iter().flat_map(|page| &page.next).filter(|next| next.begun);
        let in_gap = self.gaps.values().any(|gap| gap.contains(&va));
        let changes = in_gap || begun.clone().next().is_some();
        self.between += u64::from(changes);
        findings.retain(|finding| !changes || !finding.is_stale_hit());
        let may = seen == now || begun.clone().any(|next| next.value == seen) || (seen == Seen::Fault && in_gap);
        assert!(
            may,
            "{va:#x}: an engine sees {seen:x?} ({found:x?}), but {now:x?} is there, {page:x?}, gaps {:x?}",
            self.gaps
        );
        self.findings.extend(findings);
    }

    /// Whether no change is to come.
    pub fn is_settled(&self) -> bool {
        self.jobs.is_empty() && self.pages.values().all(|page| page.next.is_empty())
    }

    /// How often engines looked, and how often at pages that were changing.
    pub const fn looks(&self) -> (u64, u64) {
        (self.looks, self.between)
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let first = self.log.len().saturating_sub(LINES);
            println!("{}", self.log.get(first..).unwrap_or_default().join("\n"));
        }
    }
}
