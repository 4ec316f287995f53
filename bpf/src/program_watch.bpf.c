// SPDX-License-Identifier: GPL-2.0
/*
 * Watches processes that ptediff did not write, and their children: at each fault, fork and write-protection
 * the entries are read and judged by invariants, in the kernel. No event travels to user space, so none can be
 * lost on the way; what could not be read or paired is counted. A violation is reported with its entry, its
 * stack and the last transitions of its page.
 *
 * Several CPUs, any number of threads: what a function was called with is kept by thread,
 * counters are added to atomically, and what is read lies on the program's own stack.
 */
#include "kernel.h"
#include "program_watch.h"

char LICENSE[] SEC("license") = "GPL";

static long (*const bpf_get_current_comm)(void *into, u32 size) = (void *)16;
static long (*const bpf_get_task_stack)(void *task, void *into, u32 size, u64 flags) = (void *)141;
static long (*const bpf_get_func_arg)(void *context, u32 number, u64 *value) = (void *)183;
static void *(*const bpf_get_current_task_btf)(void) = (void *)158;
static long (*const bpf_seq_write)(void *into, const void *from, u32 size) = (void *)127;
static long (*const bpf_loop)(u32 times, void *body, void *context, u64 flags) = (void *)181;

#include "address_walk.h"

/* include/linux/mm.h, the same in 6.1, 6.12 and 7.2; VM_SHADOW_STACK comes from user space. */
#define VM_WRITE      0x2ULL
#define VM_EXEC	      0x4ULL
#define VM_SHARED     0x8ULL
#define VM_PFNMAP     0x400ULL
#define VM_UFFD_WP    0x1000ULL
#define VM_HUGETLB    0x400000ULL
#define VM_MIXEDMAP   0x10000000ULL
#define VM_PKEY_SHIFT 32

#define VM_FAULT_COMPLETED 0x4000

#define ENTRY_WRITE	  0x002ULL
#define ENTRY_USER	  0x004ULL
#define ENTRY_SPECIAL	  0x200ULL
#define ENTRY_UFFD_WP	  0x400ULL
#define ENTRY_SAVED_DIRTY (1ULL << 58)
#define ENTRY_NX	  (1ULL << 63)
#define KEY_SHIFT	  59
#define KEY_MASK	  0xfULL

/* Of an entry that is not present. */
#define SWAP_SOFT_DIRTY 0x2ULL
#define SWAP_UFFD_WP	0x4ULL
#define SWAP_EXCLUSIVE	0x8ULL
#define SWAP_ZERO_BITS	0x1f1ULL /* 0, 4 to 8 */
#define SWAP_TYPE_SHIFT 59
/* Lowest number of a type that is no swap file's; see entry.rs of the model. */
#define SWAP_FIRST_SPECIAL 24

/* What judge_entry() answers: invariants that say something, those broken, what is known of the frame. */
#define MET_MASK	0xffffULL
#define BROKEN_SHIFT	16
#define EXCLUSIVE_SHIFT 32
#define NOT_ASKED	2ULL

/* Pages of a range that are read at once; ranges are judged up to so many reads. */
#define CHUNK	    16
#define MOST_CHUNKS (1 << 18)

#define MET(number) (1ULL << PTEDIFF_INVARIANT_##number)

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct ptediff_program_watch);
} program_watch SEC(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_RINGBUF);
	MAP_UINT(max_entries, 1 << 20);
} reports SEC(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, PTEDIFF_HISTORY);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct ptediff_watch_transition);
} history SEC(".maps");

/* Entries that were judged: by cause, and by the invariants that say something of them. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, PTEDIFF_JUDGED);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u64);
} judged SEC(".maps");

/* Watched processes, by thread group. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 32768);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} watched SEC(".maps");

/* What a function was called with, until it returns. */
struct call {
	u64 vma;   /* 0: it is not running */
	u64 other; /* the parent's VMA, where vma is the child's */
	u64 start;
	u64 end;
};

/* By cause. */
struct calls {
	struct call by_cause[PTEDIFF_WATCH_CAUSES];
};

/* By thread, for as long as it lives. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 32768);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct calls);
} open_calls SEC(".maps");

static __always_inline struct ptediff_program_watch *the_watch(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&program_watch, &zero);
}

static __always_inline void add(u64 *counter, u64 number)
{
	__sync_fetch_and_add(counter, number);
}

static __always_inline int is_watched(void)
{
	u32 process = bpf_get_current_pid_tgid() >> 32;

	return bpf_map_lookup_elem(&watched, &process) != 0;
}

/* Remembers a transition: of one page, or of a whole range. Returns how many there were before. */
static __always_inline void remember(struct ptediff_program_watch *state, u64 mm, u64 start,
				     u64 end, u64 after, u32 cause)
{
	u64 number = __sync_fetch_and_add(&state->transitions, 1);
	u32 place = number & (PTEDIFF_HISTORY - 1);
	struct ptediff_watch_transition *known = bpf_map_lookup_elem(&history, &place);

	if (!known)
		return;
	known->number = number + 1;
	known->mm = mm;
	known->start = start;
	known->end = end;
	known->after = after;
	known->cause = cause;
	known->thread = bpf_get_current_pid_tgid();
}

struct told {
	u64 mm;
	u64 address;
	u64 newest;
	u32 found;
	u32 places[PTEDIFF_TOLD];
};

/* Looks at one remembered transition, from the newest on. */
static long look_back(u32 number, struct told *told)
{
	u32 place = (told->newest - number) & (PTEDIFF_HISTORY - 1);
	struct ptediff_watch_transition *known = bpf_map_lookup_elem(&history, &place);

	if (!known || told->found >= PTEDIFF_TOLD || !known->number)
		return 1;
	if (known->mm == told->mm && known->start <= told->address && known->end > told->address) {
		told->places[told->found & (PTEDIFF_TOLD - 1)] = place;
		told->found++;
	}
	return 0;
}

/* An entry, and whose it is. */
struct subject {
	u64 mm;
	u64 address;
	u64 after;
	u64 vm_flags;
	u64 vm_start;
	u64 vm_end;
	u64 verdict; /* of judge_entry() */
	u32 cause;
	u32 level;
};

/* Counts what an entry breaks, and tells of it. */
__verified_once int report(struct subject *subject)
{
	struct ptediff_program_watch *state = the_watch();
	struct ptediff_watch_report *told;
	struct told known = {};
	u32 index;
	u64 number;

	if (!state || !subject)
		return 0;
	number = subject->verdict >> BROKEN_SHIFT & MET_MASK;
#pragma clang loop unroll(disable)
	for (index = 0; index < PTEDIFF_INVARIANTS; index++) {
		if (number >> index & 1)
			add(&state->counters.violations[index], 1);
	}
	number = __sync_fetch_and_add(&state->reports, 1);
	told = number < PTEDIFF_MOST_REPORTS ? bpf_ringbuf_reserve(&reports, sizeof(*told), 0) : 0;
	if (!told) {
		add(&state->counters.unreported, 1);
		return 0;
	}
	told->number = number;
	told->broken = subject->verdict >> BROKEN_SHIFT & MET_MASK;
	told->mm = subject->mm;
	told->address = subject->address;
	told->after = subject->after;
	told->vm_flags = subject->vm_flags;
	told->vm_start = subject->vm_start;
	told->vm_end = subject->vm_end;
	told->event = state->transitions;
	told->cause = subject->cause;
	told->level = subject->level;
	told->process = bpf_get_current_pid_tgid() >> 32;
	told->thread = bpf_get_current_pid_tgid();
	told->exclusive = subject->verdict >> EXCLUSIVE_SHIFT;
	bpf_get_current_comm(told->task, sizeof(told->task));
	number =
		bpf_get_task_stack(bpf_get_current_task_btf(), told->stack, sizeof(told->stack), 0);
	told->stack_bytes = (long)number > 0 ? number : 0;
	__builtin_memset(told->told, 0, sizeof(told->told));

	known.mm = subject->mm;
	known.address = subject->address;
	known.newest = told->event - 1;
	bpf_loop(PTEDIFF_HISTORY, look_back, &known, 0);
#pragma clang loop unroll(disable)
	for (index = 0; index < PTEDIFF_TOLD; index++) {
		struct ptediff_watch_transition *transition;
		u32 place = known.places[index];

		if (index >= known.found)
			break;
		transition = bpf_map_lookup_elem(&history, &place);
		if (transition)
			told->told[index] = *transition;
	}
	bpf_ringbuf_submit(told, 0);
	return 0;
}

/* Whether a frame's page is PageAnonExclusive. Of a large folio's later pages only the flag is looked at. */
static __always_inline u64 is_exclusive(u64 entry)
{
	u8 bytes[STRUCT_PAGE_READ] __attribute__((aligned(8)));
	u64 frame = (entry & ENTRY_FRAME) >> 12;
	struct page___wrapped *wrapped = (void *)0;
	struct page *plain = (void *)0;
	u64 flags, head;

	if (bpf_probe_read_kernel(bytes, sizeof(bytes),
				  (void *)(geometry.vmemmap_base + frame * size_of_struct_page())))
		return NOT_ASKED;
	if (__builtin_preserve_field_info(wrapped->flags.f, CORE_FIELD_EXISTS)) {
		flags = *(u64 *)(bytes + __builtin_preserve_field_info(wrapped->flags.f,
								       CORE_FIELD_OFFSET));
		barrier();
	} else {
		flags = *(u64 *)(bytes +
				 __builtin_preserve_field_info(plain->flags, CORE_FIELD_OFFSET));
		barrier();
	}
	/* compound_head (compound_info since 7.0): bit 0 is set in all pages of a folio but the first. */
	head = *(u64 *)(bytes + 8);
	if (!(head & 1) &&
	    !(*(u64 *)(bytes + __builtin_preserve_field_info(plain->mapping, CORE_FIELD_OFFSET)) &
	      PAGE_MAPPING_ANON))
		return 0;
	return flags >> anon_exclusive_flag() & 1;
}

/* Judges one entry. Returns what MET_MASK and the shifts say. */
__verified_once u64 judge_entry(u64 entry, u64 cause, u64 vm_flags)
{
	struct ptediff_program_watch *state = the_watch();
	u64 met = 0, broken = 0, exclusive = NOT_ASKED, holds, type, offset;
	int is_child = cause == PTEDIFF_CAUSE_FORK_CHILD;

	if (!state)
		return 0;
	holds = state->settings.invariants;
	if (entry & (ENTRY_PRESENT | ENTRY_PROTNONE)) {
		int is_shadow_stack = (vm_flags & state->settings.shadow_stack_flag) != 0;

		if (entry & ENTRY_WRITE) {
			met |= MET(WRITABLE_BY_VMA);
			if (!(vm_flags & VM_WRITE))
				broken |= MET(WRITABLE_BY_VMA);
			if (!(vm_flags & (VM_SHARED | VM_PFNMAP | VM_MIXEDMAP)) &&
			    !(entry & ENTRY_SPECIAL) && holds & MET(PRIVATE_WRITABLE_EXCLUSIVE)) {
				exclusive = is_exclusive(entry);
				if (exclusive == NOT_ASKED)
					add(&state->counters.read_errors, 1);
				else
					met |= MET(PRIVATE_WRITABLE_EXCLUSIVE);
				if (!exclusive)
					broken |= MET(PRIVATE_WRITABLE_EXCLUSIVE);
			}
		} else if (!is_shadow_stack) {
			met |= MET(CLEAN_UNLESS_WRITABLE);
			if (entry & ENTRY_DIRTY)
				broken |= MET(CLEAN_UNLESS_WRITABLE);
		}
		if (is_shadow_stack) {
			met |= MET(SHADOW_STACK_READ_ONLY);
			if (entry & ENTRY_WRITE)
				broken |= MET(SHADOW_STACK_READ_ONLY);
		}
		/* Hugetlb memory may have both, see the invariant. */
		if (entry & ENTRY_SAVED_DIRTY && !(vm_flags & VM_HUGETLB)) {
			met |= MET(SAVED_DIRTY_READ_ONLY);
			if (entry & ENTRY_WRITE)
				broken |= MET(SAVED_DIRTY_READ_ONLY);
		}
		if (entry & ENTRY_UFFD_WP) {
			if (vm_flags & VM_UFFD_WP) {
				met |= MET(UFFD_WP_READ_ONLY);
				if (entry & ENTRY_WRITE)
					broken |= MET(UFFD_WP_READ_ONLY);
			}
			if (is_child) {
				met |= MET(FORK_CHILD_UFFD_WP);
				if (!(vm_flags & VM_UFFD_WP))
					broken |= MET(FORK_CHILD_UFFD_WP);
			}
		}
		met |= MET(PROTECTION_KEY);
		if ((entry >> KEY_SHIFT & KEY_MASK) != (vm_flags >> VM_PKEY_SHIFT & KEY_MASK))
			broken |= MET(PROTECTION_KEY);
		if (entry & ENTRY_PRESENT) {
			met |= MET(USER) | MET(NOT_GLOBAL);
			if (!(entry & ENTRY_USER))
				broken |= MET(USER);
			if (entry & ENTRY_PROTNONE)
				broken |= MET(NOT_GLOBAL);
			if (!(entry & ENTRY_NX)) {
				met |= MET(EXECUTABLE_BY_VMA);
				if (!(vm_flags & VM_EXEC))
					broken |= MET(EXECUTABLE_BY_VMA);
			}
		} else {
			met |= MET(PROT_NONE_BARE);
			if (entry & (ENTRY_WRITE | ENTRY_USER | ENTRY_NX))
				broken |= MET(PROT_NONE_BARE);
		}
		if (is_child && !(vm_flags & VM_HUGETLB) &&
		    !(entry & ENTRY_WRITE && exclusive == 1)) {
			met |= MET(FORK_CHILD_OLD);
			if (entry & ENTRY_ACCESSED)
				broken |= MET(FORK_CHILD_OLD);
		}
	} else {
		type = entry >> SWAP_TYPE_SHIFT;
		offset = ~entry << 5 >> 14;
		met |= MET(SWAP_ENCODING);
		if (entry & SWAP_ZERO_BITS)
			broken |= MET(SWAP_ENCODING);
		if (type == state->settings.marker_type) {
			met |= MET(MARKER_ENCODING);
			if (!offset || offset & ~state->settings.marker_bits)
				broken |= MET(MARKER_ENCODING);
		} else if (type < SWAP_FIRST_SPECIAL) {
			if (cause == PTEDIFF_CAUSE_FORK_PARENT || is_child) {
				met |= MET(FORK_SWAP_SHARED);
				if (entry & SWAP_EXCLUSIVE)
					broken |= MET(FORK_SWAP_SHARED);
			}
			if (is_child && entry & SWAP_UFFD_WP) {
				met |= MET(FORK_CHILD_UFFD_WP);
				if (!(vm_flags & VM_UFFD_WP))
					broken |= MET(FORK_CHILD_UFFD_WP);
			}
		}
	}
	return (met & holds) | (broken & holds) << BROKEN_SHIFT | exclusive << EXCLUSIVE_SHIFT;
}

/* Counts a judged entry, by its cause and by what is said of it. */
static __always_inline void count_entry(u64 verdict, u32 cause)
{
	u32 place = cause << PTEDIFF_INVARIANTS | (verdict & MET_MASK);
	u64 *counter = bpf_map_lookup_elem(&judged, &place);

	if (counter)
		add(counter, 1);
}

/* What was read, but in a test of the watch. */
static __always_inline u64 as_planted(struct ptediff_program_watch *state, u64 entry, u64 cause)
{
	if (state->settings.plant_causes >> cause & 1)
		return entry ^ state->settings.plant_flip;
	return entry;
}

struct range {
	struct subject subject; /* its address is the next page to be judged */
	u64 end;
	u64 table; /* page table of the next page, if it is known */
};

/* Judges one entry, not of none. Verified once, not for every way through a range. */
__verified_once int judge_in_range(struct range *range, u64 entry)
{
	struct ptediff_program_watch *state = the_watch();
	u64 verdict;

	if (!range || !state || entry_is_none(entry))
		return 0;
	entry = as_planted(state, entry, range->subject.cause);
	verdict = judge_entry(entry, range->subject.cause, range->subject.vm_flags);
	count_entry(verdict, range->subject.cause);
	if (verdict >> BROKEN_SHIFT & MET_MASK) {
		range->subject.after = entry;
		range->subject.verdict = verdict;
		report(&range->subject);
	}
	return 0;
}

/* The next pages of a range: a hole, a huge page, or up to CHUNK entries of one page table. */
static long judge_chunk(u32 number, struct range *range)
{
	struct ptediff_program_watch *state = the_watch();
	u64 address = range->subject.address, entries[CHUNK], first, last;
	struct leaf leaf = {};
	u32 index;

	if (!state || address >= range->end)
		return 1;
	if (!range->table) {
		find_leaf(range->subject.mm, address, &leaf);
		if (leaf.is_error) {
			add(&state->counters.read_errors, 1);
			range->subject.address = range->end;
			return 1;
		}
		if (leaf.level != PTEDIFF_LEVEL_PTE) {
			u64 bytes = 1ULL << (level_shift(leaf.level) & 63);

			range->subject.level = leaf.level;
			judge_in_range(range, leaf.entry);
			range->subject.address = (address | (bytes - 1)) + 1;
			return 0;
		}
		range->table = leaf.table;
		range->subject.level = PTEDIFF_LEVEL_PTE;
	}
	first = address >> 12 & (CHUNK - 1);
	last = first + ((range->end - address + PAGE_SIZE - 1) >> 12);
	if (bpf_probe_read_kernel(
		    entries, sizeof(entries),
		    (void *)(range->table + (address >> 12 & 511 & ~(CHUNK - 1ULL)) * 8))) {
		add(&state->counters.read_errors, 1);
		range->subject.address = range->end;
		return 1;
	}
	address &= ~(CHUNK * PAGE_SIZE - 1);
#pragma clang loop unroll(disable)
	for (index = 0; index < CHUNK; index++) {
		if (index < first || index >= last || !entries[index])
			continue;
		range->subject.address = address + index * PAGE_SIZE;
		judge_in_range(range, entries[index]);
	}
	address += CHUNK * PAGE_SIZE;
	range->subject.address = address;
	if (!(address & ((1ULL << 21) - 1)))
		range->table = 0;
	return 0;
}

#define VMA_READ 64

/* The fields of a VMA, read at once. */
struct vma {
	u64 start;
	u64 end;
	u64 mm;
	u64 flags;
};

__verified_once int read_vma(u64 address, struct vma *vma)
{
	struct ptediff_program_watch *state = the_watch();
	u8 bytes[VMA_READ] __attribute__((aligned(8)));
	struct vm_area_struct *layout = (void *)0;

#define VMA_FIELD(field)                                                                           \
	(*(u64 *)(bytes + __builtin_preserve_field_info(layout->field, CORE_FIELD_OFFSET)))
	if (!state || !vma)
		return 0;
	if (bpf_probe_read_kernel(bytes, sizeof(bytes), (void *)address)) {
		add(&state->counters.read_errors, 1);
		return 0;
	}
	vma->start = VMA_FIELD(vm_start);
	vma->end = VMA_FIELD(vm_end);
	vma->mm = VMA_FIELD(vm_mm);
	vma->flags = VMA_FIELD(vm_flags);
	return 1;
}

/* Judges a range of one VMA, or all of it, whose function has just ended. */
static __always_inline void judge_range(u64 address, u64 start, u64 end, u32 cause)
{
	struct ptediff_program_watch *state = the_watch();
	struct range range = {};
	struct vma vma = {};

	if (!state || cause >= PTEDIFF_WATCH_CAUSES || !read_vma(address, &vma))
		return;
	if (!end) {
		start = vma.start;
		end = vma.end;
	}
	range.subject.mm = vma.mm;
	range.subject.address = start;
	range.subject.vm_flags = vma.flags;
	range.subject.vm_start = vma.start;
	range.subject.vm_end = vma.end;
	range.subject.cause = cause;
	range.end = end;
	add(&state->counters.events[cause], 1);
	remember(state, vma.mm, start, end, 0, cause);
	bpf_loop(MOST_CHUNKS, judge_chunk, &range, 0);
	if (range.subject.address < end)
		add(&state->counters.cut_short, 1);
}

/* handle_mm_fault has ended. */
static __always_inline void fault_done(u64 address_of_vma, u64 address, u32 reason)
{
	struct ptediff_program_watch *state = the_watch();
	struct subject subject = {};
	struct leaf leaf = {};
	struct vma vma = {};

	if (!state)
		return;
	/* Both gave the lock up: the VMA may be gone. */
	if (reason & (VM_FAULT_RETRY | VM_FAULT_COMPLETED)) {
		add(&state->counters.retries, 1);
		return;
	}
	if (!read_vma(address_of_vma, &vma))
		return;
	subject.address = address & ~(PAGE_SIZE - 1);
	find_leaf(vma.mm, subject.address, &leaf);
	subject.after = leaf.entry;
	if (leaf.is_error ||
	    (leaf.level == PTEDIFF_LEVEL_PTE &&
	     bpf_probe_read_kernel(&subject.after, sizeof(subject.after),
				   (void *)(leaf.table + (subject.address >> 12 & 511) * 8)))) {
		add(&state->counters.read_errors, 1);
		return;
	}
	add(&state->counters.events[PTEDIFF_CAUSE_FAULT], 1);
	remember(state, vma.mm, subject.address, subject.address + PAGE_SIZE, subject.after,
		 PTEDIFF_CAUSE_FAULT);
	if (entry_is_none(subject.after))
		return;
	subject.after = as_planted(state, subject.after, PTEDIFF_CAUSE_FAULT);
	subject.verdict = judge_entry(subject.after, PTEDIFF_CAUSE_FAULT, vma.flags);
	count_entry(subject.verdict, PTEDIFF_CAUSE_FAULT);
	if (!(subject.verdict >> BROKEN_SHIFT & MET_MASK))
		return;
	subject.mm = vma.mm;
	subject.level = leaf.level;
	subject.vm_flags = vma.flags;
	subject.vm_start = vma.start;
	subject.vm_end = vma.end;
	subject.cause = PTEDIFF_CAUSE_FAULT;
	report(&subject);
}

/*
 * Whether copy_page_range copies anything of a VMA: the others the child is to fault in by itself
 * (mm/memory.c: vma_needs_copy).
 */
static __always_inline int is_copied(struct ptediff_program_watch *state, u64 parent)
{
	u64 flags = 0, anon_vma = 0;

	bpf_probe_read_kernel(&flags, sizeof(flags), &((struct vm_area_struct *)parent)->vm_flags);
	if (flags & (VM_PFNMAP | VM_MIXEDMAP | VM_HUGETLB | VM_UFFD_WP))
		return 1;
	bpf_probe_read_kernel(&anon_vma, sizeof(anon_vma),
			      &((struct vm_area_struct *)parent)->anon_vma);
	return anon_vma != 0;
}

/* copy_page_range has ended. */
static __always_inline void fork_done(u64 child, u64 parent, int error)
{
	struct ptediff_program_watch *state = the_watch();

	if (!state)
		return;
	if (error) {
		add(&state->counters.failed, 1);
		return;
	}
	if (!is_copied(state, parent)) {
		add(&state->counters.not_copied, 1);
		return;
	}
	judge_range(parent, 0, 0, PTEDIFF_CAUSE_FORK_PARENT);
	judge_range(child, 0, 0, PTEDIFF_CAUSE_FORK_CHILD);
}

/* A child of a watched process is watched. */
SEC("tp_btf/sched_process_fork")
int follow_fork(u64 *context)
{
	struct task_struct *parent = (void *)context[0], *child = (void *)context[1];
	struct ptediff_program_watch *state = the_watch();
	u32 from = parent->tgid, process = child->tgid, one = 1;

	if (!state || from == process || !bpf_map_lookup_elem(&watched, &from))
		return 0;
	if (bpf_map_update_elem(&watched, &process, &one, BPF_ANY))
		add(&state->counters.unfollowed, 1);
	else
		add(&state->counters.processes, 1);
	return 0;
}

/* A thread, or a process that nobody waits for any more: its number may be given away again. */
SEC("tp_btf/sched_process_free")
int forget_process(u64 *context)
{
	struct task_struct *task = (void *)context[0];
	u32 process = task->tgid, thread = task->pid;

	bpf_map_delete_elem(&open_calls, &thread);
	if (thread == process)
		bpf_map_delete_elem(&watched, &process);
	return 0;
}

/* What an iterator's program is called with, as far as it is used (kernel/bpf/bpf_iter.c). */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

#pragma clang attribute pop

/* The watched processes and their page tables, for who reads the iterator. */
SEC("iter/task")
int list_processes(u64 *context)
{
	struct bpf_iter_meta *meta = (void *)context[0];
	struct task_struct *task = (void *)context[1];
	struct ptediff_watched_process told = {};
	struct mm_struct *mm = 0;

	if (!task)
		return 0;
	told.process = task->tgid;
	if ((u32)task->pid != told.process || !bpf_map_lookup_elem(&watched, &told.process))
		return 0;
	bpf_probe_read_kernel(&mm, sizeof(mm), &task->mm);
	if (!mm)
		return 0;
	told.mm = (u64)mm;
	bpf_probe_read_kernel(&told.table, sizeof(told.table), &mm->pgd);
	bpf_seq_write(meta->seq, &told, sizeof(told));
	return 0;
}

/*
 * By trampolines: kernels on which a running program is not preempted. The kernel leaves a program out that
 * runs already on the same CPU.
 */

/* An argument as a number: functions that are verified once take no kernel pointers. */
static __always_inline u64 argument(void *context, u32 number)
{
	u64 value = 0;

	bpf_get_func_arg(context, number, &value);
	return value;
}

SEC("fexit/handle_mm_fault")
int program_fault_exit(u64 *context)
{
	if (is_watched())
		fault_done(argument(context, 0), context[1], context[4]);
	return 0;
}

SEC("fexit/copy_page_range")
int program_fork_exit(u64 *context)
{
	if (is_watched())
		fork_done(argument(context, 0), argument(context, 1), context[2]);
	return 0;
}

SEC("fexit/change_protection")
int program_protect_exit(u64 *context)
{
	if (is_watched())
		judge_range(argument(context, 1), context[2], context[3], PTEDIFF_CAUSE_PROTECT);
	return 0;
}

SEC("fexit/clear_refs_pte_range")
int program_clear_exit(u64 *context)
{
	struct mm_walk *walk = (void *)context[3];
	u64 vma = 0;

	if (is_watched() && !bpf_probe_read_kernel(&vma, sizeof(vma), &walk->vma))
		judge_range(vma, context[1], context[2], PTEDIFF_CAUSE_CLEAR_REFS);
	return 0;
}

/*
 * By the function graph tracer: kernels that preempt what runs in the kernel. These programs run with preemption
 * off, one for entry and return of a function: an entry alone would be traced in another way besides, which costs
 * more (kernel/trace/fprobe.c, 7.2). What a function was called with must be remembered.
 */

/* Whether the function returns. Since 7.0 it is asked with the context. */
extern _Bool bpf_session_is_return(void *context) __attribute__((section(".ksyms"), weak));
extern _Bool bpf_session_is_return___without_context(void) __attribute__((section(".ksyms"), weak));

static __always_inline int is_return(void *context)
{
	if (bpf_session_is_return)
		return bpf_session_is_return(context);
	return bpf_session_is_return___without_context();
}

/* What an entry answers where nobody needs the return. */
#define NO_RETURN 1

/* On its own: struct calls is large for the stack of a program that judges ranges. */
__verified_once int first_call(void)
{
	struct ptediff_program_watch *state = the_watch();
	u32 thread = bpf_get_current_pid_tgid();
	struct calls none = {};

	if (state && bpf_map_update_elem(&open_calls, &thread, &none, BPF_ANY))
		add(&state->counters.no_room, 1);
	return 0;
}

/* Returns whether anybody needs the return. A thread that has called before is watched. */
static __always_inline int call_begins(u32 cause, const struct call *call)
{
	u32 thread = bpf_get_current_pid_tgid();
	struct calls *known = bpf_map_lookup_elem(&open_calls, &thread);

	if (!known) {
		if (!is_watched())
			return NO_RETURN;
		first_call();
		known = bpf_map_lookup_elem(&open_calls, &thread);
	}
	if (known)
		known->by_cause[cause] = *call;
	return 0;
}

/* What the function that returns was called with. Returns 0 if nobody watches the process. */
static __always_inline int call_ends(u32 cause, struct call *call)
{
	struct ptediff_program_watch *state = the_watch();
	u32 thread = bpf_get_current_pid_tgid();
	struct calls *known = bpf_map_lookup_elem(&open_calls, &thread);

	if (!known || !known->by_cause[cause].vma) {
		if (state && is_watched())
			add(&state->counters.unpaired, 1);
		return 0;
	}
	*call = known->by_cause[cause];
	known->by_cause[cause].vma = 0;
	return 1;
}

SEC("kprobe.session/handle_mm_fault")
int session_fault(struct pt_regs *registers)
{
	struct call call = {.vma = registers->di, .start = registers->si};

	if (!is_return(registers))
		return call_begins(PTEDIFF_CAUSE_FAULT, &call);
	if (call_ends(PTEDIFF_CAUSE_FAULT, &call))
		fault_done(call.vma, call.start, registers->ax);
	return 0;
}

SEC("kprobe.session/copy_page_range")
int session_fork(struct pt_regs *registers)
{
	struct call call = {.vma = registers->di, .other = registers->si};

	if (!is_return(registers))
		return call_begins(PTEDIFF_CAUSE_FORK_CHILD, &call);
	if (call_ends(PTEDIFF_CAUSE_FORK_CHILD, &call))
		fork_done(call.vma, call.other, registers->ax);
	return 0;
}

SEC("kprobe.session/change_protection")
int session_protect(struct pt_regs *registers)
{
	struct call call = {.vma = registers->si, .start = registers->dx, .end = registers->cx};

	if (!is_return(registers))
		return call_begins(PTEDIFF_CAUSE_PROTECT, &call);
	if (call_ends(PTEDIFF_CAUSE_PROTECT, &call))
		judge_range(call.vma, call.start, call.end, PTEDIFF_CAUSE_PROTECT);
	return 0;
}

/* A call by a watched process that cannot be judged. */
static __always_inline void unreadable_walk(void)
{
	struct ptediff_program_watch *state = the_watch();

	if (state && is_watched())
		add(&state->counters.read_errors, 1);
}

SEC("kprobe.session/clear_refs_pte_range")
int session_clear(struct pt_regs *registers)
{
	struct call call = {.start = registers->si, .end = registers->dx};
	struct mm_walk *walk = (void *)registers->cx;

	if (!is_return(registers)) {
		if (bpf_probe_read_kernel(&call.vma, sizeof(call.vma), &walk->vma)) {
			unreadable_walk();
			return NO_RETURN;
		}
		return call_begins(PTEDIFF_CAUSE_CLEAR_REFS, &call);
	}
	if (call_ends(PTEDIFF_CAUSE_CLEAR_REFS, &call))
		judge_range(call.vma, call.start, call.end, PTEDIFF_CAUSE_CLEAR_REFS);
	return 0;
}
