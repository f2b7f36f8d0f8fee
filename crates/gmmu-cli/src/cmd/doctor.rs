//! `gmmu doctor`: which ways of access to a card work, what stands in the way of the others, and how to get on.

use gmmu_pci::ways::{Obstacle, Works};
use gmmu_pci::{Bdf, Card, System, Way, ways};
use schemars::JsonSchema;
use serde::Serialize;

use crate::cards::{CardView, MachineArgs};
use crate::console::{BAD, Console, FAINT, GOOD, ODD, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};
use crate::wrap::wrapped;

const EXAMPLES: &str = "\
Examples:
  gmmu doctor
  gmmu doctor 0000:2b:00.0
  sudo gmmu doctor --json

Looks at sysfs and procfs only: nothing is opened that could wake a card, and
nothing is tried, so an obstacle that cannot be seen is missed. gmmu itself
never binds, unbinds, wakes or resets a card: what is advised is yours to do.

Exit code 1: there is no card, or a card whose memory nothing can read.";

/// Arguments of `gmmu doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// One card only, such as 0000:2b:00.0
    #[arg(value_name = "BDF")]
    card: Option<Bdf>,

    #[command(flatten)]
    machine: MachineArgs,
}

/// All that `gmmu doctor` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Diagnosis {
    schema: u32,
    system: SystemView,
    cards: Vec<CardDiagnosis>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct SystemView {
    uid: Option<u32>,
    user_namespace: bool,
    raw_io: bool,
    lockdown: Option<&'static str>,
    container: Option<String>,
    sysfs_read_only: bool,
}

#[derive(Debug, JsonSchema, Serialize)]
struct CardDiagnosis {
    #[serde(flatten)]
    card: CardView,
    /// The best of all ways, for video memory.
    vram: &'static str,
    ways: Vec<WayView>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct WayView {
    way: &'static str,
    registers: &'static str,
    vram: &'static str,
    obstacles: Vec<ObstacleView>,
}

#[derive(Debug, PartialEq, JsonSchema, Serialize)]
struct ObstacleView {
    reason: &'static str,
    stops: &'static str,
    says: String,
    fix: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// There is no sysfs, or not the card that was asked for.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let mut cards = args.machine.cards(console)?.cards;
    if let Some(bdf) = args.card {
        let seen: Vec<_> = cards.iter().map(|card| card.bdf.to_string()).collect();
        cards.retain(|card| card.bdf == bdf);
        if cards.is_empty() {
            let hint = if seen.is_empty() {
                "no NVIDIA card was found".to_owned()
            } else {
                format!("there is {}", seen.join(", "))
            };
            return Err(Failure::input(format_args!("{bdf}: no NVIDIA card")).hint(hint));
        }
    }
    let system = System::read(&args.machine.sysfs);
    let diagnosis = Diagnosis {
        schema: SCHEMA,
        system: SystemView::from(&system),
        cards: cards.iter().map(|card| CardDiagnosis::new(card, &system)).collect(),
    };
    if cards.is_empty() {
        console.note(format_args!("no NVIDIA card here; snapshots and images need none (--file)"));
    }
    console.show(&diagnosis)?;
    for card in &diagnosis.cards {
        card.card.note_unread(console);
    }
    let readable = !cards.is_empty() && diagnosis.cards.iter().all(|card| card.vram != Works::No.name());
    Ok(if readable { Exit::Done } else { Exit::Negative })
}

impl From<&System> for SystemView {
    fn from(system: &System) -> Self {
        Self {
            uid: system.user.uid,
            user_namespace: system.user.namespaced,
            raw_io: system.user.raw_io(),
            lockdown: system.lockdown.map(gmmu_pci::system::Lockdown::word),
            container: system.container.clone(),
            sysfs_read_only: system.read_only,
        }
    }
}

impl CardDiagnosis {
    fn new(card: &Card, system: &System) -> Self {
        let ways = ways(card, system);
        let best = ways.iter().map(Way::memory).max().unwrap_or(Works::No);
        Self { card: CardView::from(card), vram: best.name(), ways: ways.iter().map(WayView::from).collect() }
    }
}

impl From<&Way> for WayView {
    fn from(way: &Way) -> Self {
        let obstacle = |obstacle: &Obstacle| ObstacleView {
            reason: obstacle.reason,
            stops: obstacle.stops.name(),
            says: obstacle.says.clone(),
            fix: obstacle.fix.clone(),
        };
        Self {
            way: way.path.name(),
            registers: way.registers().name(),
            vram: way.memory().name(),
            obstacles: way.obstacles.iter().map(obstacle).collect(),
        }
    }
}

impl View for Diagnosis {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        console.line(format_args!("{}", self.system.words()))?;
        for card in &self.cards {
            console.line(format_args!(""))?;
            card.text(console)?;
        }
        Ok(())
    }
}

impl SystemView {
    fn words(&self) -> String {
        let user = match (self.uid, self.user_namespace) {
            (Some(0), false) => "root".to_owned(),
            (Some(0), true) => "root of a user namespace".to_owned(),
            (Some(uid), _) => format!("user {uid}"),
            (None, _) => "user not known".to_owned(),
        };
        let lockdown = match self.lockdown {
            Some("none") => "kernel not locked down".to_owned(),
            Some(lockdown) => format!("kernel locked down ({lockdown})"),
            None => "lockdown not known".to_owned(),
        };
        let container =
            self.container.as_ref().map_or_else(|| "no container".to_owned(), |kind| format!("container ({kind})"));
        format!("{user}, {lockdown}, {container}")
    }
}

impl CardDiagnosis {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        console.line(format_args!("{STRONG}{}{STRONG:#}", self.card.title()))?;
        for line in self.card.bar_lines() {
            console.line(format_args!("  {FAINT}{line}{FAINT:#}"))?;
        }
        for (number, way) in self.ways.iter().enumerate() {
            way.text(self.ways.get(..number).unwrap_or_default(), console)?;
        }
        Ok(())
    }
}

impl WayView {
    /// What was said of a way `before` is not repeated.
    fn text(&self, before: &[Self], console: &mut Console<'_>) -> Result<(), Failure> {
        let style = match self.vram {
            "yes" => GOOD,
            "no" => BAD,
            _ => ODD,
        };
        let verdict = match (self.registers, self.vram) {
            (registers, vram) if registers == vram => vram.to_owned(),
            (registers, vram) => format!("registers {registers}, memory {vram}"),
        };
        console.line(format_args!("  {STRONG}{:<10}{STRONG:#}{style}{verdict}{style:#}", self.way))?;
        for obstacle in &self.obstacles {
            let ObstacleView { reason, says, fix, .. } = obstacle;
            if let Some(same) = before.iter().find(|way| way.obstacles.contains(obstacle)) {
                console.line(format_args!("    {reason:<16}  {FAINT}as for {}{FAINT:#}", same.way))?;
                continue;
            }
            for (number, line) in wrapped(says, 58).iter().enumerate() {
                let reason = if number == 0 { reason } else { "" };
                console.line(format_args!("    {reason:<16}  {line}"))?;
            }
            for step in fix {
                // Commands stay whole, to be copied.
                let lines = if step.starts_with("# ") { vec![step.clone()] } else { wrapped(step, 69) };
                for (number, line) in lines.iter().enumerate() {
                    let mark = if number == 0 { "->" } else { "  " };
                    console.line(format_args!("      {GOOD}{mark}{GOOD:#} {line}"))?;
                }
            }
        }
        Ok(())
    }
}
