//! Runs one program's operations, in actor processes.
//!
//! An actor is a small process of its own that waits at a mailbox in shared memory. The harness writes a
//! command there, wakes the actor, and reads the answer. Actors are never forks of the harness: the
//! harness starts its own executable anew as the *nursery*, which gives up everything but one page of
//! code, the mailbox and (where asked for) a shadow stack; actors are forked from it, and from each other,
//! but are all children of the harness, which reaps them.
//!
//! What an actor runs is one page of assembly ([`code`]): it makes no call, touches no stack of its own
//! and no memory but the mailbox, and the arena only by the one operation that it was asked for. So a fork
//! copies next to nothing, and what the kernel does to the arena is what the program asked for.
//!
//! This crate is the only one that makes system calls on a program's behalf. It must **not** know: the
//! model and its rules, page-table entries, eBPF, traces, virtual machines. It says what an operation
//! gave back ([`Outcome`](ptediff_reference_model::outcome::Outcome)), never what it should have given.
#![expect(unsafe_code, reason = "system calls, shared memory and code that faults on purpose")]

mod actor;
mod area;
mod classify;
mod code;
mod command;
mod error;
mod executor;
mod handshake;
mod mailbox;
mod maps;
mod merging;
mod nursery;
mod process;
mod storm;
mod uffd;

pub use actor::{ACTOR_ARGUMENT, actor_main};
pub use error::{ExecuteError, Suspect, WaitStatus};
pub use executor::{Executor, ExecutorOptions};
pub use storm::{Manner, Planted, Protector, Round, STORM_PAGES, Storm, WrongContents};
