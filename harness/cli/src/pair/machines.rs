//! The two machines: the same programs on each, one after the other or at once.

use std::thread;

use ptediff_corpus::Needs;
use ptediff_reference_model::kernel::KernelVersion;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::StepRecord;
use ptediff_reference_model::program::Program;

use crate::error::Failure;
use crate::guest::GuestRequest;
use crate::guest::request::Task;
use crate::host::launch::{LaunchOptions, launch};
use crate::host::results::{Finish, Results};
use crate::host::session::{Keep, follow};
use crate::report::progress::Progress;

/// One of the two kernels.
#[derive(Debug)]
pub struct Side {
    /// As the user gave it.
    pub kernel: String,
    /// What to start.
    pub options: LaunchOptions,
}

/// Both, and what is asked of either.
#[derive(Debug)]
pub struct Machines {
    /// The kernel that is compared with.
    pub base: Side,
    /// The kernel that is compared.
    pub new: Side,
    /// The request, but for its task.
    pub request: GuestRequest,
    /// Whether both run at once.
    pub at_once: bool,
}

impl Machines {
    /// Runs programs on both. The first results are the base's.
    ///
    /// # Errors
    /// A machine cannot be started, or it came to a bad end.
    pub fn run(&self, programs: &[Program], judged_as: Option<KernelVersion>) -> Result<[Results; 2], Failure> {
        let on = |side: &Side| self.on(side, programs, judged_as);
        let (base, new) = if self.at_once {
            thread::scope(|scope| {
                let new = scope.spawn(|| on(&self.new));
                let base = on(&self.base);
                (base, new.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })
        } else {
            (on(&self.base), on(&self.new))
        };
        Ok([base?, new?])
    }

    fn on(&self, side: &Side, programs: &[Program], judged_as: Option<KernelVersion>) -> Result<Results, Failure> {
        let needs = programs.iter().map(Needs::of).collect();
        let task = Task::Replay { programs: programs.to_vec(), needs, repeat: 1 };
        let request = GuestRequest { task, judged_as, ..self.request.clone() };
        let mut channel = launch(&request, &side.options)?;
        let results = follow(&mut channel, &mut Keep::default(), &mut Progress::silent())?;
        match &results.ending {
            Finish::Finished => Ok(results),
            Finish::Refused => {
                let lacks = results.refused.as_ref().map_or_else(String::new, |refused| refused.missing.join(", "));
                Err(Failure::Rig { message: format!("{}: the machine lacks {lacks}", side.kernel), help: None })
            }
            other => Err(Failure::Rig { message: format!("{}: {other:?}", side.kernel), help: None }),
        }
    }
}

/// The records of a program on both sides.
#[must_use]
pub(super) fn records_of_both(results: &[Results; 2], index: usize) -> Option<[&[StepRecord]; 2]> {
    let [base, new] = results;
    Some([base.records.get(index)?, new.records.get(index)?])
}

/// What programs may need: what both machines have. The base's version decides what is drawn.
#[must_use]
pub(super) fn in_common(base: &Machine, new: &Machine) -> Machine {
    Machine {
        shadow_stack: base.shadow_stack && new.shadow_stack,
        protection_keys: base.protection_keys && new.protection_keys,
        swap: base.swap && new.swap,
        merging: base.merging && new.merging,
        ..base.clone()
    }
}
