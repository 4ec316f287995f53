/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Records shared between write_protect_watch.bpf.c and user space. The Rust mirror is src/watch_records.rs.
 */
#ifndef WRITE_PROTECT_WATCH_H
#define WRITE_PROTECT_WATCH_H

#include "pte_snapshot.h"

/* The watched region: the whole page table in which the arena lies. */
#define PTEDIFF_REGION_PAGES 512

/* Violations that are kept; more are only counted. */
#define PTEDIFF_KEPT_VIOLATIONS 16

/* violation.kind */
#define PTEDIFF_VIOLATION_WRITE_0_DIRTY_1 1
#define PTEDIFF_VIOLATION_DIRTY_LOST	  2

#define PTEDIFF_CAUSES 5

/* What happened under one cause (PTEDIFF_CAUSE_*). */
struct ptediff_tally {
	/* Calls of the function that touched the region. */
	ptediff_u64 calls;
	/* Entries that were writable before and are present and not writable after. */
	ptediff_u64 protected;
	/* Present entries with Write=0, Dirty=1 after, in a VMA without VM_SHADOW_STACK. */
	ptediff_u64 created;
	/* Entries of one frame that were dirty (Dirty or SavedDirty) before and are not after. */
	ptediff_u64 dirty_lost;
	/* Entries that were writable and clean before and are dirty after: a processor came between. */
	ptediff_u64 dirty_arrived;
};

struct ptediff_violation {
	ptediff_u32 kind;
	ptediff_u32 cause;
	ptediff_u64 page;
	ptediff_u64 before;
	ptediff_u64 after;
	ptediff_u64 vm_flags;
	/* Entries protected in place until then. */
	ptediff_u64 protected_until;
};

struct ptediff_watch {
	/* The watched process, set by the inspect program; the child that it forked last. */
	ptediff_u64 mm;
	ptediff_u64 child_mm;
	/* VM_SHADOW_STACK of this kernel, or 0; set by user space. */
	ptediff_u64 shadow_stack_flag;
	/* Exits without an entry. */
	ptediff_u64 unpaired;
	/* Page tables that could not be read. */
	ptediff_u64 read_errors;
	ptediff_u64 violations;
	/* Functions that write-protect and have begun: the writer waits for one, to be in its midst. */
	ptediff_u64 begun;
	struct ptediff_tally tallies[PTEDIFF_CAUSES];
	struct ptediff_violation kept[PTEDIFF_KEPT_VIOLATIONS];
};

_Static_assert(sizeof(struct ptediff_tally) == 40, "tally");
_Static_assert(sizeof(struct ptediff_violation) == 48, "violation");
_Static_assert(sizeof(struct ptediff_watch) == 56 + 5 * 40 + 16 * 48, "watch");

#endif
