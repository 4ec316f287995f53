/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the probes need of the BPF environment and of the kernel's types, declared here: no header of
 * libbpf, no vmlinux.h.
 */
#ifndef PTEDIFF_KERNEL_H
#define PTEDIFF_KERNEL_H

#include "pte_snapshot.h"

typedef ptediff_u8 u8;
typedef ptediff_u16 u16;
typedef ptediff_u32 u32;
typedef ptediff_u64 u64;

#define SEC(name)	__attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
/*
 * A function with external linkage is verified once, on its own, whatever its arguments; a static one would
 * be verified again in every iteration that calls it. Its arguments are numbers, and pointers to memory of
 * a known size.
 */
#define __verified_once __attribute__((noinline))
#define barrier()	__asm__ volatile("" ::: "memory")

/* Helpers, by their numbers in the kernel's enum bpf_func_id. */
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static long (*const bpf_probe_read_kernel)(void *dst, u32 size, const void *src) = (void *)113;
static void *(*const bpf_ringbuf_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, u64 flags) = (void *)132;

#define BPF_RB_NO_WAKEUP 1

#define BPF_ANY 0

#define BPF_MAP_TYPE_HASH    1
#define BPF_MAP_TYPE_ARRAY   2
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_F_MMAPABLE	     1024

/* A BTF map definition keeps its numbers as array lengths. */
#define MAP_UINT(name, value) int(*name)[value]
#define MAP_TYPE(name, type_) typeof(type_) *name

/* Kinds of CO-RE relocation that clang's builtins take (enum bpf_core_relo_kind). */
#define CORE_FIELD_OFFSET 0
#define CORE_FIELD_EXISTS 2
#define CORE_TYPE_SIZE	  1
#define CORE_ENUM_VALUE	  1

/*
 * The kernel's types, as far as they are used.
 */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct mm_struct {
	u64 *pgd;
};

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	struct mm_struct *vm_mm;
	unsigned long vm_flags;
	void *anon_vma;
};

struct mm_walk {
	struct vm_area_struct *vma;
};

struct task_struct {
	struct mm_struct *mm;
	int pid;
	int tgid;
};

struct page_count {
	int counter;
};

struct page {
	unsigned long flags;
	void *mapping;
	struct page_count _mapcount;
};

struct page_flag_word {
	unsigned long f;
};

/* Since 6.18 the flags are wrapped in a structure (memdesc_flags_t). */
struct page___wrapped {
	struct page_flag_word flags;
};

#pragma clang attribute pop

/* The registers of x86-64 as far as the arguments go (arch/x86/include/asm/ptrace.h). */
struct pt_regs {
	u64 unused[10];
	u64 ax;
	u64 cx;
	u64 dx;
	u64 si;
	u64 di;
};

enum pageflags {
	PG_anon_exclusive = 11, /* the running kernel's number replaces this one */
};

/* Of enum vm_fault_reason, enum fault_flag and struct page; the same since long before 6.12. */
#define VM_FAULT_RETRY	  0x400
#define FAULT_FLAG_WRITE  0x1
#define PAGE_MAPPING_ANON 0x1

#define ENTRY_PRESENT  0x001ULL
#define ENTRY_ACCESSED 0x020ULL
#define ENTRY_DIRTY    0x040ULL
#define ENTRY_HUGE     0x080ULL
#define ENTRY_PROTNONE 0x100ULL
#define ENTRY_FRAME    0x000ffffffffff000ULL

#define PAGE_SIZE 4096ULL
#define ARENA_END (PTEDIFF_ARENA_BASE + PTEDIFF_ARENA_PAGES * PAGE_SIZE)

#endif
