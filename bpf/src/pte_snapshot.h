/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Records shared between pte_snapshot.bpf.c and user space.
 *
 * The Rust mirror is src/records.rs. Sizes and offsets are asserted on both sides, and a test of the
 * mirror reads the #defines below, so that neither can change alone.
 *
 * All integers are little endian, as both sides run on the same x86-64 CPU.
 */
#ifndef PTE_SNAPSHOT_H
#define PTE_SNAPSHOT_H

typedef unsigned char ptediff_u8;
typedef unsigned short ptediff_u16;
typedef unsigned int ptediff_u32;
typedef unsigned long long ptediff_u64;

/* Actors that may be registered at a time. */
#define PTEDIFF_ACTORS 4

/* The arena: 32 pages within one page table. */
#define PTEDIFF_ARENA_BASE  0x100000000000ULL
#define PTEDIFF_ARENA_PAGES 32

/* control.expected_child when no fork is expected. */
#define PTEDIFF_NO_SLOT 0xffffffff

/*
 * actor_snapshot.status: no actor in the slot; entries[] holds the page table; there is no page table, so
 * that every entry is none, and level says which table is missing; a huge page maps the arena, level says
 * where; the kernel refused a read, level says where.
 */
#define PTEDIFF_STATUS_EMPTY	  0
#define PTEDIFF_STATUS_OK	  1
#define PTEDIFF_STATUS_NO_TABLE	  2
#define PTEDIFF_STATUS_HUGE	  3
#define PTEDIFF_STATUS_READ_ERROR 4

/* actor_snapshot.level: the table whose entry ended the walk; 0 is mm->pgd itself. */
#define PTEDIFF_LEVEL_MM  0
#define PTEDIFF_LEVEL_PTE 1
#define PTEDIFF_LEVEL_PMD 2
#define PTEDIFF_LEVEL_PUD 3
#define PTEDIFF_LEVEL_P4D 4
#define PTEDIFF_LEVEL_PGD 5

/* event.cause */
#define PTEDIFF_CAUSE_FAULT	  0
#define PTEDIFF_CAUSE_FORK_PARENT 1
#define PTEDIFF_CAUSE_FORK_CHILD  2
#define PTEDIFF_CAUSE_PROTECT	  3
#define PTEDIFF_CAUSE_CLEAR_REFS  4
#define PTEDIFF_CAUSES		  5

/* Multiplier of the event digest (the 64-bit FNV prime: odd, so that every step is a bijection). */
#define PTEDIFF_DIGEST_PRIME 0x100000001b3ULL

/*
 * What user space must say about the kernel before the object is loaded (.rodata).
 */
struct ptediff_geometry {
	ptediff_u64 page_offset_base; /* virtual address of physical address 0 */
	ptediff_u64 vmemmap_base;     /* virtual address of the struct page of frame 0 */
	ptediff_u32 five_level;	      /* not zero: CR4.LA57 is set */
	ptediff_u32 reserved;
};

/* A registered process. */
struct ptediff_slot {
	ptediff_u64 mm;	 /* struct mm_struct *, 0 in an empty slot */
	ptediff_u32 pid; /* thread group id in the initial pid namespace */
	ptediff_u32 reserved;
};

/*
 * Value of the mmapable array `control`, one element. User space writes `slots`, `expected_child` and
 * `nursery_pid` (and reads what a fork stored there); the probes write the rest.
 */
struct ptediff_control {
	struct ptediff_slot slots[PTEDIFF_ACTORS];
	ptediff_u32 expected_child; /* slot for the next child, or PTEDIFF_NO_SLOT */
	ptediff_u32 nursery_pid;    /* process whose forks also make actors */
	ptediff_u64 sequence;	    /* events numbered so far, lost ones included */
	ptediff_u64 lost;	    /* events for which the ring buffer had no room */
	ptediff_u64 digest;	    /* over the events that went into the ring buffer, in order */
	ptediff_u64 retries;	/* handle_mm_fault calls that asked for a retry (VM_FAULT_RETRY) */
	ptediff_u64 unpaired;	/* exits of a function whose entry was not seen, and failed reads */
	ptediff_u64 unexpected; /* forks of an actor while no child was expected */
	ptediff_u64 snapshots;	/* runs of the snapshot program */
	ptediff_u32 pgd_offset; /* offset of pgd in struct mm_struct, by CO-RE */
	ptediff_u32 anon_exclusive; /* number of PG_anon_exclusive in page flags, by CO-RE */
	ptediff_u32 page_size_of;   /* sizeof(struct page), by CO-RE */
	ptediff_u32 reserved;
};

/* The entries of one actor's arena. */
struct ptediff_actor_snapshot {
	ptediff_u64 mm; /* the mm_struct that was walked */
	ptediff_u32 status;
	ptediff_u32 level;
	ptediff_u64 entries[PTEDIFF_ARENA_PAGES]; /* raw; valid when status is OK */
};

/* Value of the mmapable array `snapshot`, one element. */
struct ptediff_snapshot {
	struct ptediff_actor_snapshot actors[PTEDIFF_ACTORS];
};

/*
 * One record of the ring buffer `events`.
 *
 * A fault gives one record for every handle_mm_fault call that completed (VM_FAULT_RETRY ones are counted
 * in control.retries), whether or not the entry changed. The other causes give one record for each page of
 * the range whose entry is not none before or after, changed or not; none is zero but for Accessed and
 * Dirty, as in pte_none(); each entry of a parent and its child is judged alone. A fork gives for each page
 * in order first the parent's, then the child's record; a fork of an actor while no child is expected gives
 * none and counts in control.unexpected.
 */
struct ptediff_event {
	ptediff_u64 sequence; /* from 0, without gaps unless events were lost */
	ptediff_u8 cause;
	ptediff_u8 actor;	   /* slot whose page table holds the entry */
	ptediff_u8 page;	   /* index in the arena */
	ptediff_u8 write;	   /* FAULT_FLAG_WRITE; 0 for other causes than a fault */
	ptediff_u8 anon_exclusive; /* PageAnonExclusive of the frame in `after` */
	ptediff_u8 reserved;
	ptediff_u16 mapcount; /* _mapcount + 1 of the frame in `after`, 0 without a frame */
	ptediff_u64 before;
	ptediff_u64 after;
	ptediff_u64 vm_flags; /* of the VMA at the end of the function */
};

_Static_assert(sizeof(struct ptediff_geometry) == 24, "geometry");
_Static_assert(sizeof(struct ptediff_slot) == 16, "slot");
_Static_assert(sizeof(struct ptediff_control) == 144, "control");
_Static_assert(__builtin_offsetof(struct ptediff_control, expected_child) == 64, "expected_child");
_Static_assert(__builtin_offsetof(struct ptediff_control, sequence) == 72, "sequence");
_Static_assert(__builtin_offsetof(struct ptediff_control, pgd_offset) == 128, "pgd_offset");
_Static_assert(sizeof(struct ptediff_actor_snapshot) == 272, "actor snapshot");
_Static_assert(__builtin_offsetof(struct ptediff_actor_snapshot, entries) == 16, "entries");
_Static_assert(sizeof(struct ptediff_snapshot) == 1088, "snapshot");
_Static_assert(sizeof(struct ptediff_event) == 40, "event");
_Static_assert(__builtin_offsetof(struct ptediff_event, cause) == 8, "cause");
_Static_assert(__builtin_offsetof(struct ptediff_event, mapcount) == 14, "mapcount");
_Static_assert(__builtin_offsetof(struct ptediff_event, before) == 16, "before");

#endif
