// SPDX-License-Identifier: GPL-2.0
/*
 * Watches processes that ptediff did not write, and their children: at each fault, fork and write-protection
 * the entries are read and judged by invariants, in the kernel. No event travels to user space, so none can be
 * lost on the way; what could not be read or paired is counted. A violation is reported with its entry, its
 * stack and the last transitions of its page.
 *
 * Several CPUs, any number of threads: state between the entry and the exit of a function is kept by thread,
 * counters are added to atomically, and what is read lies on the program's own stack.
 */
#include "kernel.h"
#include "program_watch.h"

char LICENSE[] SEC("license") = "GPL";

#define BPF_MAP_TYPE_HASH 1
#define BPF_ANY		  0

static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static long (*const bpf_get_current_comm)(void *into, u32 size) = (void *)16;
static long (*const bpf_get_task_stack)(void *task, void *into, u32 size, u64 flags) = (void *)141;
static void *(*const bpf_get_current_task_btf)(void) = (void *)158;
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
/* Entries that a lane of eight bits can count. */
#define FULL_LANES 224

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

/* Watched processes, by thread group. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 32768);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} watched SEC(".maps");

struct open_fault {
	u64 address;
	u64 before;
};

/* Faults that run, by thread. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 8192);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct open_fault);
} open_faults SEC(".maps");

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
static __always_inline void remember(struct ptediff_program_watch *state, u64 mm, u64 start, u64 end,
				     u64 before, u64 after, u32 cause)
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
	known->before = before;
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
	u64 before;
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
	told->before = subject->before;
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
	number = bpf_get_task_stack(bpf_get_current_task_btf(), told->stack, sizeof(told->stack), 0);
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
		/* Private hugetlb memory has both, see the invariant. */
		if (entry & ENTRY_SAVED_DIRTY && (vm_flags & (VM_HUGETLB | VM_SHARED)) != VM_HUGETLB) {
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
		if (is_child && !(vm_flags & VM_HUGETLB) && !(entry & ENTRY_WRITE && exclusive == 1)) {
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

/* Eight bits as eight lanes of eight bits, each 0 or 1. */
static __always_inline u64 spread(u64 bits)
{
	bits = (bits & 0xff) * 0x0101010101010101ULL & 0x8040201008040201ULL;
	return (bits + 0x00406070787c7e7fULL) >> 7 & 0x0101010101010101ULL;
}

/* Adds lanes to the counters of premises. */
__verified_once int count_premises(u64 low, u64 high, u64 entries, u64 cause)
{
	struct ptediff_program_watch *state = the_watch();
	u32 lane;

	if (!state || cause >= PTEDIFF_WATCH_CAUSES)
		return 0;
	add(&state->counters.entries[cause], entries);
#pragma clang loop unroll(disable)
	for (lane = 0; lane < 8; lane++) {
		u64 first = low >> 8 * lane & 0xff, second = high >> 8 * lane & 0xff;

		if (first)
			add(&state->counters.premises[lane], first);
		if (second)
			add(&state->counters.premises[lane + 8], second);
	}
	return 0;
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
	u64 low;   /* lanes of premises */
	u64 high;
	u64 entries; /* in the lanes */
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
	range->low += spread(verdict);
	range->high += spread(verdict >> 8);
	range->entries++;
	if (verdict >> BROKEN_SHIFT & MET_MASK) {
		range->subject.after = entry;
		range->subject.verdict = verdict;
		report(&range->subject);
	}
	return 0;
}

static __always_inline void flush(struct range *range)
{
	count_premises(range->low, range->high, range->entries, range->subject.cause);
	range->low = 0;
	range->high = 0;
	range->entries = 0;
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
	if (range->entries >= FULL_LANES)
		flush(range);
	return 0;
}

/* The mm_struct of a VMA, as a number. */
static __always_inline u64 mm_of(struct vm_area_struct *vma)
{
	u64 mm = 0;

	bpf_probe_read_kernel(&mm, sizeof(mm), &vma->vm_mm);
	return mm;
}

/* Judges a range of one VMA, whose function has just ended. */
static __always_inline void judge_range(struct vm_area_struct *vma, u64 start, u64 end, u32 cause)
{
	struct ptediff_program_watch *state = the_watch();
	struct range range = {};

	if (!state || cause >= PTEDIFF_WATCH_CAUSES)
		return;
	range.subject.mm = mm_of(vma);
	range.subject.address = start;
	range.subject.vm_flags = vma->vm_flags;
	range.subject.vm_start = vma->vm_start;
	range.subject.vm_end = vma->vm_end;
	range.subject.cause = cause;
	range.end = end;
	add(&state->counters.events[cause], 1);
	remember(state, range.subject.mm, start, end, 0, 0, cause);
	bpf_loop(MOST_CHUNKS, judge_chunk, &range, 0);
	flush(&range);
	if (range.subject.address < end)
		add(&state->counters.cut_short, 1);
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

/* A process that nobody waits for any more: its number may be given away again. */
SEC("tp_btf/sched_process_free")
int forget_process(u64 *context)
{
	struct task_struct *task = (void *)context[0];
	u32 process = task->tgid;

	if ((u32)task->pid == process)
		bpf_map_delete_elem(&watched, &process);
	return 0;
}

SEC("fentry/handle_mm_fault")
int program_fault_enter(u64 *context)
{
	struct vm_area_struct *vma = (void *)context[0];
	struct ptediff_program_watch *state = the_watch();
	u32 thread = bpf_get_current_pid_tgid();
	struct open_fault fault = {};
	struct leaf leaf = {};

	if (!state || !is_watched())
		return 0;
	fault.address = context[1] & ~(PAGE_SIZE - 1);
	find_leaf(mm_of(vma), fault.address, &leaf);
	fault.before = leaf.entry;
	if (!leaf.is_error && leaf.level == PTEDIFF_LEVEL_PTE)
		bpf_probe_read_kernel(&fault.before, sizeof(fault.before),
				      (void *)(leaf.table + (fault.address >> 12 & 511) * 8));
	if (bpf_map_update_elem(&open_faults, &thread, &fault, BPF_ANY))
		add(&state->counters.no_room, 1);
	return 0;
}

SEC("fexit/handle_mm_fault")
int program_fault_exit(u64 *context)
{
	struct vm_area_struct *vma = (void *)context[0];
	u32 reason = context[4], thread = bpf_get_current_pid_tgid();
	struct ptediff_program_watch *state = the_watch();
	struct subject subject = {};
	struct open_fault *fault;
	struct leaf leaf = {};

	fault = bpf_map_lookup_elem(&open_faults, &thread);
	if (!state)
		return 0;
	subject.address = context[1] & ~(PAGE_SIZE - 1);
	if (!fault) {
		if (is_watched())
			add(&state->counters.unpaired, 1);
		return 0;
	}
	subject.before = fault->before;
	if (fault->address != subject.address)
		add(&state->counters.unpaired, 1);
	bpf_map_delete_elem(&open_faults, &thread);
	/* Both gave the lock up: the VMA may be gone. */
	if (reason & (VM_FAULT_RETRY | VM_FAULT_COMPLETED)) {
		add(&state->counters.retries, 1);
		return 0;
	}
	subject.mm = mm_of(vma);
	find_leaf(subject.mm, subject.address, &leaf);
	subject.after = leaf.entry;
	subject.level = leaf.level;
	if (leaf.is_error || (leaf.level == PTEDIFF_LEVEL_PTE &&
			      bpf_probe_read_kernel(&subject.after, sizeof(subject.after),
						    (void *)(leaf.table +
							     (subject.address >> 12 & 511) * 8)))) {
		add(&state->counters.read_errors, 1);
		return 0;
	}
	add(&state->counters.events[PTEDIFF_CAUSE_FAULT], 1);
	remember(state, subject.mm, subject.address, subject.address + PAGE_SIZE, subject.before,
		 subject.after, PTEDIFF_CAUSE_FAULT);
	if (entry_is_none(subject.after))
		return 0;
	subject.after = as_planted(state, subject.after, PTEDIFF_CAUSE_FAULT);
	subject.vm_flags = vma->vm_flags;
	subject.vm_start = vma->vm_start;
	subject.vm_end = vma->vm_end;
	subject.cause = PTEDIFF_CAUSE_FAULT;
	subject.verdict = judge_entry(subject.after, PTEDIFF_CAUSE_FAULT, subject.vm_flags);
	count_premises(spread(subject.verdict), spread(subject.verdict >> 8), 1, PTEDIFF_CAUSE_FAULT);
	if (subject.verdict >> BROKEN_SHIFT & MET_MASK)
		report(&subject);
	return 0;
}

SEC("fexit/copy_page_range")
int program_fork_exit(u64 *context)
{
	struct vm_area_struct *child = (void *)context[0], *parent = (void *)context[1];
	struct ptediff_program_watch *state = the_watch();

	if (!state || !is_watched())
		return 0;
	if ((int)context[2]) {
		add(&state->counters.failed, 1);
		return 0;
	}
	judge_range(parent, parent->vm_start, parent->vm_end, PTEDIFF_CAUSE_FORK_PARENT);
	judge_range(child, child->vm_start, child->vm_end, PTEDIFF_CAUSE_FORK_CHILD);
	return 0;
}

SEC("fexit/change_protection")
int program_protect_exit(u64 *context)
{
	if (is_watched())
		judge_range((void *)context[1], context[2], context[3], PTEDIFF_CAUSE_PROTECT);
	return 0;
}

SEC("fexit/clear_refs_pte_range")
int program_clear_exit(u64 *context)
{
	struct mm_walk *walk = (void *)context[3];

	if (is_watched())
		judge_range(walk->vma, context[1], context[2], PTEDIFF_CAUSE_CLEAR_REFS);
	return 0;
}
