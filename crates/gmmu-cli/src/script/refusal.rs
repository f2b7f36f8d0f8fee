//! Why an operation failed, by the names that `refuse` may ask for.

use std::fmt::Debug;

use gmmu_sim::Fault;

use crate::machine::InstError;

/// Why an operation failed: its error's names, which `refuse` may ask for, and its text.
pub(super) struct Refusal {
    pub(super) names: Vec<String>,
    pub(super) text: String,
}

impl Refusal {
    /// Takes the names off an error's `Debug` form: `Device(Timeout { .. })` is called Device and Timeout.
    pub(super) fn of<E: Debug + ToString>(error: &E) -> Self {
        let debug = format!("{error:?}");
        let head = debug.split([' ', '{']).next().unwrap_or_default();
        let names = head.split('(').map(|name| name.trim_end_matches(')').to_owned()).collect();
        Self { names, text: error.to_string() }
    }

    /// The same, with another name before all others.
    pub(super) fn called(mut self, name: &str) -> Self {
        self.names.insert(0, name.to_owned());
        self
    }

    /// A refusal of the runner's, by a name of its own.
    pub(super) fn named(name: &str, text: impl Into<String>) -> Self {
        Self { names: vec![name.to_owned()], text: text.into() }
    }

    /// A refusal of the script's own making, which `refuse` cannot ask for.
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self { names: Vec::new(), text: text.into() }
    }

    /// An instance block that was not bound.
    pub(super) fn inst(why: &InstError) -> Self {
        match why {
            InstError::NoSpace(why) => Self::named("NoSpace", why.what()),
            InstError::Bind(why) => Self::of(why),
        }
    }

    /// A fault of the MMU, called by its type, with or without the `FAULT_` of the kernel log.
    pub(super) fn fault(fault: &Fault) -> Self {
        let name = fault.fault.name();
        Self { names: vec![format!("FAULT_{name}"), name.to_owned()], text: fault.to_string() }
    }
}
