//! Asks other machines about divergences: the same kernel on the other emulator, other kernels on the same one.

use ptediff_archive::KernelsRecipe;
use ptediff_corpus::Needs;
use ptediff_reference_model::program::Program;
use ptediff_reference_model::verdict::{Inconclusive, Verdict};
use ptediff_vm::store::Store;
use ptediff_vm::{BzImage, Compression};

use crate::arguments::MachineArguments;
use crate::error::Failure;
use crate::guest::request::Task;
use crate::host::launch::{LaunchOptions, Platform, kernel_image, launch};
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
    for (platform, kernel) in others(arguments) {
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
fn others(arguments: &MachineArguments) -> Vec<(Platform, String)> {
    let other = if arguments.platform == Platform::Bochs { Platform::Qemu } else { Platform::Bochs };
    let Ok(store) = Store::open() else { return Vec::new() };
    // One machine a series is enough: a cache may hold dozens of point releases.
    let named = KernelsRecipe::load().map(|recipe| recipe.named).unwrap_or_default();
    let release = |kernel: &str| store.kernel(kernel).ok().map(|artifact| artifact.release);
    let own = release(&arguments.kernel);
    let is_another = |kernel: &String| release(kernel).is_some_and(|release| Some(release) != own);
    let same_cpu = named.into_iter().map(|series| series.name).filter(is_another);
    std::iter::once((other, arguments.kernel.clone()))
        .chain(same_cpu.map(|kernel| (arguments.platform, kernel)))
        .filter(|(platform, kernel)| *platform != Platform::Bochs || boots_in_bochs(kernel))
        .collect()
}

/// 6.1 has an LZ4 payload, which the boot from a RAM image does not unpack (docs/emulators.md).
fn boots_in_bochs(kernel: &str) -> bool {
    let Ok(image) = kernel_image(kernel).map_err(drop).and_then(|path| std::fs::read(path).map_err(drop)) else {
        return false;
    };
    BzImage::parse(&image)
        .and_then(|image| image.compression())
        .is_ok_and(|compression| compression != Compression::Lz4)
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
        request.judged_as = None;
    }
    let options = LaunchOptions {
        platform,
        kernel: kernel.to_owned(),
        modules: arguments.modules.clone().filter(|_| same_kernel),
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
