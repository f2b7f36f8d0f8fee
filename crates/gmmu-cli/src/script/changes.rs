//! What changes of address spaces say, from `map` to `bind`.

use gmmu::addr::{Aperture, PAGE_BYTES, PageSize};
use gmmu::format::Kind;
use gmmu::vmm::Protection;

use super::ops::{At, Change, Map, Memory, Stretch, What};
use super::words::{Args, FLAGS, NO_FLAGS, Read};
use crate::notation::{PageChoice, memory, page};
use crate::num::{number, shown};

/// The operations that change an address space: those that can be prepared.
pub(super) const CHANGES: [&str; 10] =
    ["map", "unmap", "protect", "sparse", "unsparse", "bind", "rebind", "defragment", "reclaim", "restore"];
/// Those that can be steps of a bind.
const STEPS: [&str; 4] = ["map", "unmap", "sparse", "unsparse"];

/// A change, behind its verb. `steps` are those of a `bind`.
pub(super) fn change(verb: &str, args: &mut Args<'_>, steps: &mut Option<Vec<What>>) -> Read<Change> {
    let space = args.take_word("the space")?.to_owned();
    let live = args.take_live()?;
    let what = match verb {
        "map" => What::Map(map(args)?),
        "protect" => What::Protect(stretch(args)?, protection(args)?),
        "sparse" => What::Sparse(stretch(args)?),
        "unsparse" => What::Unsparse(stretch(args)?),
        "bind" => What::Bind(steps.take().ok_or("bind SPACE { OPERATIONS }: the { is missing")?),
        "rebind" => {
            let zap = args.take_name("the evictable mapping")?;
            let steps = steps.take().ok_or("rebind SPACE MAPPING { map … }: the { is missing")?;
            if !steps.iter().all(|step| matches!(step, What::Map(_))) {
                return Err("a rebind is made of map alone".to_owned());
            }
            What::Rebind(zap, steps)
        }
        "defragment" => {
            let largest = take_page(args, "largest")?.unwrap_or(PageSize::Size2M);
            What::Defragment(stretch(args)?, largest)
        }
        "reclaim" => What::Reclaim,
        "restore" => What::Restore,
        _ => What::Unmap(stretch(args)?),
    };
    Ok(Change { space, live, what })
}

/// One step of a bind: a change without its space.
pub(super) fn step(words: &[&str]) -> Read<What> {
    let (&verb, rest) = words.split_first().ok_or("a step is missing")?;
    if !STEPS.contains(&verb) {
        return Err(format!("a bind is made of {}, not of {}", STEPS.join(", "), shown(verb)));
    }
    if let Some(word) = rest.first().filter(|word| !word.contains('=') && !FLAGS.contains(word)) {
        return Err(format!("{}: the bind names the space, and not its steps", shown(word)));
    }
    let mut args = Args::read(rest)?;
    let what = match verb {
        "map" => What::Map(map(&mut args)?),
        "sparse" => What::Sparse(stretch(&mut args)?),
        "unsparse" => What::Unsparse(stretch(&mut args)?),
        _ => What::Unmap(stretch(&mut args)?),
    };
    if let What::Map(Map { va: None, .. }) = what {
        return Err("va=auto: a bind maps at addresses that it names".to_owned());
    }
    args.end()?;
    Ok(what)
}

/// `map`, behind the space.
pub(super) fn map(args: &mut Args<'_>) -> Read<Map> {
    let va = match args.need("va", "an address, or auto")? {
        "auto" => None,
        text => Some(at(text)?),
    };
    let (page, largest) = (take_page(args, "page")?, take_page(args, "largest")?);
    let len = args.take_number("len")?;
    let (memory, page, bytes) = match (args.take("pa"), args.take("pages")) {
        (Some(_), Some(_)) => return Err("pa= and pages= do not go together".to_owned()),
        (Some(pa), None) => (Memory::From(memory(pa).map_err(|why| format!("pa={pa}: {why}"))?), page, None),
        (None, Some(list)) => {
            let ((aperture, pages), page) = (pages(list)?, page.unwrap_or(PageSize::Size4K));
            let bytes = page.bytes().checked_mul(pages.len() as u64);
            (Memory::Pages(aperture, pages), Some(page), bytes)
        }
        (None, None) => (Memory::Any, page, None),
    };
    if let (Some(largest), Some(page)) = (largest, page) {
        return Err(format!("largest={largest} chooses among sizes, and there is only {page} here: leave one away"));
    }
    let len = match (len, bytes) {
        (Some(len), Some(bytes)) if len != bytes => return Err(format!("len={len} but the pages are {bytes} bytes")),
        (Some(len), _) | (None, Some(len)) => len,
        (None, None) => return Err(args.missing("len", "how much to map")),
    };
    let kind = args.take_kind()?.unwrap_or(6);
    let name = args.take("as").map(ToOwned::to_owned);
    let evictable = args.take("evictable").map(ToOwned::to_owned);
    let (object, offset) = (args.take_count("object")?, args.take_number("offset")?);
    if object.is_none() && offset.is_some() {
        return Err(args.missing("object", "the number of what the offset is in"));
    }
    let (object, offset) = (object.unwrap_or(0), offset.unwrap_or(0));
    Ok(Map { va, len, memory, page, largest, kind, flags: args.take_flags()?, name, object, offset, evictable })
}

fn take_page(args: &mut Args<'_>, key: &'static str) -> Read<Option<PageSize>> {
    match args.take(key).map(page) {
        None | Some(Ok(PageChoice::Auto)) => Ok(None),
        Some(Ok(PageChoice::Size(size))) => Ok(Some(size)),
        Some(Err(why)) => Err(format!("{key}=: {why}")),
    }
}

/// The pages of a mapping: `0x1000,0x5000`, or in other memory `sys-coh:0x1000,0x5000`.
fn pages(list: &str) -> Read<(Aperture, Vec<u64>)> {
    let mut aperture = None;
    let mut pages = Vec::new();
    for text in list.split(',') {
        let (here, page) = if text.contains(':') {
            let page = memory(text).map_err(|why| format!("pages={list}: {why}"))?;
            (page.aperture, page.raw)
        } else {
            let page = number(text).map_err(|why| format!("pages={list}: {why}"))?;
            (aperture.unwrap_or(Aperture::Vram), page)
        };
        if *aperture.get_or_insert(here) != here {
            return Err(format!("pages={list}: all pages of a mapping lie in one memory"));
        }
        if page % PAGE_BYTES != 0 {
            return Err(format!("pages={list}: {page:#x} is not a multiple of 4K"));
        }
        pages.push(page);
    }
    Ok((aperture.unwrap_or(Aperture::Vram), pages))
}

/// A range, behind the space.
fn stretch(args: &mut Args<'_>) -> Read<Stretch> {
    let va = at(args.need("va", "where the range begins")?)?;
    let len = match va {
        At::Named(..) => args.take_number("len")?,
        At::Va(_) => {
            let len = args.need("len", "the length of the range")?;
            Some(number(len).map_err(|why| format!("len={len}: {why}"))?)
        }
    };
    Ok(Stretch { va, len })
}

/// What `protect` changes: flags, all of them, or the kind, or both.
fn protection(args: &mut Args<'_>) -> Read<Protection> {
    let kind = args.take_kind()?.map(Kind);
    let none = args.take_plain(NO_FLAGS);
    if none && !args.is_empty() {
        return Err(format!("{NO_FLAGS} is no flags at all: leave it away, or the flags"));
    }
    let flags = (none || !args.is_empty()).then(|| args.take_flags()).transpose()?;
    if flags.is_none() && kind.is_none() {
        let flags = FLAGS.join(" ");
        return Err(format!("what is to change? The pages' flags ({flags}, or {NO_FLAGS}), kind=N, or both"));
    }
    Ok(Protection { flags, kind })
}

/// An address: `0x1000`, `buf`, `buf+0x1000`.
pub(super) fn at(text: &str) -> Read<At> {
    if text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
        let (name, offset) = text.split_once('+').unwrap_or((text, "0"));
        return number(offset).map(|offset| At::Named(name.to_owned(), offset)).map_err(|why| why.to_string());
    }
    number(text).map(At::Va).map_err(|why| why.to_string())
}
