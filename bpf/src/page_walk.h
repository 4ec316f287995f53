/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Reading page tables and struct pages by their addresses.
 */
#ifndef PTEDIFF_PAGE_WALK_H
#define PTEDIFF_PAGE_WALK_H

#include "kernel.h"

const volatile struct ptediff_geometry geometry = {};

/* The entries of an arena. */
struct arena {
	u64 entries[PTEDIFF_ARENA_PAGES];
};

/* pte_none() */
static __always_inline int entry_is_none(u64 entry)
{
	return !(entry & ~(ENTRY_ACCESSED | ENTRY_DIRTY));
}

static __always_inline u32 outcome(u32 status, u32 level)
{
	return status | level << 8;
}

/*
 * Reads the entry of one table that covers the arena and follows it to the next table. Returns an outcome;
 * *table is changed only when it is OK.
 */
static __always_inline u32 descend(u64 *table, u32 shift, u32 level)
{
	u64 entry;

	if (bpf_probe_read_kernel(&entry, sizeof(entry),
				  (void *)(*table + ((PTEDIFF_ARENA_BASE >> shift) & 511) * 8)))
		return outcome(PTEDIFF_STATUS_READ_ERROR, level);
	if (!entry)
		return outcome(PTEDIFF_STATUS_NO_TABLE, level);
	if (!(entry & ENTRY_PRESENT) || (entry & ENTRY_HUGE && level <= PTEDIFF_LEVEL_PUD))
		return outcome(PTEDIFF_STATUS_HUGE, level);
	*table = geometry.page_offset_base + (entry & ENTRY_FRAME);
	return outcome(PTEDIFF_STATUS_OK, level);
}

/* Finds the page table of the arena. Returns an outcome, *table is its virtual address when it is OK. */
static __always_inline u32 find_table(u64 mm, u64 *table)
{
	u32 result;

	if (bpf_probe_read_kernel(table, sizeof(*table), &((struct mm_struct *)mm)->pgd))
		return outcome(PTEDIFF_STATUS_READ_ERROR, PTEDIFF_LEVEL_MM);
	if (geometry.five_level) {
		result = descend(table, 48, PTEDIFF_LEVEL_PGD);
		if ((result & 0xff) != PTEDIFF_STATUS_OK)
			return result;
	}
	result = descend(table, 39, PTEDIFF_LEVEL_P4D);
	if ((result & 0xff) != PTEDIFF_STATUS_OK)
		return result;
	result = descend(table, 30, PTEDIFF_LEVEL_PUD);
	if ((result & 0xff) != PTEDIFF_STATUS_OK)
		return result;
	return descend(table, 21, PTEDIFF_LEVEL_PMD);
}

/* Copies the 32 entries of the arena, all none where there is no page table. Returns an outcome. */
__verified_once u32 read_arena(u64 mm, struct arena *arena)
{
	u64 table = 0;
	u32 result;

	if (!arena)
		return outcome(PTEDIFF_STATUS_READ_ERROR, PTEDIFF_LEVEL_MM);
	result = find_table(mm, &table);
	if ((result & 0xff) == PTEDIFF_STATUS_NO_TABLE) {
		__builtin_memset(arena, 0, sizeof(*arena));
		return result;
	}
	if ((result & 0xff) != PTEDIFF_STATUS_OK)
		return result;
	table += ((PTEDIFF_ARENA_BASE >> 12) & 511) * 8;
	if (bpf_probe_read_kernel(arena, sizeof(*arena), (void *)table))
		return outcome(PTEDIFF_STATUS_READ_ERROR, PTEDIFF_LEVEL_PTE);
	return outcome(PTEDIFF_STATUS_OK, PTEDIFF_LEVEL_PTE);
}

static __always_inline int is_readable(u32 result)
{
	u32 status = result & 0xff;

	return status == PTEDIFF_STATUS_OK || status == PTEDIFF_STATUS_NO_TABLE;
}

/* Reads the entry of one page of the arena, none where there is no page table. Returns an outcome. */
__verified_once u32 read_entry(u64 mm, u64 address, u64 *entry)
{
	u64 table = 0;
	u32 result;

	if (!entry)
		return outcome(PTEDIFF_STATUS_READ_ERROR, PTEDIFF_LEVEL_MM);
	*entry = 0;
	result = find_table(mm, &table);
	if ((result & 0xff) != PTEDIFF_STATUS_OK)
		return result;
	if (bpf_probe_read_kernel(entry, sizeof(*entry),
				  (void *)(table + ((address >> 12) & 511) * 8)))
		return outcome(PTEDIFF_STATUS_READ_ERROR, PTEDIFF_LEVEL_PTE);
	return outcome(PTEDIFF_STATUS_OK, PTEDIFF_LEVEL_PTE);
}

#define STRUCT_PAGE_READ 64

/* Number of the flag PG_anon_exclusive. */
static __always_inline u32 anon_exclusive_flag(void)
{
	return __builtin_preserve_enum_value(*(enum pageflags *)PG_anon_exclusive, CORE_ENUM_VALUE);
}

static __always_inline u32 size_of_struct_page(void)
{
	return __builtin_preserve_type_info(*(struct page *)0, CORE_TYPE_SIZE);
}

/*
 * What the frame's struct page says: mapcount in bits 0..15, PageAnonExclusive in bit 16; 0 without a
 * frame. A PROT_NONE entry keeps its frame inverted. _mapcount of a page that is of a type (and not
 * mapped) is a large negative number: that counts as 0, as in page_mapcount_is_type().
 */
__verified_once u64 describe_frame(u64 entry)
{
	u8 bytes[STRUCT_PAGE_READ] __attribute__((aligned(8)));
	struct page___wrapped *wrapped = (void *)0;
	struct page *plain = (void *)0;
	u64 flags, mapping, frame, answer;
	long mapcount;

	if (entry & ENTRY_PRESENT)
		frame = (entry & ENTRY_FRAME) >> 12;
	else if (entry & ENTRY_PROTNONE)
		frame = (~entry & ENTRY_FRAME) >> 12;
	else
		return 0;
	if (bpf_probe_read_kernel(bytes, sizeof(bytes),
				  (void *)(geometry.vmemmap_base + frame * size_of_struct_page())))
		return 0;

	/* A loader makes the branch for the other kind of kernel unexecutable: keep them apart. */
	if (__builtin_preserve_field_info(wrapped->flags.f, CORE_FIELD_EXISTS)) {
		flags = *(u64 *)(bytes + __builtin_preserve_field_info(wrapped->flags.f,
								       CORE_FIELD_OFFSET));
		barrier();
	} else {
		flags = *(u64 *)(bytes +
				 __builtin_preserve_field_info(plain->flags, CORE_FIELD_OFFSET));
		barrier();
	}
	mapping =
		*(u64 *)(bytes + __builtin_preserve_field_info(plain->mapping, CORE_FIELD_OFFSET));
	mapcount = *(int *)(bytes + __builtin_preserve_field_info(plain->_mapcount.counter,
								  CORE_FIELD_OFFSET));

	mapcount += 1;
	if (mapcount < 0)
		mapcount = 0;
	if (mapcount > 0xffff)
		mapcount = 0xffff;
	answer = mapcount;
	if (mapping & PAGE_MAPPING_ANON && flags >> anon_exclusive_flag() & 1)
		answer |= 1 << 16;
	return answer;
}

#endif
