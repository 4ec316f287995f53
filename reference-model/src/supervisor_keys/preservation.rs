//! What the series did with the register when an exception comes, patch set by patch set.

/// A way to treat IA32_PKRS and the reference count of `dev_access_enable` in exceptions.
///
/// The reference count makes nested enabling possible: the key is opened by the first `dev_access_enable` and closed by
/// the last `dev_access_disable` (`mm/memremap.c` of the series; `current->dev_page_access_ref`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preservation {
    /// The cover letter's compromise: saved and restored across context switches, not in exceptions.
    None,
    /// RFC V2, patch 17/17 as posted. `idt_save_pkrs` gets the state that it should fill by value, so that what it
    /// saves is lost; `idt_restore_pkrs` restores the caller's zeroes.
    ByValue,
    /// The same with the state passed by reference, as the review had it. #MC and NMI still come in another way and
    /// save nothing, and the thread's saved value is left alone.
    ByReference,
    /// RFC V3: #MC and NMI save, too, and the thread's saved value is restored with the register.
    WithThreadValue,
    /// V9: `struct pt_regs_auxiliary`, beside the saved registers, keeps the thread's value. The reference count is
    /// left alone (V7: "there is no need to maintain the reference count").
    RegistersFrame,
    /// What the others lack together: every entry saves register, thread's value and reference count in its frame and
    /// resets all three, every return restores them.
    Whole,
}

impl Preservation {
    /// All of them, in the order of their posting; the last was never posted.
    pub const ALL: [Self; 6] =
        [Self::None, Self::ByValue, Self::ByReference, Self::WithThreadValue, Self::RegistersFrame, Self::Whole];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "cover letter: context switch only",
            Self::ByValue => "RFC V2 17/17 as posted: state passed by value",
            Self::ByReference => "RFC V2 17/17 corrected: by reference",
            Self::WithThreadValue => "RFC V3: NMI and #MC too, thread's value restored",
            Self::RegistersFrame => "V9: pt_regs_auxiliary",
            Self::Whole => "all three saved and reset at every entry",
        }
    }
}
