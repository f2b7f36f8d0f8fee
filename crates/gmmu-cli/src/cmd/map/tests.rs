//! What a verification says, right or wrong.

use clap::Parser;
use gmmu::format::{V2, V3};

use super::*;
use crate::console::{Color, Streams, Terminal};
use gmmu::addr::TableAddr;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// Maps as `gmmu map` does with `line`, lets `damage` loose on the machine, and goes on. Text, and JSON.
fn damaged<F: Format>(line: &str, damage: impl Fn(&mut Machine, &mut Vmm<F>, &Mapped)) -> (Report, String, String) {
    let args = Line::try_parse_from(line.split(' ')).expect("parses").args;
    let mut machine = Machine::new(args.model.chip, args.model.vram, &[]).expect("a machine");
    let plan = Memory::choose(&args).expect("options that fit");
    let memory = plan.take(&args, &mut machine).expect("memory");
    let mut vmm = machine.create_space::<F>(None, Use::Channel).expect("a space");
    let range = map(&args, &memory, &mut machine, &mut vmm).expect("maps");
    let mapped = Mapped { memory, range, counts: machine.gpu().counts().into() };
    damage(&mut machine, &mut vmm, &mapped);
    let said = [false, true].map(|json| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let streams =
            Streams { input: &mut std::io::empty(), out: &mut out, err: &mut err, terminal: Terminal::default() };
        let mut console = Console::new(streams, json, Color::Never);
        let report = conclude(&args, &console, &mut machine, &mut vmm, &mapped).expect("concludes");
        console.show(&report).and_then(|()| console.flush()).expect("memory can be written");
        drop(console);
        (report, String::from_utf8_lossy(&out).into_owned())
    });
    let [(_, text), (report, json)] = said;
    (report, text, json)
}

#[test]
fn a_wrong_page_is_told_and_the_files_are_written() {
    let image = std::env::temp_dir().join(format!("gmmu-map-wrong-{}", std::process::id()));
    let line = format!("map --size 2M --vram 1G --va 0x40000000 --vram-out {}", image.display());
    let (report, text, json) = damaged::<V3>(&line, |machine, vmm, _| {
        // The last table is the one of the leaves; its fourth entry goes.
        let (at, _) = *vmm.tables().expect("tables").last().expect("a leaf table");
        let TableAddr::Vram(at) = at else { return };
        machine.gpu().load_vram(at.raw() + 3 * 8, &[0; 8]);
    });
    assert_eq!(report.verified_pages, 3);
    let wrong = report.wrong.expect("a page is wrong");
    assert!(wrong.contains("0x000040003000"), "{wrong}");
    assert!(text.contains("verified  3 × 4K") && text.contains(&format!("wrong     {wrong}")), "{text}");
    assert!(!text.contains("unmapping"), "what is wrong stays as it is: {text}");
    assert!(json.contains("\"verified_pages\":3,\"wrong\":\""), "{json}");
    assert_eq!(std::fs::metadata(&image).expect("the image").len(), 1 << 30);
    std::fs::remove_file(image).expect("removes");
}

#[test]
fn nothing_is_wrong_unless_something_is() {
    let (report, text, json) = damaged::<V2>("map --size 2M --vram 1G --chip tu102 --keep", |_, _, _| {});
    assert_eq!((report.verified_pages, report.wrong), (512, None));
    assert!(!text.contains("wrong") && !json.contains("wrong"), "{text}{json}");
}

#[test]
fn a_page_that_stays_is_found() {
    let args = Line::try_parse_from("map --size 64K --vram 1G".split(' ')).expect("parses").args;
    let mut machine = Machine::new(args.model.chip, args.model.vram, &[]).expect("a machine");
    let memory = Memory::choose(&args).and_then(|plan| plan.take(&args, &mut machine)).expect("memory");
    let mut vmm = machine.create_space::<V3>(None, Use::Channel).expect("a space");
    let range = map(&args, &memory, &mut machine, &mut vmm).expect("maps");
    let mut progress = Progress::new(Terminal::default(), "", None);
    let wrong = verify_gone(&mut machine, &vmm, range.clone(), &mut progress).expect("nothing was unmapped");
    assert!(wrong.contains(&Address(range.start).to_string()) && wrong.contains("after the unmap"), "{wrong}");
}

#[test]
fn every_chip_that_can_be_modelled_is_in_the_help() {
    let listed = EXAMPLES.split_once("Chips: ").and_then(|(_, rest)| rest.split_once('.')).expect("a list").0;
    let (discrete, integrated) = listed.split_once("; without video memory ").expect("two lists");
    for (listed, are) in [(discrete, false), (integrated, true)] {
        let mut listed: Vec<&str> = listed.split_whitespace().collect();
        let mut chips: Vec<_> =
            gmmu_sim::Gpu::chips().iter().filter(|chip| chip.integrated == are).map(|chip| chip.name).collect();
        listed.sort_unstable();
        chips.sort_unstable();
        assert_eq!(listed, chips);
    }
}
