// SPDX-License-Identifier: GPL-2.0
/*
 * The probes of ptediff: snapshots of page tables on demand, and events inside a step.
 *
 * The object must load by libbpf and by aya 0.14. So: no kernel symbols (__ksym), no SEC("syscall"), no
 * header of libbpf; the helpers and the few kernel types are declared here, fields relocated by CO-RE.
 * What cannot be had that way (addresses) arrives in the constant `geometry`.
 *
 * The harness runs on one CPU, and an actor has one thread: plain increments suffice, and the state
 * between the entry and the exit of a function is kept by actor.
 */
#include "kernel.h"
#include "page_walk.h"

char LICENSE[] SEC("license") = "GPL";

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct ptediff_control);
} control SEC(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct ptediff_snapshot);
} snapshot SEC(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_RINGBUF);
	MAP_UINT(max_entries, 1 << 20);
} events SEC(".maps");

/* What the entry of a function leaves for its exit. */
struct scratch {
	struct arena before;
	struct arena after;
	u64 fault_address; /* page address, 0 while no fault is open */
	u64 fault_before;
	u32 range_open; /* before[] is that of a function now running */
	u32 reserved;
};

/* One for each actor. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, PTEDIFF_ACTORS);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct scratch);
} scratches SEC(".maps");

static __always_inline struct ptediff_control *the_control(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

/* The slot that holds `mm`, or PTEDIFF_NO_SLOT. */
__verified_once u32 slot_of(u64 mm)
{
	struct ptediff_control *state = the_control();

	if (!state || !mm)
		return PTEDIFF_NO_SLOT;
	if (state->slots[0].mm == mm)
		return 0;
	if (state->slots[1].mm == mm)
		return 1;
	if (state->slots[2].mm == mm)
		return 2;
	if (state->slots[3].mm == mm)
		return 3;
	return PTEDIFF_NO_SLOT;
}

/* The mm_struct of a VMA, as a number: functions that are verified once take no kernel pointers. */
static __always_inline u64 mm_of(struct vm_area_struct *vma)
{
	u64 mm = 0;

	bpf_probe_read_kernel(&mm, sizeof(mm), &vma->vm_mm);
	return mm;
}

static __always_inline u64 fold(u64 digest, u64 word)
{
	return (digest ^ word) * PTEDIFF_DIGEST_PRIME;
}

/* cause, actor, page and write of an event, in the order of its bytes 8 to 11. */
#define WHAT(cause, actor, page, write)                                                            \
	((u64)(cause) | (u64)(actor) << 8 | (u64)(page) << 16 | (u64)(write) << 24)

__verified_once int emit(u64 what, u64 before, u64 after, u64 vm_flags)
{
	struct ptediff_control *state = the_control();
	struct ptediff_event *event;
	u64 frame, digest;

	if (!state)
		return 0;
	frame = describe_frame(after);
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		state->sequence++;
		state->lost++;
		return 0;
	}
	event->sequence = state->sequence++;
	event->cause = what;
	event->actor = what >> 8;
	event->page = what >> 16;
	event->write = what >> 24;
	event->anon_exclusive = frame >> 16;
	event->reserved = 0;
	event->mapcount = frame;
	event->before = before;
	event->after = after;
	event->vm_flags = vm_flags;
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);

	digest = fold(state->digest, what | (frame & 0x10000) << 16 | (frame & 0xffff) << 48);
	digest = fold(digest, before);
	digest = fold(digest, after);
	state->digest = fold(digest, vm_flags);
	return 0;
}

static __always_inline int meets_arena(u64 start, u64 end)
{
	return start < ARENA_END && end > PTEDIFF_ARENA_BASE;
}

/* Reads the arena at the entry of a function that changes a range of it. */
__verified_once int open_range(u32 slot, u64 mm)
{
	struct scratch *scratch = bpf_map_lookup_elem(&scratches, &slot);

	if (scratch)
		scratch->range_open = is_readable(read_arena(mm, &scratch->before));
	return 0;
}

/* Reads the arena at the function's exit. Returns whether it was read at both ends. */
__verified_once int close_range(u32 slot, u64 mm)
{
	struct scratch *scratch = bpf_map_lookup_elem(&scratches, &slot);
	struct ptediff_control *state = the_control();
	u32 was_open;

	if (!scratch || !state)
		return 0;
	was_open = scratch->range_open;
	scratch->range_open = 0;
	if (was_open && is_readable(read_arena(mm, &scratch->after)))
		return 1;
	state->unpaired++;
	return 0;
}

/* The event of a page in a range that was closed: none if the entry is none at both ends. */
__verified_once int emit_page(u64 what, u64 vm_flags)
{
	u32 slot = what >> 8 & 0xff, page = what >> 16 & 0xff;
	struct scratch *scratch = bpf_map_lookup_elem(&scratches, &slot);
	u64 before, after;

	if (!scratch || page >= PTEDIFF_ARENA_PAGES)
		return 0;
	before = scratch->before.entries[page];
	after = scratch->after.entries[page];
	if (!entry_is_none(before) || !entry_is_none(after))
		emit(what, before, after, vm_flags);
	return 0;
}

/* Index of the arena's page at an address, clamped to the arena. */
static __always_inline u32 page_index(u64 address)
{
	if (address <= PTEDIFF_ARENA_BASE)
		return 0;
	if (address >= ARENA_END)
		return PTEDIFF_ARENA_PAGES;
	return (address - PTEDIFF_ARENA_BASE) >> 12;
}

/*
 * Driven by BPF_PROG_TEST_RUN alone, attached nowhere: the section names a tracepoint because both loaders
 * want one.
 */
SEC("raw_tp/sys_enter")
int snapshot_arenas(void *context)
{
	struct ptediff_control *state = the_control();
	struct ptediff_snapshot *all;
	u32 zero = 0, slot, result;

	all = bpf_map_lookup_elem(&snapshot, &zero);
	if (!state || !all)
		return 1;
#pragma clang loop unroll(disable)
	for (slot = 0; slot < PTEDIFF_ACTORS; slot++) {
		u64 mm = state->slots[slot].mm;

		all->actors[slot].mm = mm;
		all->actors[slot].status = PTEDIFF_STATUS_EMPTY;
		if (!mm)
			continue;
		result = read_arena(mm, (struct arena *)all->actors[slot].entries);
		all->actors[slot].status = result & 0xff;
		all->actors[slot].level = result >> 8;
	}
	state->pgd_offset =
		__builtin_preserve_field_info(((struct mm_struct *)0)->pgd, CORE_FIELD_OFFSET);
	state->anon_exclusive = anon_exclusive_flag();
	state->page_size_of = size_of_struct_page();
	state->snapshots++;
	return 0;
}

/* A child of an actor or of the nursery becomes the actor that user space expects. */
SEC("tp_btf/sched_process_fork")
int fork_done(u64 *context)
{
	struct task_struct *parent = (void *)context[0];
	struct task_struct *child = (void *)context[1];
	struct ptediff_control *state = the_control();
	u64 parent_mm = 0, child_mm = 0;
	u32 expected, slot;

	if (!state)
		return 0;
	expected = state->expected_child;
	if (expected >= PTEDIFF_ACTORS)
		return 0;
	bpf_probe_read_kernel(&parent_mm, sizeof(parent_mm), &parent->mm);
	bpf_probe_read_kernel(&child_mm, sizeof(child_mm), &child->mm);
	if ((u32)parent->tgid != state->nursery_pid && slot_of(parent_mm) == PTEDIFF_NO_SLOT)
		return 0;
	/* A thread or a vfork child shares its parent's address space: no actor. */
	if (parent_mm == child_mm)
		return 0;
	/* The kernel reuses the mm_struct of a process that died and was not forgotten. */
	for (slot = 0; slot < PTEDIFF_ACTORS; slot++) {
		if (state->slots[slot].mm == child_mm)
			state->slots[slot].mm = 0;
	}
	state->slots[expected & (PTEDIFF_ACTORS - 1)].mm = child_mm;
	state->slots[expected & (PTEDIFF_ACTORS - 1)].pid = child->tgid;
	state->expected_child = PTEDIFF_NO_SLOT;
	return 0;
}

SEC("fentry/handle_mm_fault")
int fault_enter(u64 *context)
{
	struct vm_area_struct *vma = (void *)context[0];
	u64 address = context[1] & ~(PAGE_SIZE - 1);
	struct scratch *scratch;
	u64 mm, entry = 0;
	u32 slot, result;

	if (!meets_arena(address, address + 1))
		return 0;
	mm = mm_of(vma);
	slot = slot_of(mm);
	scratch = bpf_map_lookup_elem(&scratches, &slot);
	if (!scratch)
		return 0;
	result = read_entry(mm, address, &entry);
	scratch->fault_before = entry;
	scratch->fault_address = is_readable(result) ? address : 0;
	return 0;
}

SEC("fexit/handle_mm_fault")
int fault_exit(u64 *context)
{
	struct vm_area_struct *vma = (void *)context[0];
	u64 address = context[1] & ~(PAGE_SIZE - 1);
	u32 fault_flags = context[2], reason = context[4];
	struct ptediff_control *state;
	struct scratch *scratch;
	u64 mm, opened, after = 0;
	u32 slot, result;

	if (!meets_arena(address, address + 1))
		return 0;
	mm = mm_of(vma);
	slot = slot_of(mm);
	scratch = bpf_map_lookup_elem(&scratches, &slot);
	state = the_control();
	if (!scratch || !state)
		return 0;
	opened = scratch->fault_address;
	scratch->fault_address = 0;
	if (reason & VM_FAULT_RETRY) {
		state->retries++;
		return 0;
	}
	result = read_entry(mm, address, &after);
	if (opened != address || !is_readable(result)) {
		state->unpaired++;
		return 0;
	}
	emit(WHAT(PTEDIFF_CAUSE_FAULT, slot, page_index(address), fault_flags & FAULT_FLAG_WRITE),
	     scratch->fault_before, after, vma->vm_flags);
	return 0;
}

/* The slot of the child that is being made, or PTEDIFF_NO_SLOT if none is expected. */
static __always_inline u32 expected_child(struct ptediff_control *state, u32 parent)
{
	u32 child = state->expected_child;

	return child < PTEDIFF_ACTORS && child != parent ? child : PTEDIFF_NO_SLOT;
}

SEC("fentry/copy_page_range")
int fork_copy_enter(u64 *context)
{
	struct vm_area_struct *child_vma = (void *)context[0];
	struct vm_area_struct *parent_vma = (void *)context[1];
	struct ptediff_control *state;
	u32 parent, child;
	u64 mm;

	if (!meets_arena(parent_vma->vm_start, parent_vma->vm_end))
		return 0;
	mm = mm_of(parent_vma);
	parent = slot_of(mm);
	state = the_control();
	if (parent == PTEDIFF_NO_SLOT || !state)
		return 0;
	open_range(parent, mm);
	child = expected_child(state, parent);
	if (child != PTEDIFF_NO_SLOT)
		open_range(child, mm_of(child_vma));
	return 0;
}

SEC("fexit/copy_page_range")
int fork_copy_exit(u64 *context)
{
	struct vm_area_struct *child_vma = (void *)context[0];
	struct vm_area_struct *parent_vma = (void *)context[1];
	struct ptediff_control *state;
	u32 parent, child, index, end;
	u64 mm, vm_flags, child_flags;

	if (!meets_arena(parent_vma->vm_start, parent_vma->vm_end))
		return 0;
	mm = mm_of(parent_vma);
	parent = slot_of(mm);
	state = the_control();
	if (parent == PTEDIFF_NO_SLOT || !state)
		return 0;
	if (!close_range(parent, mm))
		return 0;
	child = expected_child(state, parent);
	if (child == PTEDIFF_NO_SLOT) {
		state->unexpected++;
		return 0;
	}
	if (!close_range(child, mm_of(child_vma)))
		return 0;
	vm_flags = parent_vma->vm_flags;
	child_flags = child_vma->vm_flags;
	end = page_index(parent_vma->vm_end);
#pragma clang loop unroll(disable)
	for (index = page_index(parent_vma->vm_start); index < PTEDIFF_ARENA_PAGES; index++) {
		if (index >= end)
			break;
		emit_page(WHAT(PTEDIFF_CAUSE_FORK_PARENT, parent, index, 0), vm_flags);
		emit_page(WHAT(PTEDIFF_CAUSE_FORK_CHILD, child, index, 0), child_flags);
	}
	return 0;
}

/* The entry of a function that changes the entries of a range of one VMA. */
static __always_inline void change_enter(struct vm_area_struct *vma, u64 start, u64 end)
{
	u32 slot;
	u64 mm;

	if (!meets_arena(start, end))
		return;
	mm = mm_of(vma);
	slot = slot_of(mm);
	if (slot != PTEDIFF_NO_SLOT)
		open_range(slot, mm);
}

/* The exit of that function. */
static __always_inline void change_exit(struct vm_area_struct *vma, u64 start, u64 end, u64 cause)
{
	u32 slot, index, last;
	u64 mm, vm_flags;

	if (!meets_arena(start, end))
		return;
	mm = mm_of(vma);
	slot = slot_of(mm);
	if (slot == PTEDIFF_NO_SLOT || !close_range(slot, mm))
		return;
	vm_flags = vma->vm_flags;
	last = page_index(end);
#pragma clang loop unroll(disable)
	for (index = page_index(start); index < PTEDIFF_ARENA_PAGES; index++) {
		if (index >= last)
			break;
		emit_page(WHAT(cause, slot, index, 0), vm_flags);
	}
}

SEC("fentry/change_protection")
int protect_enter(u64 *context)
{
	change_enter((void *)context[1], context[2], context[3]);
	return 0;
}

SEC("fexit/change_protection")
int protect_exit(u64 *context)
{
	change_exit((void *)context[1], context[2], context[3], PTEDIFF_CAUSE_PROTECT);
	return 0;
}

SEC("fentry/clear_refs_pte_range")
int clear_refs_enter(u64 *context)
{
	struct mm_walk *walk = (void *)context[3];

	change_enter(walk->vma, context[1], context[2]);
	return 0;
}

SEC("fexit/clear_refs_pte_range")
int clear_refs_exit(u64 *context)
{
	struct mm_walk *walk = (void *)context[3];

	change_exit(walk->vma, context[1], context[2], PTEDIFF_CAUSE_CLEAR_REFS);
	return 0;
}
