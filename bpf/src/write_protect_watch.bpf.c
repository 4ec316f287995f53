// SPDX-License-Identifier: GPL-2.0
/*
 * Watches every write-protection of one region on several CPUs, and judges it in the kernel: no event can be
 * lost on the way to user space, for none travels. Counters say how many there were, and the first
 * violations are kept whole.
 *
 * The region is the page table of the arena, 512 pages, of one process and of the child that it forked last.
 * Its system calls come from one thread, so that one copy of the page table at a time suffices; faults may
 * come from any CPU, and are paired by thread.
 */
#include "kernel.h"
#include "page_walk.h"
#include "write_protect_watch.h"

char LICENSE[] SEC("license") = "GPL";

static u64 (*const bpf_get_current_task)(void) = (void *)35;
static long (*const bpf_loop)(u32 times, void *body, void *context, u64 flags) = (void *)181;

#define ENTRY_WRITE	  0x002ULL
#define ENTRY_SAVED_DIRTY (1ULL << 58)
#define REGION_END	  (PTEDIFF_ARENA_BASE + PTEDIFF_REGION_PAGES * PAGE_SIZE)

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct ptediff_watch);
} watch SEC(".maps");

struct table {
	u64 entries[PTEDIFF_REGION_PAGES];
};

/* What the inspect program read. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct table);
} inspected SEC(".maps");

#define TABLE_BEFORE 0
#define TABLE_AFTER  1

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 2);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct table);
} tables SEC(".maps");

/* Whether tables[TABLE_BEFORE] is that of a function now running. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u64);
} range_open SEC(".maps");

struct open_fault {
	u64 address;
	u64 before;
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 64);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct open_fault);
} open_faults SEC(".maps");

static __always_inline struct ptediff_watch *the_watch(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&watch, &zero);
}

static __always_inline void count(u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

static __always_inline int is_dirty(u64 entry)
{
	return (entry & (ENTRY_DIRTY | ENTRY_SAVED_DIRTY)) != 0;
}

static __always_inline u64 protected_in_place(struct ptediff_watch *state)
{
	return state->tallies[PTEDIFF_CAUSE_FAULT].protected +
	       state->tallies[PTEDIFF_CAUSE_FORK_PARENT].protected +
	       state->tallies[PTEDIFF_CAUSE_PROTECT].protected +
	       state->tallies[PTEDIFF_CAUSE_CLEAR_REFS].protected;
}

/* Keeps a violation: what holds kind and cause. */
__verified_once int violate(u64 what, u64 page, u64 before, u64 after, u64 vm_flags)
{
	struct ptediff_watch *state = the_watch();
	struct ptediff_violation *kept;
	u64 number;

	if (!state)
		return 0;
	number = __sync_fetch_and_add(&state->violations, 1);
	if (number >= PTEDIFF_KEPT_VIOLATIONS)
		return 0;
	kept = &state->kept[number & (PTEDIFF_KEPT_VIOLATIONS - 1)];
	kept->kind = what & 0xff;
	kept->cause = what >> 8;
	kept->page = page;
	kept->before = before;
	kept->after = after;
	kept->vm_flags = vm_flags;
	kept->protected_until = protected_in_place(state);
	return 0;
}

/* One entry around a function. */
__verified_once int judge(u64 cause, u64 page, u64 before, u64 after, u64 vm_flags)
{
	struct ptediff_watch *state = the_watch();
	struct ptediff_tally *tally;

	if (!state || cause >= PTEDIFF_CAUSES || !(after & ENTRY_PRESENT))
		return 0;
	tally = &state->tallies[cause];
	if (!(after & ENTRY_WRITE) && after & ENTRY_DIRTY &&
	    !(vm_flags & state->shadow_stack_flag)) {
		count(&tally->created);
		violate(PTEDIFF_VIOLATION_WRITE_0_DIRTY_1 | cause << 8, page, before, after,
			vm_flags);
	}
	if (!(before & ENTRY_PRESENT) || (before ^ after) & ENTRY_FRAME)
		return 0;
	if (before & ENTRY_WRITE && !(after & ENTRY_WRITE))
		count(&tally->protected);
	if (is_dirty(before) && !is_dirty(after)) {
		count(&tally->dirty_lost);
		violate(PTEDIFF_VIOLATION_DIRTY_LOST | cause << 8, page, before, after, vm_flags);
	}
	if (before & ENTRY_WRITE && !is_dirty(before) && is_dirty(after))
		count(&tally->dirty_arrived);
	return 0;
}

/* Copies the region's page table of an address space into one of the tables. Returns whether it could. */
__verified_once int read_table(u64 mm, u32 which)
{
	struct table *into = bpf_map_lookup_elem(&tables, &which);
	struct ptediff_watch *state = the_watch();
	u64 table = 0;
	u32 result;

	if (!into || !state)
		return 0;
	result = find_table(mm, &table);
	if ((result & 0xff) != PTEDIFF_STATUS_OK ||
	    bpf_probe_read_kernel(into, sizeof(*into), (void *)table)) {
		count(&state->read_errors);
		return 0;
	}
	return 1;
}

struct range {
	u64 cause;
	u64 first;
	u64 last;
	u64 vm_flags;
};

/* One page of both tables. Verified once, not 512 times. */
static long judge_page(u32 number, struct range *range)
{
	u32 before_key = TABLE_BEFORE, after_key = TABLE_AFTER;
	struct table *before = bpf_map_lookup_elem(&tables, &before_key);
	struct table *after = bpf_map_lookup_elem(&tables, &after_key);
	u64 index = range->first + number;

	if (!before || !after || index >= PTEDIFF_REGION_PAGES || index >= range->last)
		return 1;
	judge(range->cause, index, before->entries[index], after->entries[index], range->vm_flags);
	return 0;
}

/* The pages first to last - 1 of both tables. */
static __always_inline void judge_range(u64 cause, u64 first, u64 last, u64 vm_flags)
{
	struct range range = {.cause = cause, .first = first, .last = last, .vm_flags = vm_flags};

	bpf_loop(PTEDIFF_REGION_PAGES, judge_page, &range, 0);
}

static __always_inline int meets_region(u64 start, u64 end)
{
	return start < REGION_END && end > PTEDIFF_ARENA_BASE;
}

static __always_inline u32 region_index(u64 address)
{
	if (address <= PTEDIFF_ARENA_BASE)
		return 0;
	if (address >= REGION_END)
		return PTEDIFF_REGION_PAGES;
	return (address - PTEDIFF_ARENA_BASE) >> 12;
}

static __always_inline u64 mm_of(struct vm_area_struct *vma)
{
	u64 mm = 0;

	bpf_probe_read_kernel(&mm, sizeof(mm), &vma->vm_mm);
	return mm;
}

static __always_inline u64 *the_range(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&range_open, &zero);
}

/* The entry of a function that changes a range. */
static __always_inline void range_enter(struct vm_area_struct *vma, u64 start, u64 end)
{
	struct ptediff_watch *state = the_watch();
	u64 *open = the_range(), mm;

	if (!state || !open || !meets_region(start, end))
		return;
	mm = mm_of(vma);
	if (mm != state->mm)
		return;
	*open = read_table(mm, TABLE_BEFORE);
	count(&state->begun);
}

/* Its exit. Returns whether both tables are there. */
static __always_inline int range_exit(struct vm_area_struct *vma, u64 start, u64 end, u64 cause)
{
	struct ptediff_watch *state = the_watch();
	u64 *open = the_range(), mm;
	int was_open;

	if (!state || !open || !meets_region(start, end) || cause >= PTEDIFF_CAUSES)
		return 0;
	mm = mm_of(vma);
	if (mm != state->mm)
		return 0;
	was_open = *open;
	*open = 0;
	if (!was_open) {
		count(&state->unpaired);
		return 0;
	}
	count(&state->tallies[cause].calls);
	if (!read_table(mm, TABLE_AFTER))
		return 0;
	judge_range(cause, region_index(start), region_index(end), vma->vm_flags);
	return 1;
}

SEC("fentry/change_protection")
int watch_protect_enter(u64 *context)
{
	range_enter((void *)context[1], context[2], context[3]);
	return 0;
}

SEC("fexit/change_protection")
int watch_protect_exit(u64 *context)
{
	range_exit((void *)context[1], context[2], context[3], PTEDIFF_CAUSE_PROTECT);
	return 0;
}

SEC("fentry/clear_refs_pte_range")
int watch_clear_enter(u64 *context)
{
	struct mm_walk *walk = (void *)context[3];

	range_enter(walk->vma, context[1], context[2]);
	return 0;
}

SEC("fexit/clear_refs_pte_range")
int watch_clear_exit(u64 *context)
{
	struct mm_walk *walk = (void *)context[3];

	range_exit(walk->vma, context[1], context[2], PTEDIFF_CAUSE_CLEAR_REFS);
	return 0;
}

SEC("fentry/copy_page_range")
int watch_fork_enter(u64 *context)
{
	struct vm_area_struct *parent = (void *)context[1];

	range_enter(parent, parent->vm_start, parent->vm_end);
	return 0;
}

SEC("fexit/copy_page_range")
int watch_fork_exit(u64 *context)
{
	struct vm_area_struct *child = (void *)context[0], *parent = (void *)context[1];
	struct ptediff_watch *state = the_watch();

	if (!range_exit(parent, parent->vm_start, parent->vm_end, PTEDIFF_CAUSE_FORK_PARENT) ||
	    !state)
		return 0;
	/* The child's entries against the parent's before: what was dirty must be dirty in both. */
	state->child_mm = mm_of(child);
	count(&state->tallies[PTEDIFF_CAUSE_FORK_CHILD].calls);
	if (read_table(state->child_mm, TABLE_AFTER))
		judge_range(PTEDIFF_CAUSE_FORK_CHILD, region_index(child->vm_start),
			    region_index(child->vm_end), child->vm_flags);
	return 0;
}

SEC("fentry/handle_mm_fault")
int watch_fault_enter(u64 *context)
{
	struct vm_area_struct *vma = (void *)context[0];
	u64 address = context[1] & ~(PAGE_SIZE - 1);
	struct ptediff_watch *state = the_watch();
	struct open_fault fault = {};
	u32 thread;
	u64 mm;

	if (!state || address < PTEDIFF_ARENA_BASE || address >= REGION_END)
		return 0;
	mm = mm_of(vma);
	if (mm != state->mm && mm != state->child_mm)
		return 0;
	fault.address = address;
	if (!is_readable(read_entry(mm, address, &fault.before)))
		count(&state->read_errors);
	thread = bpf_get_current_pid_tgid();
	bpf_map_update_elem(&open_faults, &thread, &fault, BPF_ANY);
	return 0;
}

SEC("fexit/handle_mm_fault")
int watch_fault_exit(u64 *context)
{
	struct vm_area_struct *vma = (void *)context[0];
	u64 address = context[1] & ~(PAGE_SIZE - 1), before, after = 0, vm_flags, mm;
	u32 reason = context[4], thread;
	struct ptediff_watch *state = the_watch();
	struct open_fault *fault;

	if (!state || address < PTEDIFF_ARENA_BASE || address >= REGION_END)
		return 0;
	thread = bpf_get_current_pid_tgid();
	fault = bpf_map_lookup_elem(&open_faults, &thread);
	if (!fault || fault->address != address) {
		/* The VMA may be gone after a retry: whose fault it was cannot be asked. */
		if (!(reason & VM_FAULT_RETRY)) {
			mm = mm_of(vma);
			if (mm == state->mm || mm == state->child_mm)
				count(&state->unpaired);
		}
		return 0;
	}
	before = fault->before;
	bpf_map_delete_elem(&open_faults, &thread);
	if (reason & VM_FAULT_RETRY)
		return 0;
	mm = mm_of(vma);
	vm_flags = vma->vm_flags;
	count(&state->tallies[PTEDIFF_CAUSE_FAULT].calls);
	if (!is_readable(read_entry(mm, address, &after))) {
		count(&state->read_errors);
		return 0;
	}
	judge(PTEDIFF_CAUSE_FAULT, region_index(address), before, after, vm_flags);
	return 0;
}

/* Driven by BPF_PROG_TEST_RUN: whose process calls is watched from now on, and its region is read. */
SEC("raw_tp/sys_enter")
int watch_inspect(void *context)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct ptediff_watch *state = the_watch();
	struct table *into;
	u64 mm = 0, table = 0;
	u32 zero = 0, result;

	into = bpf_map_lookup_elem(&inspected, &zero);
	if (!state || !into || bpf_probe_read_kernel(&mm, sizeof(mm), &task->mm) || !mm)
		return 1;
	state->mm = mm;
	result = find_table(mm, &table);
	if ((result & 0xff) != PTEDIFF_STATUS_OK)
		return 2;
	if (bpf_probe_read_kernel(into, sizeof(*into), (void *)table))
		return 3;
	return 0;
}
