//! The rules by which an access is decided, each with its place in the SDM.

/// A rule. The order is that in which a decision names them, if several refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Rule {
    /// An entry on the way has P clear.
    NotPresent,
    /// An entry on the way sets a bit that is reserved there.
    ReservedBit,
    /// A user-mode access to a supervisor-mode address.
    SupervisorAddress,
    /// CR4.SMAP refuses a supervisor-mode data access to a user-mode address.
    Smap,
    /// CR4.SMEP refuses a supervisor-mode fetch from a user-mode address.
    Smep,
    /// A fetch through an entry with execute-disable.
    ExecuteDisable,
    /// PKRU disables access by the key of a user-mode address.
    UserKeyAccess,
    /// PKRU disables writes by the key of a user-mode address.
    UserKeyWrite,
    /// IA32_PKRS disables access by the key of a supervisor-mode address.
    SupervisorKeyAccess,
    /// IA32_PKRS disables writes by the key of a supervisor-mode address.
    SupervisorKeyWrite,
    /// A shadow-stack access to what is not a shadow-stack page.
    NoShadowStackPage,
    /// A supervisor-mode shadow-stack access to a user-mode address.
    ShadowStackOfOtherMode,
    /// A user-mode write through an entry with R/W clear.
    UserWriteProtected,
    /// A supervisor-mode write through an entry with R/W clear, with CR0.WP set.
    SupervisorWriteProtected,
    /// A fetch that is allowed.
    Fetch,
    /// A data read that is allowed.
    Read,
    /// A data write that is allowed because R/W is set in every entry.
    Write,
    /// A supervisor-mode write through R/W clear that is allowed because CR0.WP is clear.
    WriteProtectOff,
    /// A shadow-stack read that is allowed.
    ShadowStackRead,
    /// A shadow-stack write that is allowed.
    ShadowStackWrite,
    /// Accessed of the entries that were used, and Dirty of the one that maps the page, are set by an access.
    AccessedAndDirty,
    /// Where shadow stacks are supported, Dirty is never set in an entry with R/W clear.
    CleanWithoutWritable,
    /// Whether a refused access sets Accessed in the entries that it used is not said.
    AccessedOnFaultUnspecified,
    /// Whether PK is set for a user-mode access to a supervisor-mode address whose key is closed is not clear.
    SupervisorKeyOfUserAccessUnspecified,
    /// The protection key of an entry that maps no page is ignored.
    KeyOfPagesOnly,
    /// The flags of the error code describe the access; PK holds whenever the key refuses, whatever else does.
    ErrorCodeFlags,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::NotPresent,
        Self::ReservedBit,
        Self::SupervisorAddress,
        Self::Smap,
        Self::Smep,
        Self::ExecuteDisable,
        Self::UserKeyAccess,
        Self::UserKeyWrite,
        Self::SupervisorKeyAccess,
        Self::SupervisorKeyWrite,
        Self::NoShadowStackPage,
        Self::ShadowStackOfOtherMode,
        Self::UserWriteProtected,
        Self::SupervisorWriteProtected,
        Self::Fetch,
        Self::Read,
        Self::Write,
        Self::WriteProtectOff,
        Self::ShadowStackRead,
        Self::ShadowStackWrite,
        Self::AccessedAndDirty,
        Self::CleanWithoutWritable,
        Self::AccessedOnFaultUnspecified,
        Self::SupervisorKeyOfUserAccessUnspecified,
        Self::KeyOfPagesOnly,
        Self::ErrorCodeFlags,
    ];

    /// How many of the first rules decide an access; those behind them say what else holds.
    pub const DECIDING: usize = 20;

    /// Its identifier.
    #[must_use]
    pub fn identifier(self) -> &'static str {
        self.describe().0
    }

    /// Its place in the SDM, and what it says.
    #[must_use]
    pub fn source(self) -> &'static str {
        self.describe().1
    }

    fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::NotPresent => (
                "processor.not-present",
                "SDM 3A 4.7, P flag: 0 if there is no translation because P was 0 in an entry used to translate",
            ),
            Self::ReservedBit => (
                "processor.reserved-bit",
                "SDM 3A 4.5 (formats of entries) and 4.7, RSVD flag: checked only where P is 1, so P is 1 with it",
            ),
            Self::SupervisorAddress => (
                "processor.supervisor-address",
                "SDM 3A 4.6.1: user-mode accesses need U/S in every entry of the translation",
            ),
            Self::Smap => (
                "processor.smap",
                "SDM 3A 4.6.1: with CR4.SMAP, data of a user-mode address only by an explicit access with EFLAGS.AC",
            ),
            Self::Smep => ("processor.smep", "SDM 3A 4.6.1: with CR4.SMEP no instruction of a user-mode address"),
            Self::ExecuteDisable => (
                "processor.execute-disable",
                "SDM 3A 4.6.1: with IA32_EFER.NXE, fetches need XD clear in every entry of the translation",
            ),
            Self::UserKeyAccess => (
                "processor.user-key-access",
                "SDM 3A 4.6.2: AD of PKRU refuses any data access to a user-mode address of the key, in any mode",
            ),
            Self::UserKeyWrite => (
                "processor.user-key-write",
                "SDM 3A 4.6.2: WD of PKRU refuses user-mode writes, and supervisor-mode ones if CR0.WP is 1",
            ),
            Self::SupervisorKeyAccess => (
                "processor.supervisor-key-access",
                "SDM 3A 4.6.2: AD of IA32_PKRS refuses any data access to a supervisor-mode address of the key",
            ),
            Self::SupervisorKeyWrite => (
                "processor.supervisor-key-write",
                "SDM 3A 4.6.2: WD of IA32_PKRS refuses writes to a supervisor-mode address if CR0.WP is 1",
            ),
            Self::NoShadowStackPage => (
                "processor.no-shadow-stack-page",
                "SDM 3A 4.6.1: shadow-stack accesses need R/W clear and Dirty set in the entry that maps the page, \
                 and R/W set in every other entry of the translation",
            ),
            Self::ShadowStackOfOtherMode => (
                "processor.shadow-stack-of-other-mode",
                "SDM 3A 4.6.1: supervisor-mode shadow-stack accesses reach supervisor-mode addresses only",
            ),
            Self::UserWriteProtected => (
                "processor.user-write-protected",
                "SDM 3A 4.6.1: user-mode writes need R/W in every entry of the translation",
            ),
            Self::SupervisorWriteProtected => (
                "processor.supervisor-write-protected",
                "SDM 3A 4.6.1: with CR0.WP, supervisor-mode writes need R/W in every entry of the translation",
            ),
            Self::Fetch => ("processor.fetch", "SDM 3A 4.6.1: instruction fetches; keys are not asked (4.6.2)"),
            Self::Read => ("processor.read", "SDM 3A 4.6.1: data reads; shadow-stack pages may be read"),
            Self::Write => ("processor.write", "SDM 3A 4.6.1: data writes"),
            Self::WriteProtectOff => (
                "processor.write-protect-off",
                "SDM 3A 4.6.1: without CR0.WP data may be written to any supervisor-mode address, and to any \
                 user-mode one that SMAP leaves open",
            ),
            Self::ShadowStackRead => ("processor.shadow-stack-read", "SDM 3A 4.6.1: shadow-stack reads"),
            Self::ShadowStackWrite => ("processor.shadow-stack-write", "SDM 3A 4.6.1: shadow-stack writes"),
            Self::AccessedAndDirty => (
                "processor.accessed-and-dirty",
                "SDM 3A 4.8: Accessed in each entry used as part of a translation; Dirty in the entry that identifies \
                 the final address, whenever there is a write to the linear address",
            ),
            Self::AccessedOnFaultUnspecified => (
                "processor.accessed-on-fault-unspecified",
                "SDM 3A 4.8 speaks of entries used as part of a translation and not of accesses that are refused; \
                 KVM's own test leaves the flag open, too",
            ),
            Self::CleanWithoutWritable => (
                "processor.clean-without-writable",
                "SDM 3A 4.8: a processor that supports CET never sets Dirty in an entry whose R/W is clear; the write \
                 without CR0.WP is made all the same (4.6.1)",
            ),
            Self::SupervisorKeyOfUserAccessUnspecified => (
                "processor.supervisor-key-of-user-access-unspecified",
                "SDM 3A 4.6.2 closes the address to any data access, 4.7 ties PK to the key's rights; a user-mode access \
                 is refused by 4.6.1 already, and emulators differ on PK. No hardware was asked",
            ),
            Self::KeyOfPagesOnly => (
                "processor.key-of-pages-only",
                "SDM 3A 4.5, 4.6.2: bits 62:59 are the key in an entry that maps a page, and ignored in others",
            ),
            Self::ErrorCodeFlags => (
                "processor.error-code-flags",
                "SDM 3A 4.7: W/R, U/S, I/D and SS describe the access, PK what the key's rights say of it",
            ),
        }
    }
}
