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

/* A field of a structure of the kernel's. Reads zero where there is none. */
#define READ(pointer, field)                                                                       \
	({                                                                                         \
		typeof((pointer)->field) value = 0;                                                \
		bpf_probe_read_kernel(&value, sizeof(value), &(pointer)->field);                   \
		value;                                                                             \
	})

/* A child of an actor or of the nursery becomes the actor that user space expects. */
static __always_inline int forked(struct task_struct *parent, struct task_struct *child)
{
	struct ptediff_control *state = the_control();
	u64 parent_mm, child_mm;
	u32 expected, slot;

	if (!state)
		return 0;
	expected = state->expected_child;
	if (expected >= PTEDIFF_ACTORS)
		return 0;
	parent_mm = (u64)READ(parent, mm);
	child_mm = (u64)READ(child, mm);
	if ((u32)READ(parent, tgid) != state->nursery_pid && slot_of(parent_mm) == PTEDIFF_NO_SLOT)
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
	state->slots[expected & (PTEDIFF_ACTORS - 1)].pid = READ(child, tgid);
	state->expected_child = PTEDIFF_NO_SLOT;
	return 0;
}

/*
 * What each function's entry and exit do. The entries return whether it is about an actor's arena.
 */

static __always_inline int fault_begins(struct vm_area_struct *vma, u64 address)
{
	struct scratch *scratch;
	u64 mm, entry = 0;
	u32 slot, result;

	address &= ~(PAGE_SIZE - 1);
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
	return 1;
}

static __always_inline int fault_ends(struct vm_area_struct *vma, u64 address, u32 flags,
				      u32 reason)
{
	struct ptediff_control *state;
	struct scratch *scratch;
	u64 mm, opened, after = 0;
	u32 slot, result;

	address &= ~(PAGE_SIZE - 1);
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
	emit(WHAT(PTEDIFF_CAUSE_FAULT, slot, page_index(address), flags & FAULT_FLAG_WRITE),
	     scratch->fault_before, after, READ(vma, vm_flags));
	return 0;
}

/* The slot of the child that is being made, or PTEDIFF_NO_SLOT if none is expected. */
static __always_inline u32 expected_child(struct ptediff_control *state, u32 parent)
{
	u32 child = state->expected_child;

	return child < PTEDIFF_ACTORS && child != parent ? child : PTEDIFF_NO_SLOT;
}

static __always_inline int fork_begins(struct vm_area_struct *child_vma,
				       struct vm_area_struct *parent_vma)
{
	struct ptediff_control *state;
	u32 parent, child;
	u64 mm;

	if (!meets_arena(READ(parent_vma, vm_start), READ(parent_vma, vm_end)))
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
	return 1;
}

static __always_inline int fork_ends(struct vm_area_struct *child_vma,
				     struct vm_area_struct *parent_vma)
{
	struct ptediff_control *state;
	u32 parent, child, index, last;
	u64 mm, start, end, vm_flags, child_flags;

	start = READ(parent_vma, vm_start);
	end = READ(parent_vma, vm_end);
	if (!meets_arena(start, end))
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
	vm_flags = READ(parent_vma, vm_flags);
	child_flags = READ(child_vma, vm_flags);
	last = page_index(end);
#pragma clang loop unroll(disable)
	for (index = page_index(start); index < PTEDIFF_ARENA_PAGES; index++) {
		if (index >= last)
			break;
		emit_page(WHAT(PTEDIFF_CAUSE_FORK_PARENT, parent, index, 0), vm_flags);
		emit_page(WHAT(PTEDIFF_CAUSE_FORK_CHILD, child, index, 0), child_flags);
	}
	return 0;
}

/* Of a function that changes the entries of a range of one VMA. */
static __always_inline int change_begins(struct vm_area_struct *vma, u64 start, u64 end)
{
	u32 slot;
	u64 mm;

	if (!meets_arena(start, end))
		return 0;
	mm = mm_of(vma);
	slot = slot_of(mm);
	if (slot == PTEDIFF_NO_SLOT)
		return 0;
	open_range(slot, mm);
	return 1;
}

static __always_inline int change_ends(struct vm_area_struct *vma, u64 start, u64 end, u64 cause)
{
	u32 slot, index, last;
	u64 mm, vm_flags;

	if (!meets_arena(start, end))
		return 0;
	mm = mm_of(vma);
	slot = slot_of(mm);
	if (slot == PTEDIFF_NO_SLOT || !close_range(slot, mm))
		return 0;
	vm_flags = READ(vma, vm_flags);
	last = page_index(end);
#pragma clang loop unroll(disable)
	for (index = page_index(start); index < PTEDIFF_ARENA_PAGES; index++) {
		if (index >= last)
			break;
		emit_page(WHAT(cause, slot, index, 0), vm_flags);
	}
	return 0;
}

static __always_inline struct vm_area_struct *walked_vma(u64 walk)
{
	return READ((struct mm_walk *)walk, vma);
}

/*
 * By trampolines: the functions are known to the kernel's BTF. Arguments stand in the context, the result after them.
 */

SEC("tp_btf/sched_process_fork")
int fork_done(u64 *context)
{
	return forked((void *)context[0], (void *)context[1]);
}

SEC("fentry/handle_mm_fault")
int fault_enter(u64 *context)
{
	fault_begins((void *)context[0], context[1]);
	return 0;
}

SEC("fexit/handle_mm_fault")
int fault_exit(u64 *context)
{
	return fault_ends((void *)context[0], context[1], context[2], context[4]);
}

SEC("fentry/copy_page_range")
int fork_copy_enter(u64 *context)
{
	fork_begins((void *)context[0], (void *)context[1]);
	return 0;
}

SEC("fexit/copy_page_range")
int fork_copy_exit(u64 *context)
{
	return fork_ends((void *)context[0], (void *)context[1]);
}

SEC("fentry/change_protection")
int protect_enter(u64 *context)
{
	change_begins((void *)context[1], context[2], context[3]);
	return 0;
}

SEC("fexit/change_protection")
int protect_exit(u64 *context)
{
	return change_ends((void *)context[1], context[2], context[3], PTEDIFF_CAUSE_PROTECT);
}

SEC("fentry/clear_refs_pte_range")
int clear_refs_enter(u64 *context)
{
	change_begins(walked_vma(context[3]), context[1], context[2]);
	return 0;
}

SEC("fexit/clear_refs_pte_range")
int clear_refs_exit(u64 *context)
{
	return change_ends(walked_vma(context[3]), context[1], context[2],
			   PTEDIFF_CAUSE_CLEAR_REFS);
}

/*
 * By kprobes: kernels without trampolines, functions that BTF does not know. Arguments stand in registers, and must be
 * remembered until the function returns: by thread, as a fault may sleep (userfaultfd) while another actor runs.
 */

struct call {
	u64 vma;
	u64 other; /* the parent's VMA */
	u64 start;
	u64 end;
	u32 flags;
	u32 open;
};

/* At most one call of each function is open in a thread. */
struct calls {
	struct call by_cause[PTEDIFF_CAUSES];
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 64);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct calls);
} open_calls SEC(".maps");

static __always_inline int remember(u32 cause, const struct call *call)
{
	struct ptediff_control *state = the_control();
	u32 thread = bpf_get_current_pid_tgid();
	struct calls *known = bpf_map_lookup_elem(&open_calls, &thread);
	struct calls none = {};

	if (!known) {
		bpf_map_update_elem(&open_calls, &thread, &none, BPF_ANY);
		known = bpf_map_lookup_elem(&open_calls, &thread);
	}
	if (!state)
		return 0;
	/* No room, or an exit that was not seen. */
	if (!known || known->by_cause[cause].open)
		state->unpaired++;
	if (known)
		known->by_cause[cause] = *call;
	return 0;
}

static __always_inline int recall(u32 cause, struct call *call)
{
	u32 thread = bpf_get_current_pid_tgid(), other;
	struct calls *known = bpf_map_lookup_elem(&open_calls, &thread);

	if (!known || !known->by_cause[cause].open)
		return 0;
	*call = known->by_cause[cause];
	known->by_cause[cause].open = 0;
	for (other = 0; other < PTEDIFF_CAUSES; other++) {
		if (known->by_cause[other].open)
			return 1;
	}
	bpf_map_delete_elem(&open_calls, &thread);
	return 1;
}

SEC("raw_tp/sched_process_fork")
int kprobe_fork_done(u64 *context)
{
	return forked((void *)context[0], (void *)context[1]);
}

SEC("kprobe/handle_mm_fault")
int kprobe_fault_enter(struct pt_regs *registers)
{
	struct call call = {.vma = registers->di, .start = registers->si, .flags = registers->dx};

	call.open = fault_begins((void *)call.vma, call.start);
	return call.open ? remember(PTEDIFF_CAUSE_FAULT, &call) : 0;
}

SEC("kretprobe/handle_mm_fault")
int kprobe_fault_exit(struct pt_regs *registers)
{
	struct call call;

	if (recall(PTEDIFF_CAUSE_FAULT, &call))
		fault_ends((void *)call.vma, call.start, call.flags, registers->ax);
	return 0;
}

SEC("kprobe/copy_page_range")
int kprobe_fork_copy_enter(struct pt_regs *registers)
{
	struct call call = {.vma = registers->di, .other = registers->si};

	call.open = fork_begins((void *)call.vma, (void *)call.other);
	return call.open ? remember(PTEDIFF_CAUSE_FORK_CHILD, &call) : 0;
}

SEC("kretprobe/copy_page_range")
int kprobe_fork_copy_exit(struct pt_regs *registers)
{
	struct call call;

	if (recall(PTEDIFF_CAUSE_FORK_CHILD, &call))
		fork_ends((void *)call.vma, (void *)call.other);
	return 0;
}

SEC("kprobe/change_protection")
int kprobe_protect_enter(struct pt_regs *registers)
{
	struct call call = {.vma = registers->si, .start = registers->dx, .end = registers->cx};

	call.open = change_begins((void *)call.vma, call.start, call.end);
	return call.open ? remember(PTEDIFF_CAUSE_PROTECT, &call) : 0;
}

SEC("kretprobe/change_protection")
int kprobe_protect_exit(struct pt_regs *registers)
{
	struct call call;

	if (recall(PTEDIFF_CAUSE_PROTECT, &call))
		change_ends((void *)call.vma, call.start, call.end, PTEDIFF_CAUSE_PROTECT);
	return 0;
}

SEC("kprobe/clear_refs_pte_range")
int kprobe_clear_refs_enter(struct pt_regs *registers)
{
	struct call call = {.start = registers->si, .end = registers->dx};

	call.vma = (u64)walked_vma(registers->cx);
	call.open = change_begins((void *)call.vma, call.start, call.end);
	return call.open ? remember(PTEDIFF_CAUSE_CLEAR_REFS, &call) : 0;
}

SEC("kretprobe/clear_refs_pte_range")
int kprobe_clear_refs_exit(struct pt_regs *registers)
{
	struct call call;

	if (recall(PTEDIFF_CAUSE_CLEAR_REFS, &call))
		change_ends((void *)call.vma, call.start, call.end, PTEDIFF_CAUSE_CLEAR_REFS);
	return 0;
}
