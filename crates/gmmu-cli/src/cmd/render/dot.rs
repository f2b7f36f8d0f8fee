//! The tables as a graph, for Graphviz.

use std::fmt::Write;

use super::data::{Picture, TableRow};

/// Tables that are drawn as they are; further ones are counted at their parent.
const MOST: usize = 2000;

/// The graph. Everything in it is made of hex digits and names of levels, so nothing needs quoting.
pub(super) fn dot(picture: &Picture) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "// MMU {}, top table {}", picture.mmu, picture.root);
    text.push_str("digraph tables {\n  rankdir=LR;\n  node [shape=box, fontname=\"monospace\"];\n");
    let drawn = picture.tables.len().min(MOST);
    for (number, TableRow(level, shift, at, va, parent, used, entries, _)) in
        picture.tables.iter().take(drawn).enumerate()
    {
        let pages = match (*level, shift) {
            ("PTE", 16) => " 64K",
            ("PTE", _) => " 4K",
            _ => "",
        };
        let _ = writeln!(text, "  t{number} [label=\"{level}{pages} {at}\\nva 0x{va:0>12}\\n{used} of {entries}\"];");
        if *parent >= 0 {
            let _ = writeln!(text, "  t{parent} -> t{number};");
        }
    }
    if picture.tables.len() > drawn {
        let _ = writeln!(text, "  more [label=\"and {} tables more\", style=dashed];", picture.tables.len() - drawn);
    }
    text.push_str("}\n");
    text
}
