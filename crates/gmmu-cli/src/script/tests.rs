//! What reads as a script, and what is said of that which does not.

use super::Script;
use super::parse::{COUNTS, INJECT, OPERATIONS};
use crate::cmd::run::HELP;

fn says(text: &str) -> String {
    Script::read("s", text).map_or_else(|why| why.what().to_owned(), |script| format!("read: {:?}", script.lines))
}

/// The lines of the help that show an operation, without what is said of them: that stands behind two spaces.
fn examples() -> impl Iterator<Item = &'static str> {
    let from = HELP.split_once("A script has").expect("the operations").1;
    let lines = from.split_once("\n\n").expect("an end").0.lines().skip(1).map(str::trim_start);
    lines.map(|line| line.split_once("  ").map_or(line, |(operation, _)| operation))
}

#[test]
fn every_operation_has_an_example_that_reads() {
    for example in examples() {
        // A schedule needs somebody whose turn it can be.
        let threads = if example.starts_with("schedule") { "thread A: space a\nthread B: space b\n" } else { "" };
        let said = says(&format!("{threads}{example}"));
        assert!(said.starts_with("read: ["), "{example}: {said}");
    }
    for operation in OPERATIONS {
        assert!(examples().any(|line| line.split(' ').next() == Some(operation)), "{operation}");
    }
    let page = include_str!("../../../../docs/scripts.md");
    for word in OPERATIONS.into_iter().chain(COUNTS) {
        assert!(
            page.contains(&format!("`{word} "))
                || page.contains(&format!(" {word}="))
                || page.contains(&format!("`{word}`")),
            "{word}"
        );
    }
    for (word, ..) in INJECT {
        assert!(page.contains(&format!("`inject {word}")), "{word}");
        assert!(HELP.contains(&format!("\n  {word} ")), "{word}");
        assert!(says(&format!("inject {word}")).starts_with("read: "), "{word}");
    }
    assert!(HELP.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn what_does_not_read_says_what_would() {
    for (text, part) in [
        ("spares a va=0 len=2M", "s:1: \"spares\" is no operation; did you mean sparse?"),
        ("frobnicate", "there are gpu space map"),
        ("look a", "the address is missing"),
        ("thread 1 map a va=auto len=4K", "thread NAME: OPERATION: the name and its : are missing"),
        ("thread A: space a\nspace b\nthread B: close a", "s:2: space b: lines of threads stand together"),
        ("space a\nschedule A", "s:2: schedule: the script has no lines of threads"),
        ("thread A: space a\nschedule A*2 B", "s:2: schedule: there is no thread B"),
        ("thread A: space a\nschedule A*x", "A*x: "),
        (
            "space a\nsparse a 0x1000000+2M",
            "s:2: va= is missing: where the range begins; a range is written va=0x1000000 len=2M",
        ),
        ("sparse a va=0", "len= is missing"),
        ("sparse a va=0 len=2M ro", "not understood: ro"),
        ("unsparse a va=0 leng=2M", "did you mean len= by leng=?"),
        ("unmap a va=0 len=2M qiesced", "did you mean quiesced?"),
        ("unmap a va=0 len=2M live quiesced", "only one of them"),
        ("protect a va=0 len=4K", "what is to change?"),
        ("protect a va=0 len=4K none ro", "none is no flags at all"),
        ("protect a va=0 len=4K re", "re: did you mean ro?"),
        ("protect a va=0 len=4K kind=256", "8 bits"),
        ("protect a va=0 len=4K readonly", "no such flag (acd encrypted noatomic priv ro vol)"),
        ("map a va=auto", "len= is missing: how much to map"),
        ("map a vaa=auto len=4K", "did you mean va= by vaa=?"),
        ("map a va=auto len=4K kin=6", "not understood: kin=6: did you mean kind=?"),
        ("map a va=auto len=4K ro=1", "not understood: ro=1: did you mean ro?"),
        ("map a va=auto len=4K 0x1000..0x2000", "a range is written va=0x1000 len=4K"),
        ("map a va=auto len=4K pa=sys:0", "sys-coh"),
        ("map a va=auto pages=0x1000,peer1:0x2000", "all pages of a mapping lie in one memory"),
        ("map a va=auto pages=0x1001", "not a multiple of 4K"),
        ("map a va=auto len=4K page=4K largest=64K", "leave one away"),
        ("map a va=auto len=4K largest=8K", "largest=: 8K is not a page size"),
        (
            "prepare J expect a 0 sparse",
            "only map, unmap, protect, sparse, unsparse, bind, rebind, defragment, reclaim, restore can be",
        ),
        ("prepare J close a", "only map, unmap"),
        ("prepare J prepare K map a va=auto len=4K", "only map"),
        ("execute J budget=0", "budget=0: the first is 1"),
        ("execute J bugdet=3", "did you mean budget=?"),
        (
            "inject",
            "what goes wrong (noflush otherspace lostack deadbar poison lostwindow bitflip lostvram oom) is missing",
        ),
        ("inject nofluhs", "did you mean noflush?"),
        ("inject fire", "what goes wrong is one of noflush"),
        ("inject oom at=0", "at=0: the first is 1"),
        ("inject oom for=x", "not a number"),
        ("expect a 0 sparce", "did you mean sparse?"),
        ("expect a 0 vram:0 page=3Z", "not a number"),
        ("refuse Busy", "an operation is missing"),
        ("bind a", "bind SPACE { OPERATIONS }: the { is missing"),
        ("bind a {\nmap va=0x1000 len=4K", "s:1: what begins here with { has no } at its end"),
        (
            "bind a {\nmap va=0x1000 len=4K\n\nunmpa va=0 len=4K }",
            "s:4: a bind is made of map, unmap, sparse, unsparse",
        ),
        ("bind a { map va=auto len=4K }", "a bind maps at addresses that it names"),
        ("bind a { map a va=0 len=4K }", "a: the bind names the space, and not its steps"),
        ("bind a { unmap va=0 len=4K live }", "not understood: live"),
        ("bind a { unmap va=0 len=4K } unmap a va=0 len=4K", "unmap: a new line or ; comes behind }"),
        ("bind a { bind b { } }", "a bind is made of"),
        ("unmap a va=0 len=4K }", "not understood: }"),
        ("map a va=0 len=4K { unmap va=0 len=4K }", "{ } belong to bind and rebind alone"),
        ("rebind a Z", "rebind SPACE MAPPING { map … }: the { is missing"),
        ("rebind a Z { unmap va=0 len=4K }", "a rebind is made of map alone"),
        ("rebind a { map va=0 len=4K }", "the evictable mapping is missing"),
        ("adopt", "the space is missing"),
        ("adopt a limit=x", "limit=x: "),
        ("zap", "the evictable mapping is missing"),
        ("defragment a va=0 len=2M largest=8K", "largest=: 8K is not a page size"),
        ("gpu gh100 { }", "\"gpu\" is no operation"),
        ("map a va=0 len=4K offset=4K", "object= is missing: the number of what the offset is in"),
        ("map a va=0 len=4K object=0", "object=0: the first is 1"),
        ("reclaim", "the space is missing"),
        ("restore a va=0", "not understood: va=0"),
        ("drop", "the job is missing"),
        ("lose memory", "memory: what is lost is one of vram"),
        ("inst", "what becomes of the instance block (bind unbind) is missing"),
        ("inst bnid C a", "did you mean bind?"),
        ("bar1 mpa w len=4K", "did you mean map?"),
        ("bar1 read 0x10 1", "where in a mapping is written NAME or NAME+OFFSET"),
        ("bar1 write w 0x100 bits=8", "0x100 does not fit 8 bits"),
        ("bar1 write w 1 bits=24", "bits=24: 8, 16, 32 or 64"),
        ("expect a", "the address is missing"),
        ("expect a tables=5 fault=PTE", "not understood: fault=PTE"),
        ("expect a tabels=5", "the address is missing"),
        ("expect a 0 peice", "did you mean piece?"),
    ] {
        let said = says(text);
        assert!(said.contains(part) && !said.starts_with("read"), "{text}: {said}");
    }
}

#[test]
fn pages_take_the_memory_of_the_one_before() {
    for (list, read) in [
        ("0x1000,0x2000", "Pages(Vram, [4096, 8192])"),
        ("peer2:0x1000,0x2000", "Pages(Peer(PeerId(2)), [4096, 8192])"),
        ("sys-ncoh:0,sys-ncoh:0x3000", "Pages(SysNonCoherent, [0, 12288])"),
    ] {
        let said = says(&format!("map a va=auto pages={list}"));
        assert!(said.contains(read), "{said}");
    }
}

#[test]
fn only_video_memory_is_kept_from_the_allocators() {
    let text = "map a va=auto pa=vram:0x1000 len=4K\nmap a va=auto pa=peer1:0x2000 len=4K\n\
                map a va=auto pages=sys-coh:0x3000\nmap a va=auto pages=0x4000 page=64K";
    let script = Script::read("s", text).expect("reads");
    assert_eq!(script.named_memory(), [0x1000..0x2000, 0x4000..0x14000]);
}
