//! The form in which a step's record travels: the same information in fewer bytes.
//!
//! Postcard writes a number in groups of seven bits, so an entry, whose bit 63 is usually set, would cost
//! ten bytes. Rotated left by six, the bits of an entry without its frame (0..=11 and 58..=63) fit in
//! three. The rotation loses nothing: entries of any value survive it.

use std::fmt;

use ptediff_reference_model::arena::{ActorId, PageIndex};
use ptediff_reference_model::entry::Entry;
use ptediff_reference_model::observation::{
    Cause, EntryChange, FrameName, ObservedEntry, PagemapView, StepRecord, Transition, WitnessMismatch, WitnessReport,
};
use ptediff_reference_model::outcome::Outcome;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Brings bits 58..=63 of an entry below its bit 0.
const ENTRY_ROTATION: u32 = 6;

/// Brings bits 55..=63 of a pagemap word, its flags, to bit 0.
const PAGEMAP_ROTATION: u32 = 9;

const CAUSES: [Cause; 5] = [Cause::Fault, Cause::ForkParent, Cause::ForkChild, Cause::Protect, Cause::ClearRefs];

#[derive(Serialize, Deserialize)]
struct WireRecord<Changes, Transitions> {
    outcome: Outcome,
    alive: u8,
    changes: Changes,
    transitions: Transitions,
    lost: u32,
    witness: Option<WireWitness>,
}

#[derive(Serialize, Deserialize)]
struct WireEntry {
    rotated: u64,
    frame: FrameName,
}

/// Actor in bits 5..=6, page in bits 0..=4.
#[derive(Serialize, Deserialize)]
struct Place(u8);

#[derive(Serialize, Deserialize)]
struct WireChange {
    place: Place,
    entry: WireEntry,
}

#[derive(Serialize, Deserialize)]
struct WireTransition {
    place: Place,
    /// Index in [`CAUSES`], plus 8 for a write, plus 16 for an exclusive page.
    kind: u8,
    before: WireEntry,
    after: WireEntry,
    vm_flags: u64,
    mapcount: u16,
}

#[derive(Serialize, Deserialize)]
struct WireWitness {
    walked: u32,
    mismatches: Vec<WitnessMismatch>,
    pagemap: Vec<WirePagemap>,
}

#[derive(Serialize, Deserialize)]
struct WirePagemap {
    actor: ActorId,
    rotated: Vec<u64>,
    frame_mismatches: Vec<PageIndex>,
}

impl Place {
    fn new(actor: ActorId, page: PageIndex) -> Self {
        Self((actor.index() as u8) << 5 | page.index() as u8)
    }

    fn decode(self) -> Result<(ActorId, PageIndex), String> {
        let actor = ActorId::new(usize::from(self.0 >> 5)).map_err(|error| error.to_string())?;
        let page = PageIndex::new(usize::from(self.0 & 31)).map_err(|error| error.to_string())?;
        Ok((actor, page))
    }
}

impl From<ObservedEntry> for WireEntry {
    fn from(entry: ObservedEntry) -> Self {
        Self { rotated: entry.bits.0.rotate_left(ENTRY_ROTATION), frame: entry.frame }
    }
}

impl From<WireEntry> for ObservedEntry {
    fn from(wire: WireEntry) -> Self {
        Self { bits: Entry(wire.rotated.rotate_right(ENTRY_ROTATION)), frame: wire.frame }
    }
}

impl From<&EntryChange> for WireChange {
    fn from(change: &EntryChange) -> Self {
        Self { place: Place::new(change.actor, change.page), entry: change.entry.into() }
    }
}

impl WireChange {
    fn decode(self) -> Result<EntryChange, String> {
        let (actor, page) = self.place.decode()?;
        Ok(EntryChange { actor, page, entry: self.entry.into() })
    }
}

impl From<&Transition> for WireTransition {
    fn from(transition: &Transition) -> Self {
        let cause = CAUSES.iter().position(|&cause| cause == transition.cause).expect("every cause is listed");
        Self {
            place: Place::new(transition.actor, transition.page),
            kind: cause as u8 | u8::from(transition.write) << 3 | u8::from(transition.anon_exclusive) << 4,
            before: transition.before.into(),
            after: transition.after.into(),
            vm_flags: transition.vm_flags,
            mapcount: transition.mapcount,
        }
    }
}

impl WireTransition {
    fn decode(self) -> Result<Transition, String> {
        let (actor, page) = self.place.decode()?;
        let cause = CAUSES.get(usize::from(self.kind & 7)).filter(|_| self.kind < 32);
        Ok(Transition {
            cause: *cause.ok_or_else(|| format!("transition of unknown kind {}", self.kind))?,
            actor,
            page,
            before: self.before.into(),
            after: self.after.into(),
            vm_flags: self.vm_flags,
            write: self.kind & 8 != 0,
            mapcount: self.mapcount,
            anon_exclusive: self.kind & 16 != 0,
        })
    }
}

impl From<&WitnessReport> for WireWitness {
    fn from(report: &WitnessReport) -> Self {
        let pagemap = report.pagemap.iter().map(|view| WirePagemap {
            actor: view.actor,
            rotated: view.words.iter().map(|word| word.rotate_left(PAGEMAP_ROTATION)).collect(),
            frame_mismatches: view.frame_mismatches.clone(),
        });
        Self { walked: report.walked, mismatches: report.mismatches.clone(), pagemap: pagemap.collect() }
    }
}

impl From<WireWitness> for WitnessReport {
    fn from(wire: WireWitness) -> Self {
        let pagemap = wire.pagemap.into_iter().map(|view| PagemapView {
            actor: view.actor,
            words: view.rotated.iter().map(|word| word.rotate_right(PAGEMAP_ROTATION)).collect(),
            frame_mismatches: view.frame_mismatches,
        });
        Self { walked: wire.walked, mismatches: wire.mismatches, pagemap: pagemap.collect() }
    }
}

/// A slice whose items are written as `Wire` without a copy of the whole.
struct Written<'a, Item, Wire>(&'a [Item], std::marker::PhantomData<Wire>);

impl<'a, Item, Wire> Serialize for Written<'a, Item, Wire>
where
    Wire: Serialize + From<&'a Item>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Wire::from))
    }
}

struct ReadChanges(Vec<EntryChange>);

struct ReadTransitions(Vec<Transition>);

impl<'de> Deserialize<'de> for ReadChanges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Decoded(WireChange::decode)).map(Self)
    }
}

impl<'de> Deserialize<'de> for ReadTransitions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Decoded(WireTransition::decode)).map(Self)
    }
}

/// Decodes the items of a sequence one by one; the announced length is not trusted with memory.
struct Decoded<Wire, Item>(fn(Wire) -> Result<Item, String>);

impl<'de, Wire: Deserialize<'de>, Item> Visitor<'de> for Decoded<Wire, Item> {
    type Value = Vec<Item>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a sequence of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<Item>, A::Error> {
        let mut items = Vec::new();
        while let Some(wire) = sequence.next_element::<Wire>()? {
            items.push((self.0)(wire).map_err(de::Error::custom)?);
        }
        Ok(items)
    }
}

/// Writes a record in its compact form.
pub(crate) fn serialize<S: Serializer>(record: &StepRecord, serializer: S) -> Result<S::Ok, S::Error> {
    WireRecord {
        outcome: record.outcome,
        alive: record.alive,
        changes: Written::<_, WireChange>(&record.changes, std::marker::PhantomData),
        transitions: Written::<_, WireTransition>(&record.transitions, std::marker::PhantomData),
        lost: record.lost,
        witness: record.witness.as_ref().map(WireWitness::from),
    }
    .serialize(serializer)
}

/// Reads a record from its compact form.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StepRecord, D::Error> {
    let wire = WireRecord::<ReadChanges, ReadTransitions>::deserialize(deserializer)?;
    Ok(StepRecord {
        outcome: wire.outcome,
        alive: wire.alive,
        changes: wire.changes.0,
        transitions: wire.transitions.0,
        lost: wire.lost,
        witness: wire.witness.map(WitnessReport::from),
    })
}
