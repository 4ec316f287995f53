//! Which of the kernel's functions can be hooked, and how.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::str::FromStr;

use aya_obj::btf::{Btf, BtfKind};
use ptediff_bpf::{FOLLOW_HOOKS, HOOKS, Hook, HookKind, KPROBE_HOOKS};
use thiserror::Error;

use crate::error::ObserveError;
use crate::loader::{KERNEL_BTF, ObserverOptions};

/// How the probes are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hooking {
    /// By trampolines (fentry, fexit, tp_btf): the kernel's BTF must know each function.
    Trampolines,
    /// By kprobes, kretprobes and raw tracepoints: a function must be in kallsyms, under its own name.
    Kprobes,
}

impl Hooking {
    /// Both, the preferred one first.
    pub const ALL: [Self; 2] = [Self::Trampolines, Self::Kprobes];

    /// `trampolines` or `kprobes`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trampolines => "trampolines",
            Self::Kprobes => "kprobes",
        }
    }

    /// The programs that are attached in this way, in that order.
    pub(crate) const fn hooks(self) -> &'static [Hook] {
        match self {
            Self::Trampolines => &HOOKS,
            Self::Kprobes => &KPROBE_HOOKS,
        }
    }
}

impl fmt::Display for Hooking {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that is no way to attach.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no way to attach: trampolines or kprobes")]
pub struct UnknownHooking(String);

impl FromStr for Hooking {
    type Err = UnknownHooking;
    fn from_str(name: &str) -> Result<Self, UnknownHooking> {
        Self::ALL.into_iter().find(|way| way.name() == name).ok_or_else(|| UnknownHooking(name.to_owned()))
    }
}

/// What the kernel offers at one function or tracepoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its name, as the probes would hook it.
    pub function: String,
    /// Whether it is a tracepoint.
    pub is_tracepoint: bool,
    /// Whether the kernel's BTF describes it.
    pub in_btf: bool,
    /// Whether kallsyms has it (a tracepoint: its `__tracepoint_` structure). What the compiler inlined, or cloned
    /// under another name, is not there.
    pub in_kallsyms: bool,
    /// Whether ftrace can trace it; `None` where tracefs does not say.
    pub in_ftrace: Option<bool>,
    /// Where kallsyms lacks it: what it has of a similar name.
    pub similar: Vec<String>,
}

impl Offer {
    /// The ways in which it can be hooked.
    #[must_use]
    pub fn ways(&self) -> Vec<Hooking> {
        let offers = [
            (Hooking::Trampolines, self.in_btf && self.in_ftrace != Some(false)),
            (Hooking::Kprobes, self.in_kallsyms),
        ];
        offers.into_iter().filter(|(_, offered)| *offered).map(|(way, _)| way).collect()
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |has: bool| if has { "yes" } else { "no" };
        let kind = if self.is_tracepoint { "tracepoint " } else { "" };
        write!(formatter, "{kind}{}: BTF {}, kallsyms {}", self.function, yes(self.in_btf), yes(self.in_kallsyms))?;
        if !self.is_tracepoint {
            write!(formatter, ", ftrace {}", self.in_ftrace.map_or("unknown", yes))?;
        }
        let ways: Vec<&str> = self.ways().into_iter().map(Hooking::name).collect();
        match ways.as_slice() {
            [] => write!(formatter, "; CANNOT BE HOOKED: renamed, inlined, or cloned by the compiler?")?,
            ways => write!(formatter, "; by {}", ways.join(" or "))?,
        }
        if !self.similar.is_empty() {
            write!(formatter, " Similar names: {}", self.similar.join(", "))?;
        }
        Ok(())
    }
}

/// Looks up every hook in the kernel's BTF, in kallsyms and in ftrace's list.
///
/// # Errors
/// [`ObserveError::NoBtf`] where the BTF cannot be read, [`ObserveError::System`] where kallsyms cannot.
pub fn survey(options: &ObserverOptions) -> Result<Vec<Offer>, ObserveError> {
    let btf = Btf::from_sys_fs().map_err(|_| ObserveError::NoBtf(KERNEL_BTF.into()))?;
    let kallsyms = fs::read_to_string("/proc/kallsyms").map_err(ObserveError::system("reading /proc/kallsyms"))?;
    let symbols: BTreeSet<&str> = kallsyms.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    let traceable = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
        .into_iter()
        .find_map(|folder| fs::read_to_string(format!("{folder}/available_filter_functions")).ok());
    let traceable: Option<BTreeSet<&str>> =
        traceable.as_ref().map(|text| text.lines().filter_map(|line| line.split_whitespace().next()).collect());
    let mut offers: Vec<Offer> = Vec::new();
    for hook in HOOKS.iter().chain(&FOLLOW_HOOKS) {
        let function = options.target(hook).to_owned();
        if offers.iter().any(|offer| offer.function == function) {
            continue;
        }
        let is_tracepoint = hook.kind == HookKind::Tracepoint;
        let symbol = if is_tracepoint { format!("__tracepoint_{function}") } else { function.clone() };
        let in_kallsyms = symbols.contains(symbol.as_str());
        offers.push(Offer {
            is_tracepoint,
            in_btf: is_in_btf(&btf, hook.kind, &function),
            in_kallsyms,
            in_ftrace: traceable.as_ref().map(|names| names.contains(function.as_str())).filter(|_| !is_tracepoint),
            similar: if in_kallsyms { Vec::new() } else { similar(&function, &symbols) },
            function,
        });
    }
    Ok(offers)
}

/// Whether the kernel's BTF has what a hook of this kind needs. Kprobes and raw tracepoints need nothing of it: they are
/// looked for when they are attached.
pub(crate) fn is_in_btf(kernel: &Btf, kind: HookKind, function: &str) -> bool {
    let has = |name: &str, kind| kernel.id_by_type_name_kind(name, kind).is_ok();
    match kind {
        HookKind::Tracepoint => has(&format!("btf_trace_{function}"), BtfKind::Typedef),
        HookKind::FunctionEntry | HookKind::FunctionExit => has(function, BtfKind::Func),
        HookKind::RawTracepoint | HookKind::Kprobe | HookKind::Kretprobe => true,
    }
}

/// Names of the kernel's that may be this one's: a clone (`name.isra.0`), else what begins like it but for its last word.
fn similar(name: &str, symbols: &BTreeSet<&str>) -> Vec<String> {
    const MOST: usize = 6;
    let beginning = |head: &str| -> Vec<String> {
        symbols.iter().filter(|symbol| symbol.starts_with(head)).take(MOST).map(|symbol| (*symbol).to_owned()).collect()
    };
    let clones = beginning(&format!("{name}."));
    match name.rsplit_once('_') {
        Some((head, _)) if clones.is_empty() => beginning(&format!("{head}_")),
        _ => clones,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_function_is_told_with_what_may_be_it() {
        let symbols =
            BTreeSet::from(["copy_page_range", "copy_page_to_iter", "zap_range.isra.0", "zap_range.part.0", "other"]);
        assert_eq!(similar("copy_page_strange", &symbols), ["copy_page_range", "copy_page_to_iter"]);
        assert_eq!(similar("zap_range", &symbols), ["zap_range.isra.0", "zap_range.part.0"]);
        assert_eq!(similar("strange", &symbols), [""; 0]);
    }

    #[test]
    fn an_offer_names_the_ways() {
        let offer = |in_btf, in_kallsyms, in_ftrace| Offer {
            function: "handle_mm_fault".to_owned(),
            is_tracepoint: false,
            in_btf,
            in_kallsyms,
            in_ftrace,
            similar: Vec::new(),
        };
        assert_eq!(offer(true, true, None).ways(), Hooking::ALL);
        assert_eq!(offer(false, true, Some(true)).ways(), [Hooking::Kprobes]);
        assert_eq!(offer(true, true, Some(false)).ways(), [Hooking::Kprobes]);
        assert!(offer(false, false, None).to_string().contains("CANNOT BE HOOKED"));
    }

    #[test]
    fn both_ways_hook_the_same_functions() {
        let targets = |way: Hooking| way.hooks().iter().map(|hook| hook.target).collect::<Vec<_>>();
        assert_eq!(targets(Hooking::Trampolines), targets(Hooking::Kprobes));
    }
}
