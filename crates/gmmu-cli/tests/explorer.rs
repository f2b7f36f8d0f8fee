//! The explorer: seven classic races, clean with the library as it is, and found, made short and replayed with a planner
//! that makes the mistake behind them. With `-- --nocapture` the table is printed.

use gmmu::format::V3;
use gmmu::vmm::{Mistakes, SpaceConfig};
use gmmu_cli::exit::Failure;
use gmmu_cli::machine::Machine;
use gmmu_cli::script::{Explored, Explorer, Order, Script};
use gmmu_sim::{Config, Speculation};

type Tune = fn(SpaceConfig) -> SpaceConfig;

/// A race: the script in `examples/races`, the mistake behind it, and by what it is seen: a rule, or the text of an
/// operation that does not go as the script says.
struct Race {
    name: &'static str,
    text: &'static str,
    mistake: Tune,
    seen: &'static str,
}

macro_rules! race {
    ($name:literal, [$($mistake:ident),+], $seen:literal) => {
        Race {
            name: $name,
            text: include_str!(concat!("../../../examples/races/", $name, ".gmmu")),
            mistake: |config| SpaceConfig { mistakes: Mistakes { $($mistake: true,)+ ..Mistakes::default() }, ..config },
            seen: $seen,
        }
    };
}

const RACES: [Race; 7] = [
    race!("late-release", [never_waits], "valid-to-valid"),
    race!("two-halves", [never_waits, writes_both_halves], "published-uninitialised"),
    race!("one-leaf-cut-twice", [never_waits], "expect a 0x40007000 unmapped"),
    race!("published-by-another", [never_waits], "expect a 0x40001000 vram:0x20000000"),
    race!("stale-small-table", [leaves_small_entries], "stale-4k-uncovered"),
    race!("shared-directory", [undoes_others], "table-freed-reachable"),
    race!("freed-before-flush", [ignores_acknowledge], "table-freed-reachable"),
];

/// Schedules that are tried of a race with the library as it is.
const SCHEDULES: usize = 500;

fn read(text: &str) -> Script {
    Script::read("race", text).expect("a script")
}

/// Explores `script` with a planner that is tuned so, and makes what is found short.
fn explore(script: &Script, tune: Tune, order: Order) -> (Explored<V3>, Option<String>) {
    let config = Config { speculation: Speculation::Worst, ..script.config(1 << 30, 0) };
    let chip = script.chip.expect("a gpu line");
    let make =
        || -> Result<Machine, Failure> { Ok(Machine::with(chip, config.clone(), &script.named_memory())?.tuned(tune)) };
    let explorer = Explorer::new(make, order, SCHEDULES);
    let mut explored = explorer.explore::<V3>(script).expect("it runs");
    let short = explored.found.then(|| explorer.reduce(script, &mut explored).expect("it runs"));
    (explored, short)
}

/// What an exploration shows: a rule, or the operation that was broken.
fn seen(explored: &mut Explored<V3>) -> String {
    let findings = explored.trial.runner.machine().gpu().findings();
    match (findings.first(), &explored.trial.broken) {
        (Some(finding), _) => finding.rule.id().to_owned(),
        (None, Some(broken)) => broken.text.clone(),
        (None, None) => "nothing".to_owned(),
    }
}

#[test]
fn the_library_gets_through_all_classic_races() {
    for race in &RACES {
        for order in [Order::Interruptions, Order::Random(7)] {
            let (mut explored, _) = explore(&read(race.text), |config| config, order);
            assert!(!explored.found, "{}: {} after {}", race.name, seen(&mut explored), explored.trial.schedule);
            assert!(explored.all || explored.schedules == SCHEDULES, "{}: {}", race.name, explored.schedules);
        }
    }
}

#[test]
fn each_mistake_is_found_made_short_and_replayed() {
    for race in &RACES {
        let script = read(race.text);
        let (mut explored, short) = explore(&script, race.mistake, Order::Interruptions);
        let (found, short) = (seen(&mut explored), short.unwrap_or_default());
        println!("{:22} {:4} schedules  {found}\n{short}", race.name, explored.schedules);
        assert_eq!(found, race.seen, "{}", race.name);
        let shorter = read(&short);
        assert!(shorter.lines.len() < script.lines.len() && shorter.schedule.is_some(), "{short}");
        // By its schedule it shows the same at once, and without the mistake nothing.
        let (mut again, _) = explore(&shorter, race.mistake, Order::Interruptions);
        assert!(again.found && again.schedules == 1, "{short}");
        assert_eq!(seen(&mut again), race.seen, "{short}");
        // A schedule may be none without the mistake: whoever waits cannot take his turn.
        let (mut right, _) = explore(&Script { schedule: None, ..shorter }, |config| config, Order::Interruptions);
        assert_ne!(seen(&mut right), race.seen, "{short}");
    }
}

/// What never ends is given up by the thread that waits for it, and nothing else has to be.
#[test]
fn an_acknowledgement_that_never_comes_is_a_timeout() {
    let script = "gpu gh100 vram=1G\nspace a\nmap a va=0x1000000 pa=vram:0x10000000 len=64K page=4K evictable=Z\n\
                  inject lostack\nthread A: refuse Timeout zap Z\nthread B: look a 0x2000000\n";
    let (explored, _) = explore(&read(script), |config| config, Order::Interruptions);
    assert!(!explored.found, "{:?}", explored.trial.broken);
}

/// A zap comes between any two steps of a job of its mapping, and an engine that keeps off both looks meanwhile.
#[test]
fn a_zap_beside_jobs_of_its_mapping_is_clean() {
    let script = "gpu gh100 vram=1G\nspace a\nmap a va=0x1000000 pa=vram:0x10000000 len=8K page=4K evictable=Z\n\
                  map a va=0x1002000 pa=vram:0x11000000 len=4K page=4K\n\
                  thread A: zap Z\nthread B: unmap a va=0x1000000 len=4K\n\
                  thread C: look a 0x1002000 ; look a 0x2000000\n\
                  expect a 0x1000000 unmapped\nexpect a 0x1001000 unmapped\n";
    let (mut explored, short) = explore(&read(script), |config| config, Order::Interruptions);
    assert!(!explored.found, "{}\n{}", seen(&mut explored), short.unwrap_or_default());
}
