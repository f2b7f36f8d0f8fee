//! The JSON schemas of what commands print with `--json`, made from the types that print it.

use schemars::{Schema, schema_for};

use crate::cmd;

/// A schema for each kind of output, by the name of the file that it is kept in.
#[must_use]
pub fn all() -> Vec<(&'static str, Schema)> {
    vec![
        ("bench", schema_for!(cmd::bench::Report)),
        ("capture", schema_for!(cmd::capture::Captured)),
        ("check", schema_for!(cmd::check::Checked)),
        ("check-explain", schema_for!(cmd::check::Explained)),
        ("completions", schema_for!(cmd::completions::Completions)),
        ("decode", schema_for!(cmd::decode::Decoded)),
        ("diff", schema_for!(cmd::diff::Diff)),
        ("doctor", schema_for!(cmd::doctor::Diagnosis)),
        ("dump", schema_for!(cmd::dump::Dumped)),
        ("encode", schema_for!(cmd::encode::Encoded)),
        ("fault", schema_for!(crate::fault::report::Report)),
        ("list", schema_for!(cmd::list::List)),
        ("man", schema_for!(cmd::man::Pages)),
        ("map", schema_for!(cmd::map::Report)),
        ("render", schema_for!(cmd::render::Rendered)),
        ("roots", schema_for!(cmd::roots::Roots)),
        ("run", schema_for!(cmd::run::Report)),
        ("run-soak", schema_for!(cmd::soak::Report)),
        ("run-trace", schema_for!(cmd::replay::Report)),
        ("selftest", schema_for!(cmd::selftest::Report)),
        ("serve", schema_for!(cmd::serve::Served)),
        ("stats", schema_for!(cmd::stats::Stats)),
        ("tree", schema_for!(cmd::tree::Tree)),
        ("walk", schema_for!(cmd::walk::WalkView)),
        ("walk-range", schema_for!(cmd::walk::WalksView)),
    ]
}
