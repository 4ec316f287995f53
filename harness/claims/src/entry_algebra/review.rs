//! Dave Hansen's questions about the patch of January 2022, and those that its text raises.

use ptediff_reference_model::algebra::{
    Algebra, Configuration, Design, Domain, FREE_FOR_SOFTWARE, Helper, Level, Page, Question, Reach,
    SAVED_DIRTY_OR_COW, State,
};
use ptediff_reference_model::entry::{D, P, PAT, RW, US};

use super::tally::Tally;
use crate::claim::{Cases, Effort, Refuted};

const COW: [Design; 2] = [Design::Cow2021, Design::Cow2022];
const SAVED_DIRTY: [Design; 2] = [Design::SavedDirtyWithDevmap, Design::SavedDirty];

/// The helpers that the patch changes or adds.
const TOUCHED: [Helper; 8] = [
    Helper::Dirty,
    Helper::Write,
    Helper::Mkclean,
    Helper::Wrprotect,
    Helper::Mkdirty,
    Helper::Mkwrite,
    Helper::Mkyoung,
    Helper::Young,
];

fn not_built(design: Design) -> Algebra {
    Algebra::new(design, true).built_with(Configuration { shadow_stack: false, ..Configuration::ALL_ON })
}

/// How far the checks over entries go.
fn domain(effort: Effort) -> Vec<Domain> {
    let reach = if effort == Effort::Full { Reach::Full } else { Reach::Representative };
    Domain::of(Helper::Dirty, reach)
}

pub(super) fn a_and_b(_: Effort) -> Result<Cases, Refuted> {
    let mut tally = Tally::default();
    for design in Design::ALL {
        for shadow_stack_cpu in [false, true] {
            let algebra = Algebra::new(design, shadow_stack_cpu);
            let state = |page| algebra.state_of(page);
            let (a, b) = (state(Page::ModifiedThenShared), state(Page::ReadOnlyCopiedForGup));
            tally.must(a == b, || format!("{design:?}: (a) is {a:?}, (b) is {b:?}"))?;
            let Some(d) = state(Page::SharedShadowStack) else { continue };
            tally.must(Some(d) == a, || format!("{design:?}: (d) is {d}, (a) is {a:?}"))?;
            // Only what the caller says of the VMA can tell (a) from (d) again.
            let entry = P | US | d.bits();
            let separated = Helper::ALL.iter().filter(|helper| {
                let mut answers =
                    Question::about(Level::Pte, **helper).filter_map(|question| algebra.answer(question, entry));
                let first = answers.next();
                **helper != Helper::Modify && answers.any(|answer| Some(answer) != first)
            });
            let separated: Vec<_> = separated.collect();
            let expected: &[&Helper] = if design.is_saved_dirty() { &[&Helper::Mkwrite] } else { &[] };
            tally.must(separated == expected, || format!("{design:?}: {separated:?} tell (a) from (d)"))?;
        }
    }
    tally.of("pages x designs")
}

pub(super) fn mkwrite_shstk(effort: Effort) -> Result<Cases, Refuted> {
    let mut tally = Tally::default();
    for design in COW.into_iter().chain(SAVED_DIRTY) {
        let algebra = Algebra::new(design, true);
        let (c, d) = (algebra.state_of(Page::ShadowStack), algebra.state_of(Page::SharedShadowStack));
        for level in [Level::Pte, Level::Pmd] {
            let ask = |helper, entry| algebra.answer(Question::of(level, helper), entry).unwrap_or(0);
            let shared = P | US | PAT | d.map_or(0, State::bits);
            let writable = ask(Helper::MkwriteShstk, shared);
            tally.must(Some(State::of_entry(writable)) == c, || format!("{design:?}: (d) becomes {writable:#x}"))?;
            // It is Dirty that gives the right to write, and that the helper sets; the software bit gives none.
            tally.must(ask(Helper::Write, shared) == 0 && ask(Helper::Write, writable) == 1, || {
                format!("{design:?}: pte_write is not what mkwrite_shstk changes")
            })?;
            // In the merged design the bit is left alone, so the old name's puzzle is gone.
            let kept = writable & SAVED_DIRTY_OR_COW == shared & SAVED_DIRTY_OR_COW;
            tally.must(kept == design.is_saved_dirty(), || format!("{design:?}: the software bit: {writable:#x}"))?;
            for entry in domain(effort).into_iter().flat_map(Domain::entries).filter(|entry| entry & RW == 0) {
                let stack = ask(Helper::MkwriteShstk, entry | PAT);
                tally.must(ask(Helper::Shstk, stack) == 1, || {
                    format!("{design:?}: {level}_mkwrite_shstk of {entry:#x} is no shadow stack")
                })?;
            }
        }
    }
    tally.of("read-only entries x designs")
}

pub(super) fn compiled_out(effort: Effort) -> Result<Cases, Refuted> {
    let mut tally = Tally::default();
    let before = Algebra::new(Design::BeforeShadowStacks, true);
    let differs = |algebra: Algebra, level, helper, entry| {
        algebra.answer(Question::of(level, helper), entry) != before.answer(Question::of(level, helper), entry)
    };
    for entry in domain(effort).into_iter().flat_map(Domain::entries) {
        for (level, helper) in Level::ALL.into_iter().flat_map(|level| TOUCHED.map(|helper| (level, helper))) {
            for design in COW {
                tally.must(!differs(not_built(design), level, helper, entry), || {
                    format!("{design:?} compiled out: {} of {entry:#x} differs", helper.name(level))
                })?;
                // Compiled in, on another CPU: the same, as long as nobody sets the bit, and no helper does.
                let on_other_cpu = Algebra::new(design, false);
                let clean = entry & !SAVED_DIRTY_OR_COW;
                tally.must(!differs(on_other_cpu, level, helper, clean), || {
                    format!("{design:?} on another CPU: {} of {clean:#x} differs", helper.name(level))
                })?;
            }
        }
    }
    // Of the merged design nothing goes away but the shadow-stack form of pte_mkwrite, for want of such VMAs.
    for design in SAVED_DIRTY {
        let (with, without) = (Algebra::new(design, true), not_built(design));
        let questions = Level::ALL
            .into_iter()
            .flat_map(|level| Helper::ALL.iter().flat_map(move |helper| Question::about(level, *helper)));
        for question in questions {
            for entry in State::ALL.map(|state| P | US | PAT | state.bits()) {
                let changes = with.answer(question, entry) != without.answer(question, entry);
                let may = question.helper == Helper::Mkwrite && question.argument == Question::SHADOW_STACK_VMA;
                tally.must(!changes || may, || format!("{design:?}: {question:?} of {entry:#x} goes away"))?;
            }
        }
    }
    tally.of("entries x helpers")
}

/// The states that a chain of helpers can reach from a clean read-only entry.
fn reachable(algebra: &Algebra, level: Level, helpers: &[Helper]) -> Vec<State> {
    let mut reached = vec![State::of([0, 0, 0])];
    let mut next = 0;
    while let Some(state) = reached.get(next).copied() {
        next += 1;
        for question in helpers.iter().flat_map(|helper| Question::about(level, *helper)) {
            let Some(answer) = algebra.answer(question, P | PAT | state.bits()) else { continue };
            let state = State::of_entry(answer);
            if !reached.contains(&state) {
                reached.push(state);
            }
        }
    }
    reached.sort();
    reached
}

pub(super) fn dirty_and_cow(_: Effort) -> Result<Cases, Refuted> {
    /// What the rest of the kernel calls; mkcow and clear_cow are the helpers' own.
    const CALLED: [Helper; 7] = [
        Helper::Mkclean,
        Helper::Mkdirty,
        Helper::Wrprotect,
        Helper::Mkwrite,
        Helper::MkwriteShstk,
        Helper::MkuffdWp,
        Helper::Modify,
    ];
    let mut tally = Tally::default();
    let both = |states: &[State]| states.iter().any(|state| state.dirty && state.saved);
    for design in COW.into_iter().chain(SAVED_DIRTY) {
        let algebra = Algebra::new(design, true);
        // pte_dirty() is true of a page whose only mark is the software bit.
        let is_dirty = algebra.answer(Question::of(Level::Pte, Helper::Dirty), P | SAVED_DIRTY_OR_COW);
        tally.must(is_dirty == Some(1), || format!("{design:?}: a COW page is not dirty"))?;
        for level in Level::ALL {
            let states = reachable(&algebra, level, &CALLED);
            // 2021's pmd_mkdirty and pud_mkdirty ask for RW, so a huge shadow stack got both. pud has no
            // mkwrite_shstk: it never becomes one.
            let expected =
                design.is_saved_dirty() && level != Level::Pud || design == Design::Cow2021 && level == Level::Pmd;
            tally.must(both(&states) == expected, || format!("{design:?} {level}: {states:?}"))?;
            let writable = states.iter().any(|state| state.write && state.saved);
            tally.must(!writable, || format!("{design:?} {level}: Write and the bit: {states:?}"))?;
        }
    }
    tally.of("designs x levels")
}

pub(super) fn software_bits(_: Effort) -> Result<Cases, Refuted> {
    let mut tally = Tally::default();
    for (design, expected) in [
        (Design::BeforeShadowStacks, 0b11_1111 << 52),
        (Design::Cow2021, 0b1_1111 << 52),
        (Design::Cow2022, 0b1_1111 << 52),
        (Design::SavedDirtyWithDevmap, 0b1_1111 << 52),
        (Design::SavedDirty, 0b11_1111 << 52),
    ] {
        let free = Algebra::new(design, true).free_software_bits();
        tally.must(free == expected, || format!("{design:?}: free are {free:#018x}"))?;
    }
    tally.must(FREE_FOR_SOFTWARE.count_ones() == 10, || "the CPU leaves other bits than 9-11 and 52-58".to_owned())?;
    tally.of("designs")
}

pub(super) fn shadow_stack_is_writable(effort: Effort) -> Result<Cases, Refuted> {
    let mut tally = Tally::default();
    for design in COW.into_iter().chain(SAVED_DIRTY) {
        let algebra = Algebra::new(design, true);
        for entry in domain(effort).into_iter().flat_map(Domain::entries) {
            for level in [Level::Pte, Level::Pmd] {
                let ask = |helper, entry| algebra.answer(Question::of(level, helper), entry).unwrap_or(0);
                if ask(Helper::Shstk, entry) == 1 {
                    let writable = ask(Helper::Write, entry) == 1 && entry & RW == 0;
                    tally.must(writable, || format!("{design:?}: {level}_write of {entry:#x}"))?;
                    // What fork does because of it: the copy is no shadow stack, and not writable.
                    let shared = ask(Helper::Wrprotect, entry);
                    let taken = ask(Helper::Shstk, shared) == 0 && ask(Helper::Write, shared) == 0;
                    tally.must(taken, || format!("{design:?}: {level}_wrprotect of {entry:#x} is {shared:#x}"))?;
                    // It stays dirty, so that nothing is lost.
                    tally.must(ask(Helper::Dirty, shared) == 1, || format!("{design:?}: {shared:#x} is clean"))?;
                }
            }
        }
    }
    tally.of("shadow-stack entries x designs")
}

pub(super) fn state_e(effort: Effort) -> Result<Cases, Refuted> {
    let mut tally = Tally::default();
    for design in COW.into_iter().chain(SAVED_DIRTY) {
        let (new_cpu, old_cpu) = (Algebra::new(design, true), Algebra::new(design, false));
        let e = old_cpu.state_of(Page::DirtySetLate);
        // The series clear the bit when they make a shadow stack, so (c) and (e) are one encoding. The merged design
        // leaves the bit of a page that was dirty before; of one that was not, (c) is (e) again.
        let clean_stack = new_cpu.answer(Question::of(Level::Pte, Helper::MkwriteShstk), P).map(State::of_entry);
        tally.must(clean_stack == e, || format!("{design:?}: (c) of a clean page {clean_stack:?}, (e) {e:?}"))?;
        if design.is_cow() {
            let c = new_cpu.state_of(Page::ShadowStack);
            tally.must(c == e, || format!("{design:?}: (c) is {c:?}, (e) is {e:?}"))?;
        }
        for entry in domain(effort).into_iter().flat_map(Domain::entries) {
            // On a CPU that can make (e), nothing is ever taken for a shadow stack.
            for level in Level::ALL {
                let stack = old_cpu.answer(Question::of(level, Helper::Shstk), entry).unwrap_or(0);
                tally.must(stack == 0, || format!("{design:?}: {entry:#x} is a shadow stack without the CPU"))?;
            }
        }
    }
    tally.of("entries x designs")
}

pub(super) fn huge_modify(effort: Effort) -> Result<Cases, Refuted> {
    let mut tally = Tally::default();
    for design in Design::ALL.into_iter().filter(|design| !design.is_cow()) {
        let algebra = Algebra::new(design, true);
        for entry in domain(effort).into_iter().flat_map(Domain::entries) {
            let written = entry | P | US | RW | D | PAT;
            for level in Level::ALL {
                let question = Question { level, helper: Helper::Modify, argument: P | US };
                let Some(read_only) = algebra.answer(question, written) else { continue };
                let is_dirty = algebra.answer(Question::of(level, Helper::Dirty), read_only) == Some(1);
                let was_saved = design.is_saved_dirty() && entry & SAVED_DIRTY_OR_COW != 0;
                let loses = design == Design::SavedDirtyWithDevmap && level == Level::Pmd && !was_saved;
                tally.must(is_dirty != loses, || {
                    format!("{design:?}: {level}_modify of {written:#x} is {read_only:#x}")
                })?;
            }
        }
    }
    tally.of("written entries x kernels")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(check: fn(Effort) -> Result<Cases, Refuted>) {
        let cases = check(Effort::Representative).unwrap_or_else(|refuted| panic!("{refuted}"));
        assert!(cases.count > 0);
    }

    /// "What the difference is between [a] and [b] and why they are separate. Is their handling different?"
    ///
    /// They are the same three bits in every design, and so is (d): no helper can tell them apart, and none handles
    /// them differently. What tells (d) from the other two is the VMA, which the merged `pte_mkwrite` therefore takes
    /// as an argument, the only helper whose answer depends on it.
    #[test]
    fn are_a_and_b_distinguishable_and_does_anything_treat_them_differently() {
        holds(a_and_b);
    }

    /// "It's hard to wrap my head around how clearing a software bit (from the naming) will make this PTE writable."
    ///
    /// It does not: `pte_clear_cow` also sets Dirty, and Write=0, Dirty=1 is the right to write to a shadow stack.
    /// The merged `pte_mkwrite_shstk` says so: it clears Write, sets Dirty, and leaves the software bit as it was.
    #[test]
    fn how_does_mkwrite_shstk_turn_d_into_c() {
        holds(mkwrite_shstk);
    }

    /// "Does it all go away when this is compiled out?"
    ///
    /// Yes: with the configuration off every helper that the patch touches answers as before the patch on every
    /// entry, and compiled in on a CPU without shadow stacks on every entry that the helpers can make. The merged
    /// design does not go away: Dirty moves to bit 58 in every build, and even `pte_shstk` asks the CPU alone.
    #[test]
    fn does_everything_vanish_when_compiled_out() {
        holds(compiled_out);
    }

    /// "This leaves me wondering why a pte_dirty() can't also be a 'COW PTE'."
    ///
    /// Every COW entry is `pte_dirty()`; what never stands together, by any chain of the helpers of 2022, is the bit
    /// with Dirty or with Write (2021's `pmd_mkdirty` could, on a shadow stack). In the merged design Dirty and
    /// SavedDirty together are what a freshly written shadow stack looks like.
    #[test]
    fn can_a_dirty_pte_also_be_a_cow_pte() {
        holds(dirty_and_cow);
    }

    /// "There are six bits left available to software in the 64-bit PTE after consuming a bit for _PAGE_COW."
    ///
    /// Five: of the ten bits that the CPU ignores (9 to 11, 52 to 58), 9 to 11 are special, uffd-wp and soft-dirty,
    /// 57 became `_PAGE_DEVMAP` by the same patch and 58 `_PAGE_COW`, which leaves 52 to 56. Six is right again in
    /// 7.2, which has no `_PAGE_DEVMAP`.
    #[test]
    fn how_many_software_bits_are_left() {
        holds(software_bits);
    }

    /// Why is `pte_write` true for a shadow stack, which no ordinary store can write?
    ///
    /// Because fork write-protects what `pte_write` says is writable: without that, parent and child would share one
    /// live shadow stack. After `pte_wrprotect` it is neither a shadow stack nor writable, and still dirty.
    #[test]
    fn why_is_pte_write_true_for_a_shadow_stack() {
        holds(shadow_stack_is_writable);
    }

    /// "Define _PAGE_COW and update pte_*() helpers and apply the same changes to pmd and pud": were they the same?
    ///
    /// Not in 6.12.95, whose `pmd_modify` drops Dirty before it could be saved: mprotect makes a written huge page
    /// clean. 6.1 and 7.2 keep it, and 6.12's other two levels do.
    #[test]
    fn does_a_change_of_protection_treat_all_levels_alike() {
        holds(huge_modify);
    }

    /// "How you are going to detangle the mess where PTEs look like shadow-stack PTEs on non-shadow-stack hardware."
    ///
    /// (e) and (c) are the same bits, so nothing in the entry can tell them apart. They never meet: `pte_shstk` is
    /// false on every CPU that can make (e), and a CPU with shadow stacks does not make it.
    #[test]
    fn is_state_e_the_same_as_state_c() {
        holds(state_e);
    }
}
