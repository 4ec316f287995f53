/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Records shared between program_watch.bpf.c and user space. The Rust mirror is src/program_watch_records.rs.
 */
#ifndef PROGRAM_WATCH_H
#define PROGRAM_WATCH_H

#include "pte_snapshot.h"

/*
 * Invariants, by bit. What they state, where they hold and where they come from stands in
 * reference-model/src/invariant.rs, in the same order.
 */
#define PTEDIFF_INVARIANT_CLEAN_UNLESS_WRITABLE	     0
#define PTEDIFF_INVARIANT_SHADOW_STACK_READ_ONLY     1
#define PTEDIFF_INVARIANT_SAVED_DIRTY_READ_ONLY	     2
#define PTEDIFF_INVARIANT_UFFD_WP_READ_ONLY	     3
#define PTEDIFF_INVARIANT_PROTECTION_KEY	     4
#define PTEDIFF_INVARIANT_WRITABLE_BY_VMA	     5
#define PTEDIFF_INVARIANT_EXECUTABLE_BY_VMA	     6
#define PTEDIFF_INVARIANT_USER			     7
#define PTEDIFF_INVARIANT_NOT_GLOBAL		     8
#define PTEDIFF_INVARIANT_PROT_NONE_BARE	     9
#define PTEDIFF_INVARIANT_PRIVATE_WRITABLE_EXCLUSIVE 10
#define PTEDIFF_INVARIANT_FORK_CHILD_OLD	     11
#define PTEDIFF_INVARIANT_FORK_CHILD_UFFD_WP	     12
#define PTEDIFF_INVARIANT_FORK_SWAP_SHARED	     13
#define PTEDIFF_INVARIANT_SWAP_ENCODING		     14
#define PTEDIFF_INVARIANT_MARKER_ENCODING	     15
#define PTEDIFF_INVARIANTS			     16

#define PTEDIFF_WATCH_CAUSES 5 /* PTEDIFF_CAUSE_* of pte_snapshot.h */

/* Size of the array `judged`: entries by cause and invariants that say something of them. */
#define PTEDIFF_JUDGED (PTEDIFF_WATCH_CAUSES << PTEDIFF_INVARIANTS)

/* Kernel addresses of a violation's stack; transitions of its page that are told. */
#define PTEDIFF_STACK_DEPTH 16
#define PTEDIFF_TOLD	    8
/* Transitions that are remembered: a power of two. */
#define PTEDIFF_HISTORY 4096
/* Reports until one is refused: a storm of violations is counted, its first ones are told. */
#define PTEDIFF_MOST_REPORTS 256

/* What user space decides, before the probes are attached. */
struct ptediff_watch_settings {
	ptediff_u64 invariants;	       /* those that hold on this machine, by bit */
	ptediff_u64 shadow_stack_flag; /* VM_SHADOW_STACK of this kernel, or 0 */
	ptediff_u64 marker_bits;       /* PTE_MARKER_* bits that this kernel has */
	ptediff_u64 marker_type;       /* swap type of markers, or ~0 */
	ptediff_u64
		plant_flip; /* bits that are flipped in what was read: 0, but in tests of the watch */
	ptediff_u64 plant_causes; /* causes under which they are, by bit */
};

/* What happened, counted with atomic additions. */
struct ptediff_watch_counters {
	ptediff_u64 events[PTEDIFF_WATCH_CAUSES]; /* function calls that were judged */
	ptediff_u64 violations[PTEDIFF_INVARIANTS];
	ptediff_u64 processes; /* that were watched, those at the beginning included */
	ptediff_u64
		retries; /* faults that gave up the mmap lock: the VMA may be gone, nothing is read */
	ptediff_u64 not_copied; /* VMAs of which a fork copies nothing */
	ptediff_u64
		failed; /* function calls that returned an error: they may have stopped half-way */
	/* From here on: what was not seen. */
	ptediff_u64 no_room;	 /* function calls that found no room to be remembered */
	ptediff_u64 unpaired;	 /* function calls seen at their end alone, of a watched process */
	ptediff_u64 read_errors; /* page tables that the kernel would not let be read */
	ptediff_u64 cut_short;	 /* ranges too long to be judged to their end */
	ptediff_u64 unfollowed;	 /* children that could not be watched */
	ptediff_u64 unreported;	 /* violations that were counted and could not be told */
};

/* A remembered transition: of one page at a fault; a whole range, without its entries, else. */
struct ptediff_watch_transition {
	ptediff_u64 number; /* from 1; 0 is an empty place */
	ptediff_u64 mm;
	ptediff_u64 start; /* address of the first page */
	ptediff_u64 end;   /* behind the last page */
	ptediff_u64 after; /* at a fault */
	ptediff_u32 cause;
	ptediff_u32 thread;
};

/* Value of the mmapable array `program_watch`, one element. */
struct ptediff_program_watch {
	struct ptediff_watch_settings settings;
	struct ptediff_watch_counters counters;
	ptediff_u64 transitions; /* numbered so far */
	ptediff_u64 reports;	 /* numbered so far */
};

/* One record of the ring buffer `reports`: an entry that breaks invariants. */
struct ptediff_watch_report {
	ptediff_u64 number;
	ptediff_u64 broken; /* invariants, by bit */
	ptediff_u64 mm;
	ptediff_u64 address;
	ptediff_u64 after; /* the entry */
	ptediff_u64 vm_flags;
	ptediff_u64 vm_start;
	ptediff_u64 vm_end;
	ptediff_u64 event; /* transitions numbered until then */
	ptediff_u32 cause;
	ptediff_u32 level; /* PTEDIFF_LEVEL_*: of the table that holds the entry */
	ptediff_u32 process;
	ptediff_u32 thread;
	ptediff_u32 exclusive; /* PageAnonExclusive of the frame; 2 if it was not asked */
	ptediff_u32 stack_bytes;
	char task[16];
	ptediff_u64 stack[PTEDIFF_STACK_DEPTH];
	struct ptediff_watch_transition told[PTEDIFF_TOLD]; /* of this page, the newest first */
};

_Static_assert(sizeof(struct ptediff_watch_settings) == 48, "settings");
_Static_assert(sizeof(struct ptediff_watch_counters) == 8 * (5 + 16 + 10), "counters");
_Static_assert(sizeof(struct ptediff_watch_transition) == 48, "transition");
_Static_assert(sizeof(struct ptediff_program_watch) == 48 + 248 + 16, "program watch");
_Static_assert(sizeof(struct ptediff_watch_report) == 112 + 128 + 8 * 48, "report");

/* A process that is watched. */
struct ptediff_watched_process {
	ptediff_u32 process;
	ptediff_u32 reserved;
	ptediff_u64 mm;
	ptediff_u64 table; /* address of its uppermost page table */
};

#endif
