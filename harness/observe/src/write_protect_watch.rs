//! The watch over write-protections on several CPUs: probes that judge in the kernel and count.

use std::fmt;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use libbpf_rs::{Link, MapCore, Object, ObjectBuilder, PrintLevel};
use ptediff_bpf::{
    CAUSE_CLEAR_REFS, CAUSE_FAULT, CAUSE_FORK_CHILD, CAUSE_FORK_PARENT, CAUSE_PROTECT, INSPECT_PROGRAM, INSPECTED_MAP,
    RegionTable, WATCH_HOOKS, WATCH_MAP, WATCH_OBJECT, Watch,
};

use crate::error::ObserveError;
use crate::geometry::Geometry;
use crate::libbpf::{keep_warning, load_error, take_warnings};
use crate::loader::{missing_hook, require_btf};
use crate::mapped::MappedValue;
use crate::test_run;
use crate::watch_counters::{VM_SHADOW_STACK, WatchCounters};

/// The probes of `write_protect_watch.bpf.c`, loaded and attached.
pub struct WriteProtectWatch {
    watch: MappedValue<Watch>,
    inspected: MappedValue<RegionTable>,
    begun: &'static AtomicU64,
    inspect_program: OwnedFd,
    /// Attached as long as they live.
    _links: Vec<Link>,
    _object: Object,
}

impl fmt::Debug for WriteProtectWatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WriteProtectWatch").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl WriteProtectWatch {
    /// Loads and attaches the probes. Entries of VMAs with [`VM_SHADOW_STACK`] may have Write=0, Dirty=1; kernels
    /// without shadow stacks have no such VMA.
    ///
    /// # Errors
    /// The kernel lacks BTF or a hook, or does not take the object.
    pub fn open() -> Result<Self, ObserveError> {
        require_btf()?;
        let geometry = Geometry::measure()?;
        libbpf_rs::set_print(Some((PrintLevel::Warn, keep_warning)));
        drop(take_warnings());
        let refused = |error: libbpf_rs::Error| load_error(format!("{error}\n{}", take_warnings()));
        let mut open = ObjectBuilder::default().open_memory(WATCH_OBJECT).map_err(refused)?;
        for mut map in open.maps_mut() {
            if map.name().to_string_lossy().ends_with(".rodata") {
                let bytes = geometry.record().to_bytes();
                map.initial_value_mut()
                    .filter(|constants| constants.len() == bytes.len())
                    .ok_or_else(|| load_error("`geometry` is not alone in .rodata"))?
                    .copy_from_slice(&bytes);
            }
        }
        let object = open.load().map_err(refused)?;
        let mut links = Vec::new();
        for hook in &WATCH_HOOKS {
            let program = object
                .progs_mut()
                .find(|program| program.name() == hook.program)
                .ok_or_else(|| load_error(format!("no program `{}`", hook.program)))?;
            links.push(program.attach_trace().map_err(|error| missing_hook(hook, hook.target, &error.to_string()))?);
        }
        let map = |name: &str| {
            object.maps().find(|map| map.name() == name).ok_or_else(|| load_error(format!("no map `{name}`")))
        };
        let mut watch = MappedValue::<Watch>::open(map(WATCH_MAP)?.as_fd(), WATCH_MAP)?;
        watch.write_field(offset_of!(Watch, shadow_stack_flag), VM_SHADOW_STACK);
        let begun =
            MappedValue::<Watch>::open(map(WATCH_MAP)?.as_fd(), WATCH_MAP)?.leak_counter(offset_of!(Watch, begun));
        let inspected = MappedValue::open(map(INSPECTED_MAP)?.as_fd(), INSPECTED_MAP)?;
        let inspect_program = object
            .progs()
            .find(|program| program.name() == INSPECT_PROGRAM)
            .ok_or_else(|| load_error(format!("no program `{INSPECT_PROGRAM}`")))?
            .as_fd()
            .try_clone_to_owned()
            .map_err(ObserveError::system("keeping the inspect program"))?;
        Ok(Self { watch, inspected, begun, inspect_program, _links: links, _object: object })
    }

    /// Watches the calling process from now on, and reads the entries of its region, which must be mapped by a page
    /// table. Nobody may change them meanwhile.
    ///
    /// # Errors
    /// The region has no page table.
    pub fn inspect(&self) -> Result<Vec<u64>, ObserveError> {
        test_run::run_once(self.inspect_program.as_fd())?;
        Ok(self.inspected.read().entries.to_vec())
    }

    /// Counts the write-protecting functions that have begun with the watched region: whoever sees it change runs at the
    /// same time as one.
    #[must_use]
    pub fn begun(&self) -> &'static AtomicU64 {
        self.begun
    }

    /// What was seen until now.
    #[must_use]
    pub fn counters(&self) -> WatchCounters {
        let watch = self.watch.read();
        let tally = |cause: u8| watch.tallies[usize::from(cause)];
        let kept = watch.violations.min(watch.kept.len() as u64) as usize;
        WatchCounters {
            fault: tally(CAUSE_FAULT),
            fork_parent: tally(CAUSE_FORK_PARENT),
            fork_child: tally(CAUSE_FORK_CHILD),
            protect: tally(CAUSE_PROTECT),
            clear_refs: tally(CAUSE_CLEAR_REFS),
            unpaired: watch.unpaired,
            read_errors: watch.read_errors,
            violations: watch.violations,
            kept: watch.kept[..kept].to_vec(),
        }
    }
}
