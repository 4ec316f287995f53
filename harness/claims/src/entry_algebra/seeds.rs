//! The two designs that no kernel ever had, checked against the seeds' own text: the five states, and each helper of
//! the patch on each state.
//!
//! The tables below are written from the text, by hand, and not from the model. A row gives, for each of the eight
//! states in the order of [`State::ALL`] (Write, Dirty, Cow as binary digits), the state after the helper.

use ptediff_reference_model::algebra::{
    Algebra, Configuration, Design, Helper, Kind, Level, Page, Question, SAVED_DIRTY_OR_COW, State,
};
use ptediff_reference_model::entry::{P, RW, US};

use super::tally::Tally;
use crate::claim::{Cases, Effort, Refuted};

/// The CPU has shadow stacks and the kernel is built for them.
const ON: fn(Design) -> Algebra = |design| Algebra::new(design, true);
/// Built for them, on another CPU.
const WITHOUT_CPU: fn(Design) -> Algebra = |design| Algebra::new(design, false);
/// `CONFIG_X86_SHADOW_STACK` is off: `_PAGE_COW` is 0. The CPU does not matter.
const NOT_BUILT: fn(Design) -> Algebra =
    |design| Algebra::new(design, true).built_with(Configuration { shadow_stack: false, ..Configuration::ALL_ON });

/// A helper of the patch with what the text makes it do.
struct Row {
    helper: Helper,
    levels: &'static [Level],
    after: [u8; 8],
}

const fn row(helper: Helper, after: [u8; 8]) -> Row {
    Row { helper, levels: &Level::ALL, after }
}

const fn at(levels: &'static [Level], helper: Helper, after: [u8; 8]) -> Row {
    Row { helper, levels, after }
}

const LOWER: &[Level] = &[Level::Pte, Level::Pmd];
const PTE: &[Level] = &[Level::Pte];
const HIGHER: &[Level] = &[Level::Pmd, Level::Pud];
const PUD: &[Level] = &[Level::Pud];
const UNCHANGED: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// What holds in both years with shadow stacks. Predicates give 0 or 1.
const WITH_SHADOW_STACKS: [Row; 11] = [
    row(Helper::Dirty, [0, 1, 1, 1, 0, 1, 1, 1]),
    at(LOWER, Helper::Shstk, [0, 0, 1, 1, 0, 0, 0, 0]),
    at(LOWER, Helper::Write, [0, 0, 1, 1, 1, 1, 1, 1]),
    at(PUD, Helper::Write, [0, 0, 0, 0, 1, 1, 1, 1]),
    row(Helper::Mkcow, [1, 1, 1, 1, 5, 5, 5, 5]),
    row(Helper::ClearCow, [2, 2, 2, 2, 6, 6, 6, 6]),
    row(Helper::Mkclean, [0, 0, 0, 0, 4, 4, 4, 4]),
    row(Helper::Wrprotect, [0, 1, 1, 1, 0, 1, 1, 1]),
    at(LOWER, Helper::MkwriteShstk, [2, 2, 2, 2, 6, 6, 6, 6]),
    row(Helper::Mkwrite, [4, 6, 6, 6, 4, 6, 6, 6]),
    row(Helper::Mkyoung, UNCHANGED),
];

/// A shadow stack is writable to `pte_write`, so `pte_mkdirty` sets Dirty in it, and not the bit.
const MKDIRTY_BY_WRITE: [u8; 8] = [1, 1, 2, 3, 6, 7, 6, 7];
/// A higher level that looks at RW alone sets the bit beside Dirty.
const MKDIRTY_BY_RW: [u8; 8] = [1, 1, 3, 3, 6, 7, 6, 7];

const WITHOUT_SHADOW_STACK_CPU: [Row; 10] = [
    row(Helper::Dirty, [0, 1, 1, 1, 0, 1, 1, 1]),
    at(LOWER, Helper::Shstk, [0; 8]),
    row(Helper::Write, [0, 0, 0, 0, 1, 1, 1, 1]),
    row(Helper::Mkcow, UNCHANGED),
    row(Helper::ClearCow, UNCHANGED),
    row(Helper::Mkclean, [0, 0, 0, 0, 4, 4, 4, 4]),
    row(Helper::Wrprotect, [0, 1, 2, 3, 0, 1, 2, 3]),
    row(Helper::Mkdirty, [2, 3, 2, 3, 6, 7, 6, 7]),
    at(LOWER, Helper::MkwriteShstk, UNCHANGED),
    row(Helper::Mkwrite, [4, 5, 6, 7, 4, 5, 6, 7]),
];

/// The third digit is then a bit that means nothing: it stays.
const WITHOUT_CONFIGURATION: [Row; 10] = [
    row(Helper::Dirty, [0, 0, 1, 1, 0, 0, 1, 1]),
    at(LOWER, Helper::Shstk, [0; 8]),
    row(Helper::Write, [0, 0, 0, 0, 1, 1, 1, 1]),
    row(Helper::Mkcow, UNCHANGED),
    row(Helper::ClearCow, UNCHANGED),
    row(Helper::Mkclean, [0, 1, 0, 1, 4, 5, 4, 5]),
    row(Helper::Wrprotect, [0, 1, 2, 3, 0, 1, 2, 3]),
    row(Helper::Mkdirty, [2, 3, 2, 3, 6, 7, 6, 7]),
    at(LOWER, Helper::MkwriteShstk, UNCHANGED),
    row(Helper::Mkwrite, [4, 5, 6, 7, 4, 5, 6, 7]),
];

fn check_rows<'rows>(
    tally: &mut Tally,
    algebra: &Algebra,
    rows: impl IntoIterator<Item = &'rows Row>,
) -> Result<(), Refuted> {
    // Bits that no helper here may touch.
    let rest = P | US | 1 << 40;
    for Row { helper, levels, after } in rows {
        for &level in *levels {
            for (number, before) in State::ALL.into_iter().enumerate() {
                let entry = rest | before.bits();
                let answer = algebra.answer(Question::of(level, *helper), entry);
                let expected = match helper.kind() {
                    Kind::Predicate | Kind::Number => u64::from(after[number]),
                    Kind::Transformer => {
                        // pte_mkdirty also sets soft-dirty, pte_mkyoung Accessed.
                        let besides = match helper {
                            Helper::Mkdirty => algebra.soft_dirty_bit(),
                            Helper::Mkyoung => ptediff_reference_model::entry::A,
                            _ => 0,
                        };
                        rest | besides | State::ALL[usize::from(after[number])].bits()
                    }
                };
                tally.must(answer == Some(expected), || {
                    let name = helper.name(level);
                    format!("{:?}: {name} of {before} gives {answer:x?}, the text {expected:#x}", algebra.design)
                })?;
            }
        }
    }
    Ok(())
}

/// Each helper of the patch as posted in January 2022, on each state, at each level.
pub(super) fn helpers_of_2022(_: Effort) -> Result<Cases, Refuted> {
    let mut tally = Tally::default();
    check_rows(&mut tally, &ON(Design::Cow2022), &WITH_SHADOW_STACKS)?;
    let mkdirty = [at(LOWER, Helper::Mkdirty, MKDIRTY_BY_WRITE), at(PUD, Helper::Mkdirty, MKDIRTY_BY_RW)];
    check_rows(&mut tally, &ON(Design::Cow2022), &mkdirty)?;
    check_rows(&mut tally, &WITHOUT_CPU(Design::Cow2022), &WITHOUT_SHADOW_STACK_CPU)?;
    check_rows(&mut tally, &NOT_BUILT(Design::Cow2022), &WITHOUT_CONFIGURATION)?;
    tally.of("states x helpers")
}

/// The same for 2021, which differs in `pmd_mkdirty` alone.
pub(super) fn helpers_of_2021(_: Effort) -> Result<Cases, Refuted> {
    let mut tally = Tally::default();
    check_rows(&mut tally, &ON(Design::Cow2021), &WITH_SHADOW_STACKS)?;
    let mkdirty = [at(PTE, Helper::Mkdirty, MKDIRTY_BY_WRITE), at(HIGHER, Helper::Mkdirty, MKDIRTY_BY_RW)];
    check_rows(&mut tally, &ON(Design::Cow2021), &mkdirty)?;
    check_rows(&mut tally, &WITHOUT_CPU(Design::Cow2021), &WITHOUT_SHADOW_STACK_CPU)?;
    check_rows(&mut tally, &NOT_BUILT(Design::Cow2021), &WITHOUT_CONFIGURATION)?;
    tally.of("states x helpers")
}

/// The five states of the text, as Write, Dirty, Cow.
const STATES_OF_THE_TEXT: [(Page, [u8; 3]); 5] = [
    (Page::ModifiedThenShared, [0, 0, 1]),
    (Page::ReadOnlyCopiedForGup, [0, 0, 1]),
    (Page::ShadowStack, [0, 1, 0]),
    (Page::SharedShadowStack, [0, 0, 1]),
    (Page::DirtySetLate, [0, 1, 0]),
];

/// The pages (a) to (e) come to the encodings that the text gives them, by the helpers of either year.
pub(super) fn states_of_the_text(_: Effort) -> Result<Cases, Refuted> {
    let mut tally = Tally::default();
    for design in [Design::Cow2021, Design::Cow2022] {
        for (page, bits) in STATES_OF_THE_TEXT {
            // (e) is of CPUs without shadow stacks, the others are told for CPUs with them.
            let algebra = if page == Page::DirtySetLate { WITHOUT_CPU(design) } else { ON(design) };
            let (found, expected) = (algebra.state_of(page), State::of(bits));
            tally.must(found == Some(expected), || format!("{design:?}: ({}) is {found:?}", page.letter()))?;
            let on_new_cpu = ON(design).state_of(Page::DirtySetLate);
            tally.must(on_new_cpu.is_none(), || {
                format!("{design:?}: (e) on a CPU with shadow stacks: {on_new_cpu:?}")
            })?;
        }
        // On another CPU (a) and (b) look as they always did.
        for page in [Page::ModifiedThenShared, Page::ReadOnlyCopiedForGup] {
            let found = WITHOUT_CPU(design).state_of(page);
            tally.must(found == Some(State::of([0, 1, 0])), || format!("{design:?}: ({}) {found:?}", page.letter()))?;
        }
    }
    tally.of("pages x designs")
}

/// `pte_modify` of the posted series: 11/35 moves the dirty state by the new RW, but `_PAGE_CHG_MASK` had not got the
/// bit, so that (a), (b) and (d) lose theirs. Version 2 (September 2022) put the bit into the mask.
pub(super) fn modify_loses_cow(_: Effort) -> Result<Cases, Refuted> {
    const TO_READ_ONLY: [u8; 8] = [0, 0, 1, 1, 0, 0, 1, 1];
    const TO_WRITABLE: [u8; 8] = [4, 4, 6, 6, 4, 4, 6, 6];
    let mut tally = Tally::default();
    for design in [Design::Cow2021, Design::Cow2022] {
        let algebra = ON(design);
        for level in LOWER.iter().copied() {
            for (protection, after) in [(P | US, TO_READ_ONLY), (P | US | RW, TO_WRITABLE)] {
                let question = Question { level, helper: Helper::Modify, argument: protection };
                for (number, before) in State::ALL.into_iter().enumerate() {
                    let answer = algebra.answer(question, P | US | before.bits()).map(State::of_entry);
                    let expected = State::ALL[usize::from(after[number])];
                    tally
                        .must(answer == Some(expected), || format!("{design:?} {level}: {before} gives {answer:?}"))?;
                }
            }
            let kept = algebra.kept_by_modify(level);
            tally.must(kept & SAVED_DIRTY_OR_COW == 0, || format!("{design:?} {level}: the mask has the bit"))?;
        }
    }
    tally.of("states x protections")
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::algebra::PlantedFault;

    use super::*;

    /// The tables are no tables that accept anything.
    #[test]
    fn a_wrong_helper_contradicts_the_text() {
        let wrong = ON(Design::Cow2022).with_planted(PlantedFault::ClearCowLeavesClean);
        let refuted =
            check_rows(&mut Tally::default(), &wrong, &WITH_SHADOW_STACKS).expect_err("a wrong pte_clear_cow");
        assert!(refuted.what.contains("pte_clear_cow of Write=0 Dirty=0 Saved=0"), "{refuted}");
        // Nor is one design taken for another.
        for design in Design::ALL.into_iter().filter(|design| !design.is_cow()) {
            check_rows(&mut Tally::default(), &ON(design), &WITH_SHADOW_STACKS).expect_err("another design");
        }
    }
}
