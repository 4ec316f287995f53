/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Finds the entry that maps any address, at whatever level. (page_walk.h knows the arena alone, and is quicker.)
 */
#ifndef PTEDIFF_ADDRESS_WALK_H
#define PTEDIFF_ADDRESS_WALK_H

#include "page_walk.h"

/* Where a walk ended. */
struct leaf {
	u64 entry; /* the entry that ended it; 0 at level PTE, where it is not read */
	u64 table; /* address of the page table, at level PTE */
	u32 level; /* PTEDIFF_LEVEL_*: of the table that holds the entry */
	u32 is_error;
};

/* log2 of the bytes that an entry of a table of this level maps. */
static __always_inline u32 level_shift(u32 level)
{
	return 3 + 9 * level;
}

/* Follows one table's entry. Returns 0 to go on with the next table. */
static __always_inline int step_down(struct leaf *leaf, u64 address, u32 level)
{
	u64 entry;

	leaf->level = level;
	if (bpf_probe_read_kernel(
		    &entry, sizeof(entry),
		    (void *)(leaf->table + ((address >> level_shift(level)) & 511) * 8))) {
		leaf->is_error = 1;
		return 1;
	}
	leaf->entry = entry;
	/* Nothing, or what is there is not present (a migration entry, PROT_NONE), or a huge page. */
	if (!(entry & ENTRY_PRESENT) || (entry & ENTRY_HUGE && level <= PTEDIFF_LEVEL_PUD))
		return 1;
	leaf->table = geometry.page_offset_base + (entry & ENTRY_FRAME);
	return 0;
}

/* Walks to the page table of an address, or to the entry that ends the walk above it. */
__verified_once u32 find_leaf(u64 mm, u64 address, struct leaf *leaf)
{
	u64 table = 0;

	if (!leaf)
		return 0;
	leaf->entry = 0;
	leaf->is_error = 0;
	leaf->level = PTEDIFF_LEVEL_MM;
	if (bpf_probe_read_kernel(&table, sizeof(table), &((struct mm_struct *)mm)->pgd)) {
		leaf->is_error = 1;
		return 0;
	}
	leaf->table = table;
	if (geometry.five_level && step_down(leaf, address, PTEDIFF_LEVEL_PGD))
		return 0;
	if (step_down(leaf, address, PTEDIFF_LEVEL_P4D) ||
	    step_down(leaf, address, PTEDIFF_LEVEL_PUD) ||
	    step_down(leaf, address, PTEDIFF_LEVEL_PMD))
		return 0;
	leaf->level = PTEDIFF_LEVEL_PTE;
	leaf->entry = 0;
	return 0;
}

#endif
