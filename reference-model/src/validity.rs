//! Whether a program can be performed at all, on any machine: who acts must be alive, a forked child's
//! number must be free, and nothing may grow beyond the arena. What a *machine* must have is another question; see [`crate::model::Model`].

use thiserror::Error;

use crate::arena::{ACTORS, ARENA_PAGES, ActorId};
use crate::program::{MAX_STEPS, Operation, Program, Step};

/// Who is alive. A number is free again once its actor has exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Population(u8);

impl Default for Population {
    /// Actor 0 alone, as every program starts.
    fn default() -> Self {
        Self(1)
    }
}

impl Population {
    /// Bit `n` for a living actor `n`.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Whether the actor is alive.
    #[must_use]
    pub fn is_alive(self, actor: ActorId) -> bool {
        self.0 & 1 << actor.index() != 0
    }

    /// The living actors, in order.
    pub fn living(self) -> impl Iterator<Item = ActorId> {
        ActorId::all().filter(move |&actor| self.is_alive(actor))
    }

    /// The free numbers, in order.
    pub fn free(self) -> impl Iterator<Item = ActorId> {
        ActorId::all().filter(move |&actor| !self.is_alive(actor))
    }

    /// Performs the step's births and deaths.
    ///
    /// # Errors
    /// [`Impossible`] when the step cannot be performed; nothing has changed then.
    pub fn step(&mut self, step: &Step) -> Result<(), Impossible> {
        if !self.is_alive(step.actor) {
            return Err(Impossible::ActorNotAlive(step.actor.index()));
        }
        if let Operation::MremapResize { range, pages } = step.operation
            && range.first() + usize::from(pages) > ARENA_PAGES
        {
            return Err(Impossible::LeavesArena(range.first() + usize::from(pages)));
        }
        match step.operation {
            Operation::Fork { child } if self.is_alive(child) => return Err(Impossible::ChildTaken(child.index())),
            Operation::Fork { child } => self.0 |= 1 << child.index(),
            Operation::Exit => self.0 &= !(1 << step.actor.index()),
            _ => {}
        }
        Ok(())
    }
}

/// Why a step cannot be performed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Impossible {
    /// The step's actor was never forked, or has exited.
    #[error("actor {0} is not alive at this step")]
    ActorNotAlive(usize),
    /// The fork's child number belongs to a living actor.
    #[error("fork cannot give the child the number {0}: that actor is alive")]
    ChildTaken(usize),
    /// The mapping would grow beyond the arena, to this slot.
    #[error("the mapping would end at slot {0}, outside the arena of {ARENA_PAGES} pages")]
    LeavesArena(usize),
}

/// Why a program cannot be performed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidProgram {
    /// More steps than [`MAX_STEPS`].
    #[error("the program has {0} steps; at most {MAX_STEPS} are allowed")]
    TooLong(usize),
    /// One step cannot be performed.
    #[error("step {index}: {reason}")]
    Step {
        /// The step's index.
        index: usize,
        /// What is wrong with it.
        reason: Impossible,
    },
}

/// Checks that every step of the program can be performed in its place.
///
/// # Errors
/// [`InvalidProgram`], naming the first step that cannot.
pub fn check_program(program: &Program) -> Result<(), InvalidProgram> {
    if program.steps.len() > MAX_STEPS {
        return Err(InvalidProgram::TooLong(program.steps.len()));
    }
    let mut population = Population::default();
    for (index, step) in program.steps.iter().enumerate() {
        population.step(step).map_err(|reason| InvalidProgram::Step { index, reason })?;
    }
    Ok(())
}

/// The program without the steps that cannot be performed, and without those beyond [`MAX_STEPS`].
#[must_use]
pub fn repaired(program: &Program) -> Program {
    let mut population = Population::default();
    let possible = program.steps.iter().filter(|step| population.step(step).is_ok());
    Program { steps: possible.take(MAX_STEPS).copied().collect() }
}

const _: () = assert!(ACTORS <= 8, "a population is one byte");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::PageRange;

    fn step(actor: usize, operation: Operation) -> Step {
        Step { actor: ActorId::new(actor).expect("an actor"), operation }
    }

    fn fork(actor: usize, child: usize) -> Step {
        step(actor, Operation::Fork { child: ActorId::new(child).expect("an actor") })
    }

    fn check(steps: Vec<Step>, expected: Result<(), InvalidProgram>, left: usize) {
        let program = Program { steps };
        assert_eq!(check_program(&program), expected);
        let repaired = repaired(&program);
        assert_eq!(check_program(&repaired), Ok(()));
        assert_eq!(repaired.steps.len(), left);
    }

    #[test]
    fn the_dead_do_not_act_and_the_living_are_not_born() {
        let exit = |actor| step(actor, Operation::Exit);
        let clear = |actor| step(actor, Operation::ClearSoftDirty);
        let wrong = |index, reason| Err(InvalidProgram::Step { index, reason });
        check(vec![], Ok(()), 0);
        check(vec![fork(0, 1), clear(1), exit(0), clear(1)], Ok(()), 4);
        check(vec![clear(1)], wrong(0, Impossible::ActorNotAlive(1)), 0);
        check(vec![fork(0, 1), exit(1), clear(1)], wrong(2, Impossible::ActorNotAlive(1)), 2);
        check(vec![fork(0, 1), fork(1, 0)], wrong(1, Impossible::ChildTaken(0)), 1);
        check(vec![fork(0, 0)], wrong(0, Impossible::ChildTaken(0)), 0);
        check(vec![fork(0, 1), exit(1), fork(0, 1)], Ok(()), 3);
        let range = PageRange::new(30, 1).expect("in the arena");
        let resize = |pages| step(0, Operation::MremapResize { range, pages });
        check(vec![resize(0), resize(2)], Ok(()), 2);
        check(vec![resize(3)], wrong(0, Impossible::LeavesArena(33)), 0);
        check(vec![clear(0); MAX_STEPS + 1], Err(InvalidProgram::TooLong(MAX_STEPS + 1)), MAX_STEPS);
    }
}
