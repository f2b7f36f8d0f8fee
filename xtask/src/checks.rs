//! What a stage has to say.

/// What a stage found out: a line each, and whether it is as it should be.
#[derive(Default)]
pub(crate) struct Checks {
    passed: usize,
    failed: usize,
}

impl Checks {
    pub(crate) fn check(&mut self, what: &str, holds: bool) {
        println!("{} {what}", if holds { "ok     " } else { "FAILED " });
        *if holds { &mut self.passed } else { &mut self.failed } += 1;
    }

    pub(crate) fn end(&self) -> Result<(), String> {
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 { Ok(()) } else { Err("not all is as it should be".to_owned()) }
    }
}
