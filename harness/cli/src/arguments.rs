//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use ptediff_observe::{Hooking, Loader};
use ptediff_reference_model::kernel::KernelVersion;

use crate::guest::plant::Plant;
use crate::host::launch::{LaunchOptions, Platform};

/// Differential testing of Linux x86-64 page-table entries: generated programs run in a virtual machine,
/// eBPF reads the entries, and a reference model says what every one of them must be.
#[derive(Debug, Parser)]
#[command(name = "ptediff", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Human, global = true)]
    pub format: Format,
}

const EXIT_CODES: &str = "Exit codes: 0 agree, 1 diverge, 2 the kernel died, 125 cannot tell, \
129 usage or input error, 130 the rig failed, 131 internal error. They suit `git bisect run`.";

/// Steps that a program may have.
const MOST_STEPS: i64 = ptediff_reference_model::program::MAX_STEPS as i64;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Human,
    /// One JSON document on standard output.
    Json,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a campaign of generated programs
    Run(Run),
    /// Run corpus entries
    Replay(Replay),
    /// Run corpus and a campaign on every kernel, and check the table of changes
    Matrix(Matrix),
    /// Tell which defects of the table a kernel has, each by a program that shows it
    Audit(Audit),
    /// Run the same programs on two kernels, and tell where they part
    Compare(Compare),
    /// Judge a recorded trace again, without a machine
    Judge(Judge),
    /// Tell what this host and a machine have, and which hooks attach
    Doctor(Doctor),
    /// Decode a raw page-table entry
    Explain(Explain),
    /// Measure the loop on a machine
    Bench(Bench),
    /// Flip every output bit of every rule and see whether recorded traces notice
    Mutants(Mutants),
    /// List the model's rules with their sources
    Rules,
    /// List the changes and defects of kernels that the model knows, or those of one version
    Changes(Changes),
    /// Write a corpus entry as a stand-alone C program
    Repro(Repro),
    /// Print the divergences of a trace as texts that can be mailed
    Report(Report),
    /// Tell where the behaviour of two kernels differs, by their snapshots
    Diff(Diff),
    /// Tell which operations meet on a page, in the corpus and in a campaign
    Pairs(Pairs),
    /// Make corpus entries of generated programs that reach what the corpus does not
    Distill(Distill),
    /// Let the observer lie about every field in turn, and see who unmasks it
    Trust(Trust),
    /// Run any program, and check invariants of its entries at every fault, fork and write-protection
    Watch(Watch),
    /// List the claims of the seed documents with their evidence, or check them
    Claims(Claims),
}

/// Who loads the probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoaderChoice {
    /// libbpf, by libbpf-rs
    Libbpf,
    /// aya, Rust alone
    Aya,
    /// Both, each with probes of its own; where they differ the rig has failed
    Both,
}

impl Default for LoaderChoice {
    /// libbpf where this build has it.
    fn default() -> Self {
        if Loader::Libbpf.is_built_in() { Self::Libbpf } else { Self::Aya }
    }
}

impl LoaderChoice {
    /// The loader, and the one that checks it.
    #[must_use]
    pub const fn loaders(self) -> (Loader, Option<Loader>) {
        match self {
            Self::Libbpf => (Loader::Libbpf, None),
            Self::Aya => (Loader::Aya, None),
            Self::Both => (Loader::Libbpf, Some(Loader::Aya)),
        }
    }

    /// Its name on the command line and in a trace.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.loaders() {
            (only, None) => only.name(),
            (_, Some(_)) => "both",
        }
    }
}

/// Which machine.
#[derive(Debug, Args)]
pub struct MachineArguments {
    /// What runs the guest
    #[arg(long, value_enum, default_value_t = Platform::Bochs)]
    pub platform: Platform,
    /// Kernel: a name in the cache (6.12, 6.12.113, 6.1.0-57; 6.1 with QEMU alone) or the path of a bzImage
    #[arg(long, default_value = "6.12")]
    pub kernel: String,
    /// Folder with the kernel's modules, flat or as below /lib/modules: zram is taken from it, for swap [default: the
    /// cache's, of a kernel in the cache]
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// Judge as this version (6.12, 6.12.95, 7.3-rc4), whatever the kernel calls itself
    #[arg(long, value_name = "VERSION", alias = "dialect")]
    pub judge_as: Option<KernelVersion>,
    /// CPU features without which to refuse, besides the platform's own (names of /proc/cpuinfo)
    #[arg(long, value_delimiter = ',')]
    pub require: Vec<String>,
    /// Emulator program to use instead of the cache's
    #[arg(long)]
    pub emulator: Option<PathBuf>,
    /// CPU model of the emulator
    #[arg(long)]
    pub cpu_model: Option<String>,
    /// Guest memory in MiB
    #[arg(long, default_value_t = DEFAULT_MEMORY, value_parser = clap::value_parser!(u32).range(64..=65_536))]
    pub memory: u32,
    /// Seconds of silence after which the guest counts as hung
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    pub silence: u64,
    /// Bytes of the probes' ring buffer: a power of two
    #[arg(long, default_value_t = 1 << 20)]
    pub ring_bytes: u32,
    /// Library that loads the probes, or both beside each other, compared
    #[arg(long, value_enum, default_value_t = LoaderChoice::default())]
    pub loader: LoaderChoice,
    /// How the probes are attached [default: trampolines, and kprobes where these cannot be had]
    #[arg(long, value_name = "WAY")]
    pub hooks: Option<Hooking>,
    /// A hooked function that this kernel has under another name
    #[arg(long, value_name = "FUNCTION=NAME", value_parser = renamed)]
    pub renamed: Vec<(String, String)>,
    /// Ask the witnesses after every Nth step; 0 for only at divergences [default: 64; replay: 1]
    #[arg(long)]
    pub witness_every: Option<u16>,
    /// Plant a failure, to test the rig
    #[arg(long, hide = true)]
    pub plant: Option<Plant>,
}

/// MiB of a guest, where nobody says.
const DEFAULT_MEMORY: u32 = 512;

/// A word as a shell takes it, in one line.
fn shell_word(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./=+,:@%".contains(letter);
    word.chars().flat_map(|letter| (!is_plain(letter)).then_some('\\').into_iter().chain([letter])).collect()
}

/// `FUNCTION=NAME`.
fn renamed(text: &str) -> Result<(String, String), String> {
    let (function, name) = text.split_once('=').ok_or("FUNCTION=NAME, such as change_protection=my_protection")?;
    Ok((function.to_owned(), name.to_owned()))
}

impl MachineArguments {
    /// The options that start the same machine again, as the user gave them. What only bears on how it is watched is
    /// left out.
    #[must_use]
    pub fn given(&self) -> String {
        let mut words = vec!["--platform".to_owned(), self.platform.name().to_owned()];
        let mut option = |name: &str, value: Option<String>| {
            words.extend(value.into_iter().flat_map(|value| [name.to_owned(), shell_word(&value)]));
        };
        option("--kernel", (self.platform != Platform::Native).then(|| self.kernel.clone()));
        option("--modules", self.modules.as_ref().map(|path| path.display().to_string()));
        option("--judge-as", self.judge_as.map(|version| version.to_string()));
        option("--emulator", self.emulator.as_ref().map(|path| path.display().to_string()));
        option("--cpu-model", self.cpu_model.clone());
        option("--memory", (self.memory != DEFAULT_MEMORY).then(|| self.memory.to_string()));
        for (function, name) in &self.renamed {
            option("--renamed", Some(format!("{function}={name}")));
        }
        words.join(" ")
    }

    /// The machine to start.
    #[must_use]
    pub fn launch_options(&self, limit: Option<u64>) -> LaunchOptions {
        LaunchOptions {
            platform: self.platform,
            kernel: self.kernel.clone(),
            modules: self.modules.clone(),
            emulator: self.emulator.clone(),
            cpu_model: self.cpu_model.clone(),
            memory_mib: self.memory,
            cpus: 1,
            command_line: Vec::new(),
            files: Vec::new(),
            links: Vec::new(),
            silence: Duration::from_secs(self.silence),
            limit: limit.map(Duration::from_secs),
        }
    }
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
#[command(
    after_help = "A machine has nothing but ptediff: the command, the libraries that it is linked with, and what --file \
and --root name are put into it, at the same paths. With --platform native the command runs here."
)]
pub struct Watch {
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArguments,
    /// Number of CPUs of the machine
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub cpus: u32,
    /// Put this file into the machine, too, with the libraries that it is linked with
    #[arg(long)]
    pub file: Vec<PathBuf>,
    /// Put everything in this folder into the machine, at its root
    #[arg(long)]
    pub root: Option<PathBuf>,
    /// Add this word to the kernel's command line, such as preempt=full
    #[arg(long)]
    pub append: Vec<String>,
    /// How the probes are attached: by the function graph tracer where the kernel may preempt them, by trampolines else,
    /// unless this says otherwise
    #[arg(long, value_enum)]
    pub probes: Option<Probes>,
    /// Run the command so many times unwatched and watched, by turns, and compare the times
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub pairs: u32,
    /// Compare pagemap with the entries of the command and its children every so many seconds; 0 for never, which is also
    /// so with --pairs
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    pub pagemap_every: f64,
    /// Stop the machine after so many seconds; with --pid, stop watching
    #[arg(long)]
    pub time: Option<u64>,
    /// Print one JSON document: --format json
    #[arg(long)]
    pub json: bool,
    /// Watch this process, and the children that it will have, instead of a command; with --platform native alone
    #[arg(long, conflicts_with = "command")]
    pub pid: Option<u32>,
    /// Flip these bits of each entry that the probes read under the causes of the second mask, to test the watch
    #[arg(long, hide = true, num_args = 2, value_parser = crate::arguments::mask)]
    pub plant_bits: Vec<u64>,
    /// Flip these bits of what pagemap says, to test the watch
    #[arg(long, hide = true, value_parser = crate::arguments::mask)]
    pub plant_pagemap: Option<u64>,
    /// The command, and its arguments
    #[arg(last = true, required_unless_present = "pid")]
    pub command: Vec<String>,
}

/// How the probes of `watch` are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Probes {
    /// fexit: cheaper; the kernel leaves one out that runs already on the same CPU.
    Trampolines,
    /// kprobe.session (since 6.10), by the function graph tracer since 6.14: with preemption off.
    Graph,
}

/// Seconds between two looks.
fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds, from 0 to 86400".to_owned()),
    }
}

/// A mask, decimal or with 0x.
fn mask(text: &str) -> Result<u64, std::num::ParseIntError> {
    text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16))
}

/// Arguments of `claims`.
#[derive(Debug, Args)]
pub struct Claims {
    /// Claims by name, or by the beginning of their names (`race`); all of them where none is given
    pub names: Vec<String>,
    /// Check them, with machines of the cache where a claim is about live kernels or CPUs
    #[arg(long)]
    pub run: bool,
    /// Check all cases, not only a representative part
    #[arg(long, requires = "run")]
    pub full: bool,
    /// Add what was seen to this file, in place of earlier evidence for the same claims
    #[arg(long, requires = "run")]
    pub record: Option<PathBuf>,
    /// Silence in seconds after which a machine counts as hung
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    pub silence: u64,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArguments,
    /// Seed of the campaign
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Number of programs
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub cases: u32,
    /// Index of the first program
    #[arg(long, default_value_t = 0)]
    pub first: u32,
    /// Most steps of a program
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=MOST_STEPS))]
    pub steps: u16,
    /// Stop after so many seconds
    #[arg(long)]
    pub time: Option<u64>,
    /// What programs favour; each program's seed decides where none is given
    #[arg(long)]
    pub profile: Option<String>,
    /// Executions that shrinking one divergence may cost
    #[arg(long, default_value_t = 200)]
    pub shrink: u32,
    /// Boots that making a program smaller that kills the kernel may cost; 0 for not even running it alone
    #[arg(long, default_value_t = 16)]
    pub shrink_boots: u32,
    /// Stop after so many clusters of divergences
    #[arg(long, default_value_t = 5)]
    pub stop_after: u32,
    /// Keep the trace in this file
    #[arg(long)]
    pub trace: Option<PathBuf>,
    /// Folder for the corpus entries of divergences
    #[arg(long, default_value = "divergences")]
    pub save: PathBuf,
    /// What decides.
    #[command(flatten)]
    pub weighing: Weighing,
    /// Ask no other machine about a divergence
    #[arg(long)]
    pub no_opinions: bool,
}

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct Audit {
    /// Kernel: a name in the cache, or the path of a bzImage [default: what --kernel names]
    #[arg(id = "audited", value_name = "KERNEL")]
    pub kernel: Option<String>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArguments,
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct Compare {
    /// Kernel to compare with: a name in the cache, or the path of a bzImage
    pub base: String,
    /// Kernel to compare
    #[arg(id = "compared", value_name = "NEW")]
    pub new: String,
    /// The machine; its kernel is each of the two.
    #[command(flatten)]
    pub machine: MachineArguments,
    /// Seed of the programs
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Index of the first program
    #[arg(long, default_value_t = 0)]
    pub first: u32,
    /// Number of programs
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub cases: u32,
    /// Most steps of a program
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=MOST_STEPS))]
    pub steps: u16,
    /// The corpus alone, in place of generated programs
    #[arg(id = "corpus_alone", long = "corpus")]
    pub corpus_alone: bool,
    /// Folder of the corpus
    #[arg(long = "corpus-folder", default_value = "corpus")]
    pub corpus: PathBuf,
    /// Machines that run at once: 1 or 2 [default: as many as cores]
    #[arg(long)]
    pub jobs: Option<usize>,
}

/// Arguments of `matrix`.
#[derive(Debug, Args)]
pub struct Matrix {
    /// Kernels: names, releases or paths, fetched where the cache has them not; every kernel that the archive serves
    /// where none is named
    pub kernels: Vec<String>,
    /// The machine; its kernel is each in turn.
    #[command(flatten)]
    pub machine: MachineArguments,
    /// Seed of the campaigns
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Number of programs a kernel
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub cases: u32,
    /// Most steps of a program
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=MOST_STEPS))]
    pub steps: u16,
    /// Executions that shrinking one divergence may cost
    #[arg(long, default_value_t = 200)]
    pub shrink: u32,
    /// The corpus
    #[arg(long, default_value = "corpus")]
    pub corpus: PathBuf,
    /// Folder for the corpus entries of divergences, a folder a kernel
    #[arg(long, default_value = "divergences")]
    pub save: PathBuf,
    /// Keep the kernels that were fetched for this
    #[arg(long)]
    pub keep: bool,
}

/// What decides the exit code.
#[derive(Debug, Clone, Copy, Args)]
pub struct Weighing {
    /// Treat defects that the version is known to have as any other divergence: they decide the exit code
    #[arg(long)]
    pub count_known: bool,
    /// Call an unexplained divergence inconclusive on a version that no matrix was run on
    #[arg(long)]
    pub strict: bool,
}

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// Entries: files, or names in the corpus
    #[arg(required_unless_present = "all")]
    pub entries: Vec<String>,
    /// Every entry of the corpus
    #[arg(long)]
    pub all: bool,
    /// The corpus
    #[arg(long, default_value = "corpus")]
    pub corpus: PathBuf,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArguments,
    /// Keep the trace in this file
    #[arg(long)]
    pub trace: Option<PathBuf>,
    /// Print each entry's timeline: steps, results, entries
    #[arg(long)]
    pub timeline: bool,
    /// What decides.
    #[command(flatten)]
    pub weighing: Weighing,
}

/// Arguments of `changes`.
#[derive(Debug, Args)]
pub struct Changes {
    /// Version whose changes are listed: 6.12, 6.12.95, 7.3-rc4
    pub version: Option<KernelVersion>,
}

/// Arguments of `judge`.
#[derive(Debug, Args)]
pub struct Judge {
    /// Trace that `run` or `replay` wrote
    pub trace: PathBuf,
    /// Folder for the corpus entries of divergences; none are stored without it
    #[arg(long)]
    pub save: Option<PathBuf>,
    /// What decides.
    #[command(flatten)]
    pub weighing: Weighing,
}

/// Arguments of `trust`.
#[derive(Debug, Args)]
pub struct Trust {
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArguments,
    /// Seed of the programs
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Programs under a lie after which it counts as believed
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub cases: u32,
    /// Most steps of a program
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=MOST_STEPS))]
    pub steps: u16,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArguments,
    /// Only look at the host: start no machine
    #[arg(long)]
    pub host_only: bool,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// Raw entry, such as 0x8400000000000865
    pub entry: String,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArguments,
    /// Seed of the programs
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Number of programs
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub cases: u32,
    /// Most steps of a program
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=MOST_STEPS))]
    pub steps: u16,
}

/// Arguments of `mutants`.
#[derive(Debug, Args)]
pub struct Mutants {
    /// Traces of campaigns in which everything agreed
    #[arg(required = true)]
    pub traces: Vec<PathBuf>,
    /// Fail (exit 1) below this share of killed mutants, in percent
    #[arg(long, default_value_t = 95.0)]
    pub at_least: f64,
}

/// Arguments of `repro`.
#[derive(Debug, Args)]
pub struct Repro {
    /// Entry: a file, or a name in the corpus
    pub entry: String,
    /// The corpus
    #[arg(long, default_value = "corpus")]
    pub corpus: PathBuf,
    /// Kernel whose behaviour the comments tell
    #[arg(long, value_name = "VERSION", alias = "dialect", default_value_t = KernelVersion::LINUX_6_12)]
    pub judge_as: KernelVersion,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// Trace that `run` or `replay` wrote
    pub trace: PathBuf,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// Kernel, as its folder of snapshots is called
    pub first: String,
    /// The other kernel
    pub second: String,
    /// The snapshots
    #[arg(long, default_value = "snapshots")]
    pub snapshots: PathBuf,
}

/// A campaign's programs beside a corpus: what needs no machine.
#[derive(Debug, Args)]
pub struct Pairs {
    /// The corpus
    #[arg(long, default_value = "corpus")]
    pub corpus: PathBuf,
    /// Seed of the campaign
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Number of programs of the campaign
    #[arg(long, default_value_t = 5000)]
    pub cases: u32,
    /// Most steps of a program
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=MOST_STEPS))]
    pub steps: u16,
}

/// Arguments of `distill`.
#[derive(Debug, Args)]
pub struct Distill {
    /// The corpus that is to grow, and the campaign whose programs are taken.
    #[command(flatten)]
    pub source: Pairs,
    /// Make at most so many entries
    #[arg(long, default_value_t = 20)]
    pub entries: u32,
    /// New pairs of operations that an entry must reach
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub at_least: u32,
}
