//! From the command line to the guest's request.

use crate::arguments::MachineArguments;
use crate::error::Failure;
use crate::guest::GuestRequest;
use crate::guest::request::Task;
use crate::host::launch::{Platform, digest_text, own_executable};

/// The kernel's ring buffers have whole pages (`kernel/bpf/ringbuf.c: ringbuf_map_alloc`).
const SMALLEST_RING: u32 = 4096;

/// How often the witnesses are asked where nobody says: it keeps a campaign within twice the time that its
/// programs take bare (`ptediff bench`).
const WITNESS_EVERY: u16 = 64;

/// The request for a task on a machine.
///
/// # Errors
/// The ring buffer's size is none. This very executable cannot be read or is not static.
pub(super) fn request(machine: &MachineArguments, task: Task) -> Result<GuestRequest, Failure> {
    if !machine.ring_bytes.is_power_of_two() || machine.ring_bytes < SMALLEST_RING {
        return Err(Failure::usage(
            format!("--ring-bytes {} is not a power of two of at least {SMALLEST_RING}", machine.ring_bytes),
            "leave it out for 1 MiB",
        ));
    }
    if machine.modules.is_some() && machine.platform == Platform::Native {
        return Err(Failure::usage("--modules is for a machine's kernel, not for this one's", "leave it out"));
    }
    if machine.plant.is_some() && machine.platform == Platform::Native {
        return Err(Failure::usage("failures are planted in virtual machines only", "choose --platform bochs or qemu"));
    }
    let (first, second) = machine.loader.loaders();
    if let Some(missing) = [Some(first), second].into_iter().flatten().find(|loader| !loader.is_built_in()) {
        return Err(Failure::usage(
            format!("--loader {}: this ptediff was built without {missing}", machine.loader.name()),
            "leave it out, or build with the cargo features `libbpf` and `aya`",
        ));
    }
    let mut require = machine.platform.required_features();
    require.extend(machine.require.iter().cloned());
    Ok(GuestRequest {
        platform: machine.platform.name().to_owned(),
        require,
        judged_as: machine.judge_as,
        witness_every: machine.witness_every.unwrap_or(match task {
            // Few programs, each of which somebody cares about.
            Task::Replay { .. } => 1,
            _ => WITNESS_EVERY,
        }),
        ring_bytes: machine.ring_bytes,
        loader: machine.loader,
        hooks: machine.hooks.map(|hooks| hooks.to_string()),
        renamed: machine.renamed.clone(),
        shrink_budget: 0,
        stop_after: 1,
        count_known: false,
        binary: digest_text(&own_executable()?),
        without_modules: None,
        plant: machine.plant.clone(),
        task,
    })
}
