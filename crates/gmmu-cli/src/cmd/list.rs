//! `gmmu list`: the NVIDIA cards of this machine.

use schemars::JsonSchema;
use serde::Serialize;

use crate::cards::{CardView, HEADING, MachineArgs};
use crate::console::{Console, SCHEMA, STRONG, View};
use crate::exit::{Exit, Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  gmmu list
  gmmu list --json | jq -r '.cards[].bdf'

Reads text files of sysfs and nothing else: no card is woken or touched, and
no root is needed. The chip follows from the device id, where that is sure.";

/// Arguments of `gmmu list`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    machine: MachineArgs,
}

/// All that `gmmu list` says.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct List {
    schema: u32,
    cards: Vec<CardView>,
    truncated: bool,
}

/// Runs the command.
///
/// # Errors
/// There is no sysfs.
pub fn run(args: &Args, console: &mut Console<'_>) -> Outcome {
    let cards = args.machine.cards(console)?;
    let list =
        List { schema: SCHEMA, cards: cards.cards.iter().map(CardView::from).collect(), truncated: cards.truncated };
    if list.cards.is_empty() {
        console.note(format_args!("no NVIDIA card here"));
    }
    console.show(&list)?;
    for card in &list.cards {
        card.note_unread(console);
    }
    Ok(if list.truncated { Exit::Negative } else { Exit::Done })
}

impl View for List {
    fn text(&self, console: &mut Console<'_>) -> Result<(), Failure> {
        if !self.cards.is_empty() {
            console.line(format_args!("{STRONG}{HEADING}{STRONG:#}"))?;
        }
        self.cards.iter().try_for_each(|card| console.line(format_args!("{}", card.row())))
    }
}
