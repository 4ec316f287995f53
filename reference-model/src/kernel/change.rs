//! What a change of the kernel is, and where its versions stand.

use std::fmt;

use super::fact::{Fact, Facts};
use super::version::KernelVersion;

/// A row of the table of changes: [`super::DESIGNS`] or [`super::DEFECTS`].
#[derive(Debug, Clone, Copy)]
pub struct ChangeInfo {
    /// The change.
    pub change: Change,
    /// Stable name.
    pub identifier: &'static str,
    /// What a kernel that has it does, in a sentence.
    pub statement: &'static str,
    /// Kernel function (file: function) in which it shows.
    pub function: &'static str,
    /// Upstream commit, by its subject, or the series.
    pub source: &'static str,
    /// Whether the kernel is meant to do so.
    pub kind: ChangeKind,
    /// Kernels that have it, by version.
    pub versions: Versions,
    /// What besides the version must be so, where anything must.
    pub fact: Option<Fact>,
}

/// Whether the kernel is meant to do so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Both ways are right, each in its time.
    Design,
    /// It is a mistake. The model never has it when it judges, only when it explains.
    Defect {
        /// Its CVE, where one was given.
        cve: Option<&'static str>,
        /// What a kernel without it does.
        right: &'static str,
    },
}

/// The versions that have a change: from its introduction until its removal.
#[derive(Debug, Clone, Copy)]
pub struct Versions {
    /// Who took it.
    pub since: Arrival,
    /// Who gave it up: of a defect, who has the fix.
    pub until: Option<Arrival>,
}

/// Where a commit is: in mainline from one version on, and in stable series that took it later.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The first version of mainline that has it, a release candidate where that is known; `None` while none has.
    pub mainline: Option<KernelVersion>,
    /// The first point release that has it, of each series that took it.
    pub stable: &'static [KernelVersion],
}

impl Arrival {
    /// In every version that the table knows of.
    pub const ALWAYS: Self = Self { mainline: Some(KernelVersion::new(0, 0, 0)), stable: &[] };

    /// Whether a version has the commit: its series took it, or it branched off later.
    #[must_use]
    pub fn has_reached(&self, version: KernelVersion) -> bool {
        let in_series = self.stable.iter().find(|first| first.is_of_series(version));
        match (in_series, self.mainline) {
            (Some(first), _) => *first <= version,
            (None, Some(mainline)) => mainline <= version,
            (None, None) => false,
        }
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = |version: &KernelVersion| match (version.patch, version.candidate) {
            (0, None) => format!("{}.{}", version.major, version.minor),
            _ => version.to_string(),
        };
        let mainline = self.mainline.filter(|mainline| mainline.major > 0);
        let all: Vec<String> = mainline.iter().chain(self.stable).map(first).collect();
        match self.mainline {
            _ if !all.is_empty() => formatter.write_str(&all.join(", ")),
            Some(_) => formatter.write_str("always"),
            None => formatter.write_str("never"),
        }
    }
}

impl Versions {
    /// Whether a version has the change.
    #[must_use]
    pub fn has(&self, version: KernelVersion) -> bool {
        self.since.has_reached(version) && !self.until.is_some_and(|until| until.has_reached(version))
    }
}

impl ChangeInfo {
    /// Whether it is a mistake.
    #[must_use]
    pub fn is_defect(&self) -> bool {
        matches!(self.kind, ChangeKind::Defect { .. })
    }

    /// Whether a kernel of this version with these facts has it.
    #[must_use]
    pub fn is_in(&self, version: KernelVersion, facts: Facts) -> bool {
        self.versions.has(version) && self.fact.is_none_or(|fact| facts.has(fact))
    }

    /// Its CVE where it has one, else its identifier: what a report calls it.
    #[must_use]
    pub fn title(&self) -> &'static str {
        match self.kind {
            ChangeKind::Defect { cve: Some(cve), .. } => cve,
            _ => self.identifier,
        }
    }
}

/// One way in which kernels differ. The table says what each means, which versions have it, and whether it is a
/// mistake; a kernel is a set of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "each variant is documented by its row of DESIGNS or DEFECTS, which reports print")]
pub enum Change {
    SavedDirty,
    UserShadowStacks,
    WithoutDevmapBit,
    CleanPagesBecomeWritable,
    UffdWpByPageProtection,
    UffdWpUnpopulated,
    UffdWpAsync,
    UffdWpOverSeveralVmas,
    UffdCopyWritableFirst,
    UffdFillPreparesFirst,
    UffdMergesParts,
    UffdSetsContextAfterMerge,
    UffdUnregisterAsksOwner,
    MremapMovesSeveralVmas,
    MremapChecksFirst,
    MmapAsksPreviousFirst,
    MergesFaultedWithUnfaulted,
    MprotectGivesBackAccount,
    SharedReadKeepsDirty,
    LazyPagesStayYoung,
    SwapInThroughCache,
    SwapInMakesWritable,
    KsmComparesChecksumFirst,
    KsmUnsharesByRead,
    CopyToUserTriesOnce,
    ForcedStores,
    MmapTakesKeyFirst,
    SigreturnReadsByGup,
    PopulateInOneWalk,
    MarkersHaveLastType,
    GuardMarkers,
    SessionProbesByGraph,
    UffdRegisterKeepsWp,
    CopyMergesOnOtherSide,
    CloseKeepsUffdWp,
    MremapKeepsUffdWp,
    DontunmapTakesOriginalAlong,
    DontunmapKeepsOffset,
    MremapMergesRegistered,
    KsmReplaceDropsSoftDirty,
    CopyMergeLosesAnonVma,
    UnmergeableDropsFlags,
    PkeyAllocWithoutKeys,
    UffdTakesShadowStacks,
    MergeLosesSoftDirty,
    PmdModifyDropsDirty,
}
