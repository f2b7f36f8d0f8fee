//! Mistakes that a planner can make on purpose, for tests of what is to find them. Only with the feature `sabotage`, which
//! no driver has.

/// What the jobs of a space do wrong: the bugs that drivers have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mistakes {
    /// Jobs wait for no others, whatever they build on.
    pub never_waits: bool,
    /// Who changes one half of a dual entry writes the other one too, as it was when the job was prepared.
    pub writes_both_halves: bool,
    /// A job that is cancelled takes back directories that others use by now.
    pub undoes_others: bool,
    /// Small entries stay as they are where a 64K slot is closed over them.
    pub leaves_small_entries: bool,
    /// An invalidate counts as done once it is triggered.
    pub ignores_acknowledge: bool,
}
