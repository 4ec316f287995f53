//! Mistakes that a reader of the SDM, an emulator or a hypervisor could make. A check that no such mistake
//! disturbs would be worth nothing: each of them must be noticed by the recorded runs of the bare probe.

/// A planted mistake in [`super::decide_as`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// AD and WD of IA32_PKRS change places.
    SwappedSupervisorKeyBits,
    /// AD and WD of PKRU change places.
    SwappedUserKeyBits,
    /// PKRU is asked for supervisor-mode addresses, too.
    UserKeysOnSupervisorAddresses,
    /// IA32_PKRS is asked for user-mode addresses accessed in supervisor mode, too.
    SupervisorKeysOnUserAddresses,
    /// PKRU's AD is asked in user mode only (what Bochs 3.0 does without our patch).
    UserKeysInUserModeOnly,
    /// WD of either register holds in supervisor mode without CR0.WP.
    KeyWriteDisableWithoutWriteProtect,
    /// Fetches are asked for keys.
    KeysOnFetches,
    /// The key of the entry above the page's is asked.
    KeyOfTheEntryAbove,
    /// SMAP refuses in spite of EFLAGS.AC.
    SmapIgnoresAlignmentCheck,
    /// SMEP is not obeyed.
    SmepIgnored,
    /// A shadow-stack write to a writable page is allowed.
    ShadowStackWriteToWritable,
    /// Dirty is not asked for a shadow-stack page.
    ShadowStackWithoutDirty,
    /// R/W of the entries above is not asked for a shadow-stack page.
    ShadowStackIgnoresEntriesAbove,
    /// A supervisor-mode shadow-stack access reaches user-mode pages.
    ShadowStackOfEitherMode,
    /// CR0.WP is obeyed only in the entry that maps the page.
    WriteProtectInLastEntryOnly,
    /// Writes do not set Dirty.
    LostDirty,
    /// Writes through R/W clear, without CR0.WP, do not set Dirty.
    LostDirtyWithoutWriteProtect,
    /// Writes without CR0.WP set Dirty in an entry with R/W clear where shadow stacks are supported, too.
    DirtyWithoutWritable,
    /// Reads set Dirty.
    DirtyByReads,
    /// Accessed is not set in the entry that maps the page.
    LostAccessed,
    /// Accessed is not set in the entries above.
    LostAccessedAbove,
    /// Refused writes set Dirty.
    DirtyOnFault,
    /// PK is set only where nothing else refuses.
    KeyFlagOnlyAlone,
    /// I/D needs IA32_EFER.NXE.
    FetchFlagNeedsExecuteDisable,
    /// W/R is clear for shadow-stack writes.
    ShadowStackWritesAreReads,
    /// The address bits of large pages that must be zero are not checked.
    LargePageAddressUnchecked,
    /// Reserved bits are found even behind an entry that is not present.
    ReservedWithoutPresent,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::SwappedSupervisorKeyBits,
        Self::SwappedUserKeyBits,
        Self::UserKeysOnSupervisorAddresses,
        Self::SupervisorKeysOnUserAddresses,
        Self::UserKeysInUserModeOnly,
        Self::KeyWriteDisableWithoutWriteProtect,
        Self::KeysOnFetches,
        Self::KeyOfTheEntryAbove,
        Self::SmapIgnoresAlignmentCheck,
        Self::SmepIgnored,
        Self::ShadowStackWriteToWritable,
        Self::ShadowStackWithoutDirty,
        Self::ShadowStackIgnoresEntriesAbove,
        Self::ShadowStackOfEitherMode,
        Self::WriteProtectInLastEntryOnly,
        Self::LostDirty,
        Self::LostDirtyWithoutWriteProtect,
        Self::DirtyWithoutWritable,
        Self::DirtyByReads,
        Self::LostAccessed,
        Self::LostAccessedAbove,
        Self::DirtyOnFault,
        Self::KeyFlagOnlyAlone,
        Self::FetchFlagNeedsExecuteDisable,
        Self::ShadowStackWritesAreReads,
        Self::LargePageAddressUnchecked,
        Self::ReservedWithoutPresent,
    ];
}
