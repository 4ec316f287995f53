//! The executor: one program after another, step by step.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ptediff_reference_model::arena::{ACTORS, ActorId};
use ptediff_reference_model::outcome::{FaultMessage, Outcome};
use ptediff_reference_model::program::{Operation, Protection, Step, copy_value};
use ptediff_reference_model::uffd::{UFFDS, UffdFeatures};

use crate::classify::{self, Unclassified, errno};
use crate::code::Sites;
use crate::error::{ExecuteError, WaitStatus};
use crate::handshake::{NoAnswer, SharedMailbox};
use crate::mailbox::{Answer, Command};
use crate::nursery::Nursery;
use crate::uffd::Message;
use crate::{merging, process, uffd};

/// How to run actors.
#[derive(Debug, Clone)]
pub struct ExecutorOptions {
    /// Whether actors run with a shadow stack of their own and may use WRSS. Needs a CPU and a kernel that
    /// have user shadow stacks.
    pub shadow_stack: bool,
    /// The executable that calls [`actor_main`](crate::actor_main) when asked to; commonly `/proc/self/exe`.
    pub executable: PathBuf,
    /// How long a process may take to answer or to end, in the clock of the machine it runs on.
    pub step_timeout: Duration,
}

/// An open userfaultfd.
#[derive(Debug, Clone, Copy)]
struct Uffd {
    descriptor: u32,
    /// Whose memory it acts on.
    owner: ActorId,
    /// Whether it was opened with UFFD_FEATURE_EVENT_FORK.
    tells_of_forks: bool,
    /// Whether it was opened without UFFD_FEATURE_SIGBUS: accesses may wait for it.
    is_waited_for: bool,
}

/// An access that waits for a userfaultfd, or did so.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    operation: Operation,
    /// The message that was read last.
    message: FaultMessage,
}

/// Runs programs in actor processes, one step at a time.
///
/// All actors die with the thread that started the executor, so it stays on that thread (it is not `Send`).
/// Nobody else in the process may reap children at large (`waitpid(-1)`).
pub struct Executor {
    mailbox: SharedMailbox,
    nursery: Nursery,
    /// Process identifiers of living actors.
    actors: [Option<u32>; ACTORS],
    /// The userfaultfds of the program, in the table of open files that nursery and actors share.
    uffds: [Option<Uffd>; UFFDS],
    /// Actors whose access waits for a userfaultfd, or did so and were not asked about it since.
    waiting: [Option<Waiting>; ACTORS],
    /// Whether a program was begun and not ended.
    in_program: bool,
    /// Whether actor 0 answered all it was asked and can serve the next program: one whose keys or PKRU the program
    /// may have changed cannot.
    first_is_healthy: bool,
    /// Actors that a signal killed in this program, and those that they were to fork: their numbers are taken.
    killed: [bool; ACTORS],
    /// Whether some actor has run on a shadow stack of the arena: actor 0 may still.
    leaves_home: bool,
    /// Whether the program has done what may leave references in a per-CPU batch of pages.
    drains: bool,
    sites: Sites,
    timeout: Duration,
}

impl Executor {
    /// Starts the nursery; no actor yet.
    ///
    /// # Errors
    /// All of them the rig's: see [`ExecuteError`]. [`ExecuteError::NoShadowStack`] when a shadow stack was
    /// asked for in vain.
    pub fn start(options: &ExecutorOptions) -> Result<Self, ExecuteError> {
        let timeout = options.step_timeout;
        let (mailbox, memory) = SharedMailbox::create()?;
        let nursery = Nursery::start(&mailbox, &memory, &options.executable, options.shadow_stack, timeout)?;
        let sites = Sites::get();
        Ok(Self {
            mailbox,
            nursery,
            actors: [None; ACTORS],
            uffds: [None; UFFDS],
            waiting: [None; ACTORS],
            in_program: false,
            first_is_healthy: false,
            killed: [false; ACTORS],
            leaves_home: false,
            drains: false,
            sites,
            timeout,
        })
    }

    /// The nursery's process identifier: the parent that observers see when actor 0 is forked.
    #[must_use]
    pub fn nursery_pid(&self) -> u32 {
        self.nursery.pid()
    }

    /// Makes actor 0 ready, its arena unmapped. Calls `before_fork` just before a new process is forked
    /// for it; a healthy actor 0 of the program before is used again, without a call.
    ///
    /// Ends the program before, if [`end`](Self::end) was not called.
    ///
    /// # Errors
    /// The nursery's or those of [`end`](Self::end).
    pub fn begin(&mut self, before_fork: &mut dyn FnMut(ActorId)) -> Result<(), ExecuteError> {
        if self.in_program {
            self.end()?;
        }
        self.in_program = true;
        self.drains = false;
        self.leaves_home = false;
        self.killed = [false; ACTORS];
        if self.is_alive(ActorId::FIRST) {
            return Ok(());
        }
        before_fork(ActorId::FIRST);
        self.mailbox.expect_process(ActorId::FIRST.index());
        let answer = self.nursery.ask(&self.mailbox, "fork of actor 0", Command::fork(ActorId::FIRST.index()))?;
        if let Some(errno) = errno(answer.value) {
            return Err(ExecuteError::ForkFailed { errno });
        }
        self.welcome(ActorId::FIRST, answer.value)?;
        self.first_is_healthy = true;
        Ok(())
    }

    /// Performs one step; `index` is its place in the program, which gives the value of a store.
    ///
    /// An actor that a signal kills is reaped, and does nothing in its later steps.
    ///
    /// After a `Fork` the child has run to where it waits for its first command. After an `Exit` the actor
    /// is reaped, so that its memory is gone.
    ///
    /// # Errors
    /// [`ExecuteError::ActorDied`], [`ExecuteError::TimedOut`], [`ExecuteError::StrayFault`] and
    /// [`ExecuteError::Senseless`] when the actor did not do what it was asked (the kernel may be to blame);
    /// [`ExecuteError::NoSuchActor`] and [`ExecuteError::ActorTaken`] when the program is not sound. The
    /// program must then be ended.
    pub fn perform(&mut self, index: usize, step: &Step) -> Result<Outcome, ExecuteError> {
        let outcome = self.perform_undrained(index, step)?;
        self.drains |= leaves_batched_references(&step.operation);
        if changes_keys(&step.operation) || step.operation.merges() {
            // Keys are not given back, and a process keeps its place in ksmd's list.
            self.first_is_healthy = false;
        }
        if self.drains {
            self.mailbox
                .drain_page_batches()
                .map_err(|source| ExecuteError::Harness { doing: "draining the per-CPU batches of pages", source })?;
        }
        Ok(outcome)
    }

    fn perform_undrained(&mut self, index: usize, step: &Step) -> Result<Outcome, ExecuteError> {
        let actor = step.actor;
        if self.killed[actor.index()] {
            return self.perform_dead(step);
        }
        let pid = self.pid(actor).ok_or(ExecuteError::NoSuchActor { actor })?;
        if let Operation::Fork { child } = step.operation {
            if self.is_alive(child) || self.killed[child.index()] {
                return Err(ExecuteError::ActorTaken { actor: child });
            }
            self.mailbox.expect_process(child.index());
        }
        if step.operation == Operation::UffdFinish {
            return self.finish(actor, pid);
        }
        if step.operation == Operation::MergePages {
            return merging::scan(self.timeout)
                .map(|()| Outcome::Succeeded)
                .map_err(|source| ExecuteError::Harness { doing: "having ksmd scan", source });
        }
        if let Some(outcome) = self.perform_on_uffd(index, step, pid)? {
            return Ok(outcome);
        }
        self.leaves_home |= matches!(step.operation, Operation::EnterShadowStack { .. });
        if matches!(step.operation, Operation::ControlShadowStack { .. }) {
            // Features and locks cannot be brought back: no actor of this program serves the next.
            self.first_is_healthy = false;
        }
        self.mailbox.send(actor.index(), Command::of_operation(index, actor.index(), &step.operation))?;
        if step.operation == Operation::Exit {
            return self.farewell(actor, pid);
        }
        if let Operation::Fork { child } = step.operation {
            self.read_fork_events(actor, child)?;
        }
        if step.operation.page().is_some()
            && let Some(message) = self.await_answer_or_fault(actor)?
        {
            self.waiting[actor.index()] = Some(Waiting { operation: step.operation, message });
            return Ok(Outcome::Waits(message));
        }
        let answer = match self.receive(actor, pid) {
            Err(ExecuteError::ActorDied { status: WaitStatus::Killed(SIGSEGV), .. }) => {
                self.killed[actor.index()] = true;
                return Ok(Outcome::Killed(SIGSEGV as u8));
            }
            other => other?,
        };
        let outcome = self.classify(step, &answer)?;
        if let (Operation::Fork { child }, Outcome::Succeeded) = (step.operation, outcome) {
            self.welcome(child, answer.value)?;
        }
        Ok(outcome)
    }

    /// A step of an actor that was killed: its child is born dead, its exit frees its number.
    fn perform_dead(&mut self, step: &Step) -> Result<Outcome, ExecuteError> {
        match step.operation {
            Operation::Fork { child } if self.is_alive(child) || self.killed[child.index()] => {
                return Err(ExecuteError::ActorTaken { actor: child });
            }
            Operation::Fork { child } => self.killed[child.index()] = true,
            Operation::Exit => self.killed[step.actor.index()] = false,
            _ => {}
        }
        Ok(Outcome::Dead)
    }

    /// The process identifier of a living actor.
    #[must_use]
    pub fn pid(&self, actor: ActorId) -> Option<u32> {
        self.actors[actor.index()]
    }

    /// Ends the program: all actors are killed and reaped but a healthy actor 0, whose arena is unmapped.
    ///
    /// # Errors
    /// [`ExecuteError::Unkillable`] when a process does not end; otherwise those of emptying the arena, after
    /// which actor 0 is killed too and the next program can begin.
    pub fn end(&mut self) -> Result<(), ExecuteError> {
        self.in_program = false;
        if self.waiting[ActorId::FIRST.index()].is_some() {
            // Closing wakes it; its access ends one way or the other.
            self.close_uffds()?;
            if let Some(pid) = self.pid(ActorId::FIRST) {
                self.receive(ActorId::FIRST, pid)?;
            }
        }
        self.waiting = [None; ACTORS];
        let first = self.pid(ActorId::FIRST).filter(|_| self.first_is_healthy);
        let emptied = first.map_or(Ok(()), |pid| self.empty_arena(pid));
        if emptied.is_err() {
            self.first_is_healthy = false;
        }
        self.kill_all_but_healthy_first().and(emptied).and_then(|()| self.close_uffds())
    }

    /// An operation on a userfaultfd; `None` for any other operation.
    fn perform_on_uffd(&mut self, index: usize, step: &Step, pid: u32) -> Result<Option<Outcome>, ExecuteError> {
        let actor = step.actor;
        let outcome = match step.operation {
            Operation::UffdOpen { uffd, features } => {
                if let Some(earlier) = self.uffds[uffd.index()].take() {
                    self.ask(actor, pid, uffd::close(Some(earlier.descriptor)))?;
                }
                let opened = self.ask(actor, pid, uffd::open())?;
                let outcome = match errno(opened.value) {
                    Some(errno) => return Ok(Some(Outcome::Failed(errno))),
                    None => {
                        self.mailbox.write_scratch(uffd::api_words(features));
                        let answer = self.ask(actor, pid, uffd::ask_api(opened.value as u32))?;
                        self.classify(step, &answer)?
                    }
                };
                if outcome == Outcome::Succeeded {
                    self.uffds[uffd.index()] = Some(Uffd {
                        descriptor: opened.value as u32,
                        owner: actor,
                        tells_of_forks: features.contains(UffdFeatures::EVENT_FORK),
                        is_waited_for: !features.contains(UffdFeatures::SIGBUS),
                    });
                } else {
                    self.ask(actor, pid, uffd::close(Some(opened.value as u32)))?;
                }
                outcome
            }
            Operation::UffdClose { uffd } => {
                let descriptor = self.uffds[uffd.index()].take().map(|open| open.descriptor);
                let answer = self.ask(actor, pid, uffd::close(descriptor))?;
                self.classify(step, &answer)?
            }
            operation => {
                let Some(request) = uffd::Request::of_operation(&operation) else { return Ok(None) };
                if let Operation::UffdCopy { range, .. } = operation {
                    for place in 0..range.pages() {
                        self.mailbox.write_copy_source(place, copy_value(index, place));
                    }
                }
                self.mailbox.write_scratch(request.words);
                let descriptor = self.uffds[request.uffd.index()].map(|open| open.descriptor);
                let answer = self.ask(actor, pid, request.command(descriptor))?;
                self.classify(step, &answer)?
            }
        };
        Ok(Some(outcome))
    }

    /// Reads what a fork tells of, until the actor that forks has answered: it waits for a reader of each event. The
    /// descriptor in an event gets the lowest name that is free. The nursery reads: descriptors are of its table.
    fn read_fork_events(&mut self, actor: ActorId, child: ActorId) -> Result<(), ExecuteError> {
        let deadline = Instant::now() + self.timeout;
        while !self.mailbox.is_answered(actor.index()) && Instant::now() < deadline {
            let tellers = self.uffds.iter().flatten().filter(|open| open.tells_of_forks && open.owner == actor);
            let tellers: Vec<Uffd> = tellers.copied().collect();
            if tellers.is_empty() {
                break;
            }
            let mut told = false;
            for teller in tellers {
                let made = match self.read_message(teller)? {
                    Some(Message::Forked(made)) => made,
                    Some(Message::Fault(_)) | None => continue,
                };
                told = true;
                match self.uffds.iter().position(Option::is_none) {
                    Some(free) => self.uffds[free] = Some(Uffd { descriptor: made, owner: child, ..teller }),
                    None => {
                        self.nursery.ask(&self.mailbox, "close of a userfaultfd", uffd::close(Some(made)))?;
                    }
                }
            }
            if !told {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// One message of a userfaultfd, if there is one.
    fn read_message(&mut self, open: Uffd) -> Result<Option<Message>, ExecuteError> {
        let answer = self.nursery.ask(&self.mailbox, "read of a userfaultfd", uffd::read(open.descriptor))?;
        if errno(answer.value) == Some(libc::EAGAIN) {
            return Ok(None);
        }
        let message = uffd::message(answer.value, self.mailbox.read_scratch());
        let Answer { value, stage, .. } = answer;
        message.map(Some).ok_or(ExecuteError::Senseless { who: "the nursery".to_owned(), value, stage })
    }

    /// Waits until the actor has answered or a userfaultfd tells of a fault, which then is the actor's. Nothing is waited for where no descriptor can be waited for.
    fn await_answer_or_fault(&mut self, actor: ActorId) -> Result<Option<FaultMessage>, ExecuteError> {
        let deadline = Instant::now() + self.timeout;
        while !self.mailbox.is_answered(actor.index()) && Instant::now() < deadline {
            if !self.uffds.iter().flatten().any(|open| open.is_waited_for && open.owner == actor) {
                break;
            }
            if let Some(message) = self.read_fault(actor)? {
                return Ok(Some(message));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(None)
    }

    /// What has become of an access that waited.
    fn finish(&mut self, actor: ActorId, pid: u32) -> Result<Outcome, ExecuteError> {
        let Some(Waiting { operation, message }) = self.waiting[actor.index()] else {
            return Err(ExecuteError::NoSuchActor { actor });
        };
        if self.mailbox.is_answered(actor.index()) {
            self.waiting[actor.index()] = None;
            let answer = self.receive(actor, pid)?;
            return self.classify(&Step { actor, operation }, &answer);
        }
        // It may have been woken and wait anew.
        let message = self.read_fault(actor)?.unwrap_or(message);
        self.waiting[actor.index()] = Some(Waiting { operation, message });
        Ok(Outcome::Waits(message))
    }

    /// The message about a fault of this actor, if there is one that was not read.
    fn read_fault(&mut self, actor: ActorId) -> Result<Option<FaultMessage>, ExecuteError> {
        for open in self.uffds {
            if let Some(open) = open.filter(|open| open.is_waited_for && open.owner == actor)
                && let Some(Message::Fault(message)) = self.read_message(open)?
            {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn ask(&mut self, actor: ActorId, pid: u32, command: Command) -> Result<Answer, ExecuteError> {
        self.mailbox.send(actor.index(), command)?;
        self.receive(actor, pid)
    }

    /// Closes what the program left open. The nursery does it: it shares the table of open files with all actors.
    fn close_uffds(&mut self) -> Result<(), ExecuteError> {
        for place in 0..UFFDS {
            if let Some(open) = self.uffds[place].take() {
                self.nursery.ask(&self.mailbox, "close of a userfaultfd", uffd::close(Some(open.descriptor)))?;
            }
        }
        Ok(())
    }

    fn is_alive(&self, actor: ActorId) -> bool {
        self.pid(actor).is_some()
    }

    fn empty_arena(&mut self, pid: u32) -> Result<(), ExecuteError> {
        if self.leaves_home {
            self.mailbox.send(ActorId::FIRST.index(), Command::go_home())?;
            let answer = self.receive(ActorId::FIRST, pid)?;
            if answer.signal != 0 {
                return Err(stray(ActorId::FIRST, &answer));
            }
        }
        self.mailbox.send(ActorId::FIRST.index(), Command::empty_arena())?;
        let answer = self.receive(ActorId::FIRST, pid)?;
        match (answer.signal, errno(answer.value)) {
            (0, None) => Ok(()),
            (0, Some(errno)) => Err(ExecuteError::ArenaNotEmptied { errno }),
            _ => Err(stray(ActorId::FIRST, &answer)),
        }
    }

    fn kill_all_but_healthy_first(&mut self) -> Result<(), ExecuteError> {
        let spared = self.first_is_healthy.then_some(ActorId::FIRST);
        let doomed = || ActorId::all().filter(|&actor| Some(actor) != spared);
        for pid in doomed().filter_map(|actor| self.pid(actor)) {
            process::kill(pid);
        }
        let mut result = Ok(());
        for actor in doomed() {
            let Some(pid) = self.actors[actor.index()].take() else { continue };
            result = result.and(match process::reap(pid, self.timeout) {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(ExecuteError::Unkillable { who: name(actor), after: self.timeout }),
                Err(source) => Err(ExecuteError::Harness { doing: "reaping an actor", source }),
            });
        }
        result
    }

    /// Takes in an actor that was just forked: waits until it stands at its mailbox.
    fn welcome(&mut self, actor: ActorId, pid: u64) -> Result<(), ExecuteError> {
        let pid = pid as u32;
        self.actors[actor.index()] = Some(pid);
        let answer = self.receive(actor, pid)?;
        if answer.signal != 0 {
            return Err(self.unhealthy(actor, stray(actor, &answer)));
        }
        Ok(())
    }

    /// Waits for an actor that was told to exit.
    fn farewell(&mut self, actor: ActorId, pid: u32) -> Result<Outcome, ExecuteError> {
        match process::reap(pid, self.timeout) {
            Ok(Some(status)) => {
                self.actors[actor.index()] = None;
                match status {
                    WaitStatus::Exited(0) => Ok(Outcome::Succeeded),
                    _ => Err(ExecuteError::ActorDied { actor, status }),
                }
            }
            Ok(None) => {
                let error = ExecuteError::TimedOut { who: name(actor), after: self.timeout };
                Err(self.unhealthy(actor, error))
            }
            Err(source) => Err(self.unhealthy(actor, ExecuteError::Harness { doing: "reaping an actor", source })),
        }
    }

    fn receive(&mut self, actor: ActorId, pid: u32) -> Result<Answer, ExecuteError> {
        match self.mailbox.receive(actor.index(), pid, self.timeout) {
            Ok(answer) => Ok(answer),
            Err(NoAnswer::Ended(status)) => {
                self.actors[actor.index()] = None;
                Err(ExecuteError::ActorDied { actor, status })
            }
            Err(NoAnswer::TimedOut) => {
                let error = ExecuteError::TimedOut { who: name(actor), after: self.timeout };
                Err(self.unhealthy(actor, error))
            }
            Err(NoAnswer::Failed(source)) => {
                Err(self.unhealthy(actor, ExecuteError::Harness { doing: "looking after an actor", source }))
            }
        }
    }

    fn classify(&mut self, step: &Step, answer: &Answer) -> Result<Outcome, ExecuteError> {
        let actor = step.actor;
        classify::outcome(&step.operation, answer, &self.sites).map_err(|unclassified| match unclassified {
            Unclassified::Stray(_) => self.unhealthy(actor, stray(actor, answer)),
            Unclassified::ClearRefsNotOpened(errno) => ExecuteError::ClearRefs { actor, errno },
            Unclassified::ProcMemNotOpened(errno) => ExecuteError::ProcMem { actor, errno },
            Unclassified::Senseless => {
                let Answer { value, stage, .. } = *answer;
                self.unhealthy(actor, ExecuteError::Senseless { who: name(actor), value, stage })
            }
        })
    }

    /// Notes that the actor cannot be relied on any more.
    fn unhealthy(&mut self, actor: ActorId, error: ExecuteError) -> ExecuteError {
        if actor == ActorId::FIRST {
            self.first_is_healthy = false;
        }
        error
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.first_is_healthy = false;
        // Nobody is left to tell of a failure; the nursery is killed by its own drop.
        _ = self.kill_all_but_healthy_first();
    }
}

/// Whether pages may stand in a per-CPU batch, and still count as on their list, from this operation on
/// (`mm/swap.c: folio_batch_add_and_move` in 6.12: `folio_deactivate`, `folio_mark_lazyfree`;
/// `mm/mlock.c: munlock_folio`, at every unmapping of a page of a locked VMA). Such a batch holds a reference
/// that `wp_can_reuse_anon_folio` counts and does not drain, so whether a page is reused or copied would
/// depend on how full the batch happens to be. On a live shadow stack sigreturn marks pages accessed, and the
/// second time they wait in a batch to be activated (`mm/swap.c: folio_mark_accessed`); get_user_pages does that too
/// for a write through /proc/self/mem.
fn leaves_batched_references(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Madvise { .. }
            | Operation::Mlock { .. }
            | Operation::EnterShadowStack { .. }
            | Operation::WriteProcMem { .. }
    )
}

/// Signal of the kernel where no handler can be called.
const SIGSEGV: i32 = libc::SIGSEGV;

/// Whether protection keys or PKRU are not those of a new process after this operation. The key that PROT_EXEC alone
/// takes cannot be given back (`arch/x86/mm/pkeys.c: __execute_only_pkey`).
fn changes_keys(operation: &Operation) -> bool {
    match operation {
        Operation::PkeyAlloc { .. } | Operation::PkeyFree { .. } | Operation::WritePkru { .. } => true,
        Operation::Mmap { protection, .. }
        | Operation::MmapShared { protection, .. }
        | Operation::Mprotect { protection, .. }
        | Operation::PkeyMprotect { protection, .. } => *protection == Protection::EXECUTE,
        _ => false,
    }
}

fn name(actor: ActorId) -> String {
    format!("actor {}", actor.index())
}

fn stray(actor: ActorId, answer: &Answer) -> ExecuteError {
    ExecuteError::StrayFault { who: name(actor), fault: answer.fault(), instruction: answer.instruction }
}
