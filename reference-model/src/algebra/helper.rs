//! The helpers by name, and which kernel has which.

use std::fmt;

use super::{Algebra, Design};

/// The level of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// 4 KiB.
    Pte,
    /// 2 MiB.
    Pmd,
    /// 1 GiB.
    Pud,
}

impl Level {
    /// Every level, lowest first.
    pub const ALL: [Self; 3] = [Self::Pte, Self::Pmd, Self::Pud];
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Pte => "pte",
            Self::Pmd => "pmd",
            Self::Pud => "pud",
        })
    }
}

/// What a helper gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Yes or no.
    Predicate,
    /// A number that is no entry.
    Number,
    /// An entry.
    Transformer,
}

macro_rules! helpers {
    ($($(#[$meaning:meta])* $helper:ident $suffix:literal $kind:ident $levels:literal;)*) => {
        /// A helper, by what stands behind `pte_`, `pmd_` or `pud_` in its name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Helper {
            $($(#[$meaning])* $helper,)*
        }

        impl Helper {
            /// Every helper.
            pub const ALL: &[Self] = &[$(Self::$helper,)*];

            /// What stands behind the level in its name.
            #[must_use]
            pub fn suffix(self) -> &'static str {
                match self {
                    $(Self::$helper => $suffix,)*
                }
            }

            /// What it gives.
            #[must_use]
            pub fn kind(self) -> Kind {
                match self {
                    $(Self::$helper => Kind::$kind,)*
                }
            }

            /// The levels at which some kernel has it, of "tmu".
            fn levels(self) -> &'static str {
                match self {
                    $(Self::$helper => $levels,)*
                }
            }
        }
    };
}

helpers! {
    /// The page was written.
    Dirty "dirty" Predicate "tmu";
    /// A shadow stack.
    Shstk "shstk" Predicate "tmu";
    /// Accessed.
    Young "young" Predicate "tmu";
    /// Writable, by whatever instruction.
    Write "write" Predicate "tmu";
    /// Empty but for the bits that an erratum may set.
    None "none" Predicate "tmu";
    /// Present to the kernel.
    Present "present" Predicate "tmu";
    /// Written since the soft-dirty bits were cleared.
    SoftDirty "soft_dirty" Predicate "tmu";
    /// Write-protected by userfaultfd.
    UffdWp "uffd_wp" Predicate "tm";
    /// Bit 7, for code that handles leaves of all levels.
    Huge "huge" Predicate "t";
    /// Global.
    Global "global" Predicate "t";
    /// Not NX.
    Exec "exec" Predicate "t";
    /// No `struct page` behind it, or none to be touched.
    Special "special" Predicate "tmu";
    /// PROT_NONE, or a NUMA hint.
    Protnone "protnone" Predicate "tm";
    /// Maps a page.
    Leaf "leaf" Predicate "mu";
    /// Maps a page that is not a device's.
    TransHuge "trans_huge" Predicate "mu";
    /// Maps memory of a device.
    Devmap "devmap" Predicate "tmu";
    /// Neither empty nor a sound pointer to a table.
    Bad "bad" Predicate "mu";
    /// Soft-dirty in a swap entry.
    SwpSoftDirty "swp_soft_dirty" Predicate "tm";
    /// Write-protected by userfaultfd, in a swap entry.
    SwpUffdWp "swp_uffd_wp" Predicate "tm";
    /// The swapped page belonged to this entry alone.
    SwpExclusive "swp_exclusive" Predicate "t";
    /// The frame's number.
    Pfn "pfn" Number "tmu";
    /// Not written.
    Mkclean "mkclean" Transformer "tmu";
    /// Written.
    Mkdirty "mkdirty" Transformer "tmu";
    /// Not accessed.
    Mkold "mkold" Transformer "tmu";
    /// Accessed.
    Mkyoung "mkyoung" Transformer "tmu";
    /// Not writable.
    Wrprotect "wrprotect" Transformer "tmu";
    /// Writable; the argument is [`super::Question::ORDINARY_VMA`] or [`super::Question::SHADOW_STACK_VMA`] where
    /// the kernel's takes a VMA.
    Mkwrite "mkwrite" Transformer "tmu";
    /// Writable, whatever else the entry says.
    MkwriteNovma "mkwrite_novma" Transformer "tm";
    /// Writable as a shadow stack.
    MkwriteShstk "mkwrite_shstk" Transformer "tm";
    /// Dirty becomes `_PAGE_COW`.
    Mkcow "mkcow" Transformer "tmu";
    /// `_PAGE_COW` becomes Dirty.
    ClearCow "clear_cow" Transformer "tmu";
    /// Dirty becomes SavedDirty if the entry is read-only.
    Mksaveddirty "mksaveddirty" Transformer "tmu";
    /// SavedDirty becomes Dirty if the entry is writable.
    ClearSaveddirty "clear_saveddirty" Transformer "tmu";
    /// Write-protected by userfaultfd.
    MkuffdWp "mkuffd_wp" Transformer "tm";
    /// Not write-protected by userfaultfd.
    ClearUffdWp "clear_uffd_wp" Transformer "tm";
    /// Soft-dirty.
    MksoftDirty "mksoft_dirty" Transformer "tmu";
    /// Not soft-dirty.
    ClearSoftDirty "clear_soft_dirty" Transformer "tmu";
    /// Executable.
    Mkexec "mkexec" Transformer "t";
    /// Special.
    Mkspecial "mkspecial" Transformer "tmu";
    /// Memory of a device.
    Mkdevmap "mkdevmap" Transformer "tmu";
    /// Bit 7 set.
    Mkhuge "mkhuge" Transformer "tmu";
    /// Bit 7 clear.
    Clrhuge "clrhuge" Transformer "t";
    /// Global.
    Mkglobal "mkglobal" Transformer "t";
    /// Not global.
    Clrglobal "clrglobal" Transformer "t";
    /// Absent to the CPU, for the time of a split.
    Mkinvalid "mkinvalid" Transformer "mu";
    /// Another protection: the argument is its bits.
    Modify "modify" Transformer "tmu";
    /// Soft-dirty, in a swap entry.
    SwpMksoftDirty "swp_mksoft_dirty" Transformer "tm";
    /// Not soft-dirty, in a swap entry.
    SwpClearSoftDirty "swp_clear_soft_dirty" Transformer "tm";
    /// Write-protected by userfaultfd, in a swap entry.
    SwpMkuffdWp "swp_mkuffd_wp" Transformer "tm";
    /// Not write-protected by userfaultfd, in a swap entry.
    SwpClearUffdWp "swp_clear_uffd_wp" Transformer "tm";
    /// Of this entry alone, in a swap entry.
    SwpMkexclusive "swp_mkexclusive" Transformer "t";
    /// Perhaps not of this entry alone, in a swap entry.
    SwpClearExclusive "swp_clear_exclusive" Transformer "t";
}

impl Helper {
    /// Its name in the kernel, `pte_wrprotect` say.
    #[must_use]
    pub fn name(self, level: Level) -> String {
        format!("{level}_{}", self.suffix())
    }
}

impl Algebra {
    /// Whether this kernel has the helper at this level.
    #[must_use]
    pub fn has(&self, level: Level, helper: Helper) -> bool {
        let letter = match level {
            Level::Pte => 't',
            Level::Pmd => 'm',
            Level::Pud => 'u',
        };
        helper.levels().contains(letter) && self.has_somewhere(level, helper)
    }

    fn has_somewhere(&self, level: Level, helper: Helper) -> bool {
        let design = self.design;
        let is_huge = level != Level::Pte;
        match helper {
            Helper::Shstk => design.is_saved_dirty() || design.is_cow() && level != Level::Pud,
            Helper::MkwriteShstk => design != Design::BeforeShadowStacks,
            Helper::MkwriteNovma | Helper::Mksaveddirty | Helper::ClearSaveddirty => design.is_saved_dirty(),
            Helper::Mkcow | Helper::ClearCow => design.is_cow(),
            // 6.12 gave the higher levels what only the lowest had.
            Helper::Special | Helper::Mkspecial => !is_huge || design.is_saved_dirty(),
            Helper::Mkinvalid | Helper::Modify => level != Level::Pud || design.is_saved_dirty(),
            Helper::Devmap | Helper::Mkdevmap => self.devmap_bit() != 0,
            // 5.19 brought them.
            Helper::SwpExclusive | Helper::SwpMkexclusive | Helper::SwpClearExclusive => !design.is_cow(),
            _ => true,
        }
    }
}
