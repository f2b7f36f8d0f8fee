//! Whether the page tables of a source say what the line of a fault says.

use super::{Access, Kind, Operation};
use crate::cmd::walk::{Verdict, WalkView};

/// What the comparison comes to, in a sentence or two; none where the line does not say enough to compare.
#[must_use]
pub fn compare(kind: Option<Kind>, access: Option<Access>, walk: &WalkView) -> Option<String> {
    const OTHER: &str =
        "Perhaps they were changed after the fault, are of another process, or the TLB held something else.";
    let says = match (kind?, walk.result()) {
        (Kind::Pte | Kind::Pde, Verdict::Mapped | Verdict::Sparse) => {
            format!("The line says that nothing was mapped here, these tables map it. {OTHER}")
        }
        (Kind::Pte, Verdict::Unmapped) if walk.ends_in_a_leaf_table() => agrees(),
        (Kind::Pte, Verdict::Unmapped) => {
            format!("The line says that only the last entry was missing, here even its table is. {OTHER}")
        }
        (Kind::Pde, Verdict::Unmapped) if !walk.ends_in_a_leaf_table() => agrees(),
        (Kind::Pde, Verdict::Unmapped) => {
            format!("The line says that a table was missing, here it is there and only the last entry is. {OTHER}")
        }
        (Kind::PdeSize | Kind::UnsupportedKind, Verdict::Bad) => agrees(),
        (_, Verdict::Bad) => {
            "These tables hold an entry here that cannot be followed, which the line does not say.".to_owned()
        }
        (Kind::RoViolation, Verdict::Mapped) if !walk.has_flag("ro") => {
            format!("The line says that the page is read-only, these tables let it be written. {OTHER}")
        }
        (Kind::PrivViolation, Verdict::Mapped) if !walk.has_flag("priv") => {
            format!("The line says that the page is privileged, in these tables it is not. {OTHER}")
        }
        (Kind::AtomicViolation, Verdict::Mapped) if !walk.has_flag("noatomic") => {
            "These tables allow atomics here, so it is the bus or the memory behind it that cannot do them.".to_owned()
        }
        (Kind::RoViolation | Kind::PrivViolation | Kind::AtomicViolation, Verdict::Mapped) => agrees(),
        (Kind::RoViolation | Kind::PrivViolation | Kind::AtomicViolation, _) => {
            format!("The line says that a page was there, these tables map none. {OTHER}")
        }
        _ => return None,
    };
    let prefetch = access.is_some_and(|access| access.operation == Operation::Prefetch);
    Some(if prefetch { format!("{says} It was a prefetch, for whose data nobody waits.") } else { says })
}

fn agrees() -> String {
    "These tables say the same as the line.".to_owned()
}
