//! Asks other machines about divergences: the same kernel on the other emulator, other kernels on the same one.

use std::collections::BTreeMap;

use ptediff_corpus::Needs;
use ptediff_reference_model::machine::KernelVersion;
use ptediff_reference_model::program::Program;
use ptediff_reference_model::verdict::{Inconclusive, Verdict};
use ptediff_vm::store::{ArtifactKind, Store};

use crate::arguments::MachineArguments;
use crate::error::Failure;
use crate::guest::request::Task;
use crate::host::launch::{LaunchOptions, Platform, launch};
use crate::host::opinion::{Blame, Opinion, blame};
use crate::host::results::{Found, Results};
use crate::host::session::{Keep, follow};
use crate::report::progress::Progress;

use super::request::request;

/// Kernels that are asked at most, besides the same one on the other emulator. Each costs a boot.
const MOST_KERNELS: usize = 6;

/// Asks other machines about the smallest form of each reported divergence, one boot a machine, until who is to blame
/// is settled for all of them or [`MOST_KERNELS`] have answered. A machine that cannot be started has no opinion: that
/// is said on standard error, and is no failure of the campaign.
pub(super) fn ask_others(arguments: &MachineArguments, results: &mut Results, progress: &Progress) {
    let Some(machine) = results.machine.clone() else { return };
    let clusters = results.clusters();
    let mut asked: Vec<u32> = clusters
        .iter()
        .map(|cluster| cluster.representative)
        .filter(|found| found.is_stable())
        .map(|found| found.index)
        .collect();
    if arguments.platform == Platform::Native {
        return;
    }
    let mut answers = 0;
    for (platform, kernel) in others(arguments, machine.version) {
        if asked.is_empty() || answers > MOST_KERNELS {
            return;
        }
        progress.note(&format!("asking {kernel} on {} for a second opinion", platform.name()));
        match ask(arguments, platform, &kernel, &asked, results) {
            Ok(()) => answers += 1,
            Err(failure) => eprintln!("no opinion of {kernel} on {}: {failure}", platform.name()),
        }
        let is_open = |index: &u32| {
            let opinions = results.divergences.iter().find(|found| found.index == *index).map(|found| &found.opinions);
            !opinions.is_some_and(|opinions| matches!(blame(&machine, opinions), Blame::Kernel | Blame::EmulatedCpu))
        };
        asked.retain(is_open);
    }
}

/// Machines that differ from the first one in the CPU or in the kernel, never in both: the other CPU first, then the
/// kernels of the cache.
fn others(arguments: &MachineArguments, version: KernelVersion) -> Vec<(Platform, String)> {
    let other = if arguments.platform == Platform::Bochs { Platform::Qemu } else { Platform::Bochs };
    let listed = Store::open().and_then(|store| store.list()).unwrap_or_default();
    let kernels = listed.into_iter().filter(|one| one.kind == ArtifactKind::Kernel && one.state.is_ok());
    let names = kernels.map(|one| one.name).filter(|kernel| *kernel != arguments.kernel).collect();
    std::iter::once((other, arguments.kernel.clone()))
        .chain(by_series(names, version).into_iter().map(|kernel| (arguments.platform, kernel)))
        .filter(|(platform, kernel)| *platform != Platform::Bochs || boots_in_bochs(kernel))
        .collect()
}

/// Kernels in the order in which they are asked: the newest of each series, that of `version` first and then the others
/// by their distance, then the next of each series. Many kernels of one series share what is wrong with it.
fn by_series(names: Vec<String>, version: KernelVersion) -> Vec<String> {
    // By distance and number; in a series by patch.
    let mut series: BTreeMap<(u32, u16, u16), Vec<(u16, String)>> = BTreeMap::new();
    for name in names {
        let Ok(KernelVersion { major, minor, patch }) = KernelVersion::of_release(&name) else { continue };
        let number = |major: u16, minor: u16| u32::from(major) * 100 + u32::from(minor);
        let distance = number(major, minor).abs_diff(number(version.major, version.minor));
        series.entry((distance, major, minor)).or_default().push((patch, name));
    }
    let mut ordered = Vec::new();
    let mut all: Vec<_> = series.into_values().collect();
    for kernels in &mut all {
        kernels.sort();
    }
    while all.iter().any(|kernels| !kernels.is_empty()) {
        ordered.extend(all.iter_mut().filter_map(Vec::pop).map(|(_, name)| name));
    }
    ordered
}

/// 6.1 has an LZ4 payload, which the boot from a RAM image does not unpack (docs/emulators.md).
fn boots_in_bochs(kernel: &str) -> bool {
    kernel != "6.1"
}

fn ask(
    arguments: &MachineArguments,
    platform: Platform,
    kernel: &str,
    asked: &[u32],
    results: &mut Results,
) -> Result<(), Failure> {
    let found = |index: &u32| results.divergences.iter().find(|found| found.index == *index);
    let programs: Vec<Program> = asked.iter().filter_map(found).map(|found| found.smallest().0.clone()).collect();
    let needs = programs.iter().map(Needs::to_behave_alike).collect();
    let mut request = request(arguments, Task::Replay { programs, needs, repeat: 1 })?;
    platform.name().clone_into(&mut request.platform);
    request.require = platform.required_features();
    let (same_kernel, same_cpu) = (kernel == arguments.kernel, platform == arguments.platform);
    request.plant = arguments.plant.clone().filter(|plant| plant.is_shared(same_kernel, same_cpu));
    if !same_kernel {
        request.dialect = None;
    }
    let options = LaunchOptions {
        platform,
        kernel: kernel.to_owned(),
        emulator: arguments.emulator.clone().filter(|_| same_cpu),
        cpu_model: arguments.cpu_model.clone().filter(|_| same_cpu),
        ..arguments.launch_options(None)
    };
    let mut channel = launch(&request, &options)?;
    let answers = follow(&mut channel, &mut Keep::default(), &mut Progress::silent())?;
    let Some(machine) = &answers.machine else {
        return Err(Failure::Rig { message: format!("it ended so: {:?}", answers.ending), help: None });
    };
    for (number, index) in asked.iter().enumerate() {
        let Some(found) = results.divergences.iter_mut().find(|found| found.index == *index) else { continue };
        let Verdict::Diverge(divergence) = found.smallest().1 else { continue };
        let verdict = verdict_on(&answers, number as u32);
        found.opinions.push(Opinion::of(machine, divergence, &verdict));
    }
    Ok(())
}

/// The verdict on the replayed program of this number.
fn verdict_on(answers: &Results, number: u32) -> Verdict {
    let of = |found: &&Found| found.index == number;
    if let Some(found) = answers.divergences.iter().find(of) {
        return found.verdict.clone();
    }
    if let Some((_, why)) = answers.undecided.iter().find(|(index, _)| *index == number) {
        return Verdict::Inconclusive(why.clone());
    }
    if number < answers.programs {
        return Verdict::Agree;
    }
    Verdict::Inconclusive(Inconclusive::Rig { message: format!("it did not get so far: {:?}", answers.ending) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kernel_of_each_series_is_asked_before_a_second_of_any() {
        let names = ["6.1", "6.12.95+deb12", "6.12.113+deb13", "7.2", "6.12", "7.3.4", "6.18.15", "6.1.0-57"];
        let version = KernelVersion { major: 6, minor: 12, patch: 107 };
        let ordered = by_series(names.map(str::to_owned).to_vec(), version);
        let expected = ["6.12.113+deb13", "6.18.15", "6.1.0-57", "7.2", "7.3.4", "6.12.95+deb12", "6.1", "6.12"];
        assert_eq!(ordered, expected);
    }
}
