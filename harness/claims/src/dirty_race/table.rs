//! The table: technique x side x processor, and what the schedules came to.

use std::fmt::Write as _;

use super::explore::{Effect, ForkSide, Found, explore};
use super::kernel::Technique;
use super::processor::Processor;
use super::{Event, Mutation};

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// How the kernel write-protects.
    pub technique: Technique,
    /// The processor that runs meanwhile.
    pub processor: Processor,
    /// What was found.
    pub found: Found,
}

/// All rows.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Row>,
}

/// Columns that answer yes or no.
const COLUMNS: [(Effect, &str); 6] = [
    (Effect::DirtyLost, "Dirty lost"),
    (Effect::CreatedByKernel, "Write=0,Dirty=1 by the kernel"),
    (Effect::CreatedByProcessor, "by the processor"),
    (Effect::LeftBehind, "left behind"),
    (Effect::ExtraFault, "extra fault"),
    (Effect::LostWrite, "write lost through a stale TLB"),
];

impl Table {
    /// Explores everything.
    #[must_use]
    pub fn explore() -> Self {
        Self::of(1, None)
    }

    /// Explores everything, with one or two processors beside the kernel and perhaps a planted mistake.
    #[must_use]
    pub fn of(processors: u8, mutation: Option<Mutation>) -> Self {
        let rows = Technique::ALL
            .into_iter()
            .flat_map(|technique| Processor::ALL.map(|processor| (technique, processor)))
            .map(|(technique, processor)| Row {
                technique,
                processor,
                found: explore(technique, processor, processors, mutation),
            })
            .collect();
        Self { rows }
    }

    /// The rows, by technique and then processor.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Number of schedules in all rows.
    #[must_use]
    pub fn schedules(&self) -> u64 {
        self.rows.iter().map(|row| row.found.schedules).sum()
    }

    /// Whether some schedule of this row has the effect.
    #[must_use]
    pub fn can(&self, technique: Technique, processor: Processor, side: ForkSide, effect: Effect) -> bool {
        self.row(technique, processor).found.effects.contains_key(&(side, effect))
    }

    /// The row of a technique on a processor.
    ///
    /// # Panics
    /// Never: a table has all rows.
    #[must_use]
    pub fn row(&self, technique: Technique, processor: Processor) -> &Row {
        self.rows
            .iter()
            .find(|row| row.technique == technique && row.processor == processor)
            .expect("a table has a row for each technique and processor")
    }

    /// The table as Markdown, with the shortest schedule for every yes of the source's rows.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from("| kernel | side | processor |");
        for (_, name) in COLUMNS {
            let _ = write!(text, " {name} |");
        }
        text.push_str(" locked operations: least / most | flush per entry | schedules |\n|");
        text.push_str(&" --- |".repeat(COLUMNS.len() + 6));
        text.push('\n');
        for side in [ForkSide::Source, ForkSide::Destination] {
            for row in &self.rows {
                text.push_str(&self.line(row, side));
            }
        }
        text
    }

    fn line(&self, row: &Row, side: ForkSide) -> String {
        let is_source = side == ForkSide::Source;
        let side_name = if is_source { "source" } else { "destination" };
        let mut line = format!("| {} | {side_name} | {} |", row.technique, row.processor);
        for (effect, _) in COLUMNS {
            // Nobody walks the destination: what only a processor can do has no meaning there.
            let answer = match effect {
                Effect::CreatedByProcessor | Effect::ExtraFault | Effect::LostWrite if !is_source => "-",
                _ if row.found.effects.contains_key(&(side, effect)) => "**yes**",
                _ => "no",
            };
            let _ = write!(line, " {answer} |");
        }
        let (least, most) = if is_source { row.found.locked_operations } else { (0, 0) };
        let flush = if is_source && row.technique.flushes_within() { "**yes**" } else { "no" };
        let _ = writeln!(line, " {least} / {most} | {flush} | {} |", row.found.schedules);
        line
    }

    /// For every yes of the source's rows the shortest schedule that shows it, as Markdown.
    #[must_use]
    pub fn schedules_markdown(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let shown = COLUMNS
                .into_iter()
                .filter_map(|(effect, name)| Some((name, row.found.effects.get(&(ForkSide::Source, effect))?)));
            for (name, events) in shown {
                let _ = writeln!(text, "{}, {}: {name}\n", row.technique, row.processor);
                for line in lines(events) {
                    let _ = writeln!(text, "    {line}");
                }
                text.push('\n');
            }
        }
        text
    }
}

/// A schedule, one event a line.
pub(super) fn lines(events: &[Event]) -> impl Iterator<Item = String> {
    (1..).zip(events).map(|(number, event)| format!("{number}. {event}"))
}
