// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's helpers by name. Each is called as its headers give it; which
 * exist depends on the version and the configuration.
 */
#include <linux/cc_platform.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/objtool.h>
#include <linux/pgtable.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/version.h>

#include "helper_oracle.h"

/* Since 7.3 the bit and its helpers are those of userfaultfd's tracking at large. */
#if defined(_PAGE_UFFD) && !defined(_PAGE_UFFD_WP)
#define _PAGE_UFFD_WP	      _PAGE_UFFD
#define pte_uffd_wp	      pte_uffd
#define pte_mkuffd_wp	      pte_mkuffd
#define pte_clear_uffd_wp     pte_clear_uffd
#define pte_swp_uffd_wp	      pte_swp_uffd
#define pte_swp_mkuffd_wp     pte_swp_mkuffd
#define pte_swp_clear_uffd_wp pte_swp_clear_uffd
#define pmd_uffd_wp	      pmd_uffd
#define pmd_mkuffd_wp	      pmd_mkuffd
#define pmd_clear_uffd_wp     pmd_clear_uffd
#define pmd_swp_uffd_wp	      pmd_swp_uffd
#define pmd_swp_mkuffd_wp     pmd_swp_mkuffd
#define pmd_swp_clear_uffd_wp pmd_swp_clear_uffd
#endif

#define SINCE(major, minor) (LINUX_VERSION_CODE >= KERNEL_VERSION(major, minor, 0))

/* Runs "answer" with "entry" going through the question's entries. */
#define ANSWERS(name, answer)                                                                      \
	static void answers_of_##name(const struct question *question, u64 subset, size_t count,   \
				      u64 *answers)                                                \
	{                                                                                          \
		u64 mask = question->mask;                                                         \
		size_t number;                                                                     \
                                                                                                   \
		for (number = 0; number < count; number++, subset = (subset - mask) & mask) {      \
			u64 entry = question->base | subset;                                       \
                                                                                                   \
			(void)entry;                                                               \
			answers[number] = (answer);                                                \
		}                                                                                  \
	}

/* A helper that makes an entry of an entry, at one level. */
#define TRANSFORMER(level, helper)                                                                 \
	ANSWERS(level##_##helper, level##_val(level##_##helper(__##level(entry))))

/* A helper that says yes or no: the answer is 1 or 0. */
#define PREDICATE(level, helper)                                                                   \
	ANSWERS(level##_##helper, level##_##helper(__##level(entry)) ? 1 : 0)

/* A helper that takes a number out of an entry. */
#define VALUE(level, helper) ANSWERS(level##_##helper, level##_##helper(__##level(entry)))

/* A constant of the headers, whatever the entry. */
#define CONSTANT(name, value) ANSWERS(name, value)

/* Every helper with which "the level" can be any of the three. */
#define FOR_EVERY_LEVEL(X, level)                                                                  \
	X(PREDICATE, level, dirty)                                                                 \
	X(PREDICATE, level, young)                                                                 \
	X(PREDICATE, level, write)                                                                 \
	X(PREDICATE, level, none)                                                                  \
	X(PREDICATE, level, present)                                                               \
	X(PREDICATE, level, soft_dirty)                                                            \
	X(VALUE, level, pfn)                                                                       \
	X(TRANSFORMER, level, mkclean)                                                             \
	X(TRANSFORMER, level, mkdirty)                                                             \
	X(TRANSFORMER, level, mkold)                                                               \
	X(TRANSFORMER, level, mkyoung)                                                             \
	X(TRANSFORMER, level, wrprotect)                                                           \
	X(TRANSFORMER, level, mkhuge)                                                              \
	X(TRANSFORMER, level, mksoft_dirty)                                                        \
	X(TRANSFORMER, level, clear_soft_dirty)

#define FOR_PTE(X)                                                                                 \
	FOR_EVERY_LEVEL(X, pte)                                                                    \
	X(PREDICATE, pte, huge)                                                                    \
	X(PREDICATE, pte, global)                                                                  \
	X(PREDICATE, pte, exec)                                                                    \
	X(PREDICATE, pte, special)                                                                 \
	X(PREDICATE, pte, protnone)                                                                \
	X(PREDICATE, pte, uffd_wp)                                                                 \
	X(PREDICATE, pte, swp_soft_dirty)                                                          \
	X(PREDICATE, pte, swp_uffd_wp)                                                             \
	X(PREDICATE, pte, swp_exclusive)                                                           \
	X(TRANSFORMER, pte, mkexec)                                                                \
	X(TRANSFORMER, pte, mkspecial)                                                             \
	X(TRANSFORMER, pte, mkglobal)                                                              \
	X(TRANSFORMER, pte, clrglobal)                                                             \
	X(TRANSFORMER, pte, clrhuge)                                                               \
	X(TRANSFORMER, pte, mkuffd_wp)                                                             \
	X(TRANSFORMER, pte, clear_uffd_wp)                                                         \
	X(TRANSFORMER, pte, swp_mksoft_dirty)                                                      \
	X(TRANSFORMER, pte, swp_clear_soft_dirty)                                                  \
	X(TRANSFORMER, pte, swp_mkuffd_wp)                                                         \
	X(TRANSFORMER, pte, swp_clear_uffd_wp)                                                     \
	X(TRANSFORMER, pte, swp_mkexclusive)                                                       \
	X(TRANSFORMER, pte, swp_clear_exclusive)

#define FOR_PMD(X)                                                                                 \
	FOR_EVERY_LEVEL(X, pmd)                                                                    \
	X(PREDICATE, pmd, leaf)                                                                    \
	X(PREDICATE, pmd, trans_huge)                                                              \
	X(PREDICATE, pmd, bad)                                                                     \
	X(PREDICATE, pmd, protnone)                                                                \
	X(PREDICATE, pmd, uffd_wp)                                                                 \
	X(PREDICATE, pmd, swp_soft_dirty)                                                          \
	X(PREDICATE, pmd, swp_uffd_wp)                                                             \
	X(TRANSFORMER, pmd, mkinvalid)                                                             \
	X(TRANSFORMER, pmd, mkuffd_wp)                                                             \
	X(TRANSFORMER, pmd, clear_uffd_wp)                                                         \
	X(TRANSFORMER, pmd, swp_mksoft_dirty)                                                      \
	X(TRANSFORMER, pmd, swp_clear_soft_dirty)                                                  \
	X(TRANSFORMER, pmd, swp_mkuffd_wp)                                                         \
	X(TRANSFORMER, pmd, swp_clear_uffd_wp)

#define FOR_PUD(X)                                                                                 \
	FOR_EVERY_LEVEL(X, pud)                                                                    \
	X(PREDICATE, pud, leaf)                                                                    \
	X(PREDICATE, pud, trans_huge)                                                              \
	X(PREDICATE, pud, bad)                                                                     \
	X(TRANSFORMER, pud, mkwrite)

#if SINCE(6, 6)
#define FOR_SAVED_DIRTY(X)                                                                         \
	X(PREDICATE, pte, shstk)                                                                   \
	X(PREDICATE, pmd, shstk)                                                                   \
	X(PREDICATE, pud, shstk)                                                                   \
	X(TRANSFORMER, pte, mkwrite_novma)                                                         \
	X(TRANSFORMER, pmd, mkwrite_novma)                                                         \
	X(TRANSFORMER, pte, mkwrite_shstk)                                                         \
	X(TRANSFORMER, pmd, mkwrite_shstk)                                                         \
	X(TRANSFORMER, pte, mksaveddirty)                                                          \
	X(TRANSFORMER, pmd, mksaveddirty)                                                          \
	X(TRANSFORMER, pud, mksaveddirty)                                                          \
	X(TRANSFORMER, pte, clear_saveddirty)                                                      \
	X(TRANSFORMER, pmd, clear_saveddirty)                                                      \
	X(TRANSFORMER, pud, clear_saveddirty)
#else
#define FOR_SAVED_DIRTY(X)
#endif

#if SINCE(6, 12)
#define FOR_SPECIAL_HUGE(X)                                                                        \
	X(PREDICATE, pmd, special)                                                                 \
	X(PREDICATE, pud, special)                                                                 \
	X(TRANSFORMER, pmd, mkspecial)                                                             \
	X(TRANSFORMER, pud, mkspecial)                                                             \
	X(TRANSFORMER, pud, mkinvalid)
#else
#define FOR_SPECIAL_HUGE(X)
#endif

#ifdef CONFIG_ARCH_HAS_PTE_DEVMAP
#define FOR_DEVMAP(X)                                                                              \
	X(PREDICATE, pte, devmap)                                                                  \
	X(PREDICATE, pmd, devmap)                                                                  \
	X(PREDICATE, pud, devmap)                                                                  \
	X(TRANSFORMER, pte, mkdevmap)                                                              \
	X(TRANSFORMER, pmd, mkdevmap)                                                              \
	X(TRANSFORMER, pud, mkdevmap)
#else
#define FOR_DEVMAP(X)
#endif

#define FOR_HELPERS(X)                                                                             \
	FOR_PTE(X)                                                                                 \
	FOR_PMD(X)                                                                                 \
	FOR_PUD(X)                                                                                 \
	FOR_SAVED_DIRTY(X)                                                                         \
	FOR_SPECIAL_HUGE(X)                                                                        \
	FOR_DEVMAP(X)

#define DEFINE(kind, level, helper) kind(level, helper)
FOR_HELPERS(DEFINE)

#define NEW_PROTECTION __pgprot(question->argument)
ANSWERS(pte_modify, pte_val(pte_modify(__pte(entry), NEW_PROTECTION)))
ANSWERS(pmd_modify, pmd_val(pmd_modify(__pmd(entry), NEW_PROTECTION)))
#if SINCE(6, 12)
ANSWERS(pud_modify, pud_val(pud_modify(__pud(entry), NEW_PROTECTION)))
#endif

/*
 * The headers' masks name this variable of the kernel, which modules cannot
 * reach. It is zero where no memory is encrypted, which helpers_init() checks.
 */
u64 cc_mask;

static int check_unencrypted(void)
{
	return cc_platform_has(CC_ATTR_MEM_ENCRYPT) ? -EOPNOTSUPP : 0;
}

/* A kernel's own functions are as it was configured: the bare oracle does not ask them. */
#if SINCE(6, 6) && !defined(BARE)
#define CALLS_KERNEL 1
#else
#define CALLS_KERNEL 0
#endif

#if CALLS_KERNEL
/*
 * pte_mkwrite and pmd_mkwrite take a VMA and are not exported. They are found
 * by address and called by "ret": an indirect call would need an ENDBR there,
 * which the kernel overwrites where nobody takes a function's address.
 */
static unsigned long address_of_pte_mkwrite, address_of_pmd_mkwrite;

/* [0]: an ordinary VMA, [1]: a shadow-stack VMA. */
static struct vm_area_struct *areas[2];

static noinline u64 call_by_return(unsigned long function, u64 entry, struct vm_area_struct *area)
{
	u64 result;
	unsigned long first = entry, second = (unsigned long)area;

	asm volatile("leaq 1f(%%rip), %%rax\n\t"
		     "pushq %%rax\n\t"
		     "pushq %[function]\n\t"
		     "ret\n\t"
		     "int3\n"
		     "1:"
		     : "=&a"(result), "+D"(first), "+S"(second), ASM_CALL_CONSTRAINT
		     : [function] "r"(function)
		     : "rcx", "rdx", "r8", "r9", "r10", "r11", "cc", "memory");
	return result;
}
STACK_FRAME_NON_STANDARD(call_by_return);

#define AREA areas[question->argument & 1]
ANSWERS(pte_mkwrite, call_by_return(address_of_pte_mkwrite, entry, AREA))
ANSWERS(pmd_mkwrite, call_by_return(address_of_pmd_mkwrite, entry, AREA))

static int find_address(const char *name, unsigned long *address)
{
	struct kprobe probe = {.symbol_name = name};
	int error = register_kprobe(&probe);

	if (error)
		return error;
	*address = (unsigned long)probe.addr;
	unregister_kprobe(&probe);
	return 0;
}

int helpers_init(void)
{
	int number, error = check_unencrypted();

	if (error)
		return error;
	for (number = 0; number < ARRAY_SIZE(areas); number++) {
		areas[number] = kzalloc(sizeof(*areas[number]), GFP_KERNEL);
		if (!areas[number]) {
			helpers_exit();
			return -ENOMEM;
		}
		vm_flags_init(areas[number], number ? VM_WRITE | VM_SHADOW_STACK : VM_WRITE);
	}
	error = find_address("pte_mkwrite", &address_of_pte_mkwrite);
	if (!error)
		error = find_address("pmd_mkwrite", &address_of_pmd_mkwrite);
	if (error)
		helpers_exit();
	return error;
}

void helpers_exit(void)
{
	kfree(areas[0]);
	kfree(areas[1]);
}
#else
#if !SINCE(6, 6)
TRANSFORMER(pte, mkwrite)
TRANSFORMER(pmd, mkwrite)
#endif

int helpers_init(void)
{
	return check_unencrypted();
}

void helpers_exit(void)
{
}
#endif

CONSTANT(page_chg_mask, _PAGE_CHG_MASK)
CONSTANT(hpage_chg_mask, _HPAGE_CHG_MASK)
CONSTANT(pte_pfn_mask, PTE_PFN_MASK)
CONSTANT(supported_pte_mask, __supported_pte_mask)
CONSTANT(page_soft_dirty, _PAGE_SOFT_DIRTY)
CONSTANT(page_uffd_wp, _PAGE_UFFD_WP)
#ifdef _PAGE_BIT_SAVED_DIRTY
CONSTANT(page_saved_dirty, _PAGE_SAVED_DIRTY)
#endif
#ifdef CONFIG_ARCH_HAS_PTE_DEVMAP
CONSTANT(page_devmap, _PAGE_DEVMAP)
#endif
/* Whether pte_shstk() can be true: X86_FEATURE_SHSTK, as the helpers see it. */
#ifdef X86_FEATURE_SHSTK
CONSTANT(cpu_has_shstk, cpu_feature_enabled(X86_FEATURE_SHSTK))
#endif

/* clang-format off */
static const struct {
	const char *name;
	answer_fn answers;
} helpers[] = {
#define ROW(name) { #name, answers_of_##name },
#define ROW_OF_LEVEL(kind, level, helper) ROW(level##_##helper)
	FOR_HELPERS(ROW_OF_LEVEL)
	ROW(pte_modify)
	ROW(pmd_modify)
#if SINCE(6, 12)
	ROW(pud_modify)
#endif
#if CALLS_KERNEL || !SINCE(6, 6)
	ROW(pte_mkwrite)
	ROW(pmd_mkwrite)
#endif
	ROW(page_chg_mask)
	ROW(hpage_chg_mask)
	ROW(pte_pfn_mask)
	ROW(supported_pte_mask)
	ROW(page_soft_dirty)
	ROW(page_uffd_wp)
#ifdef _PAGE_BIT_SAVED_DIRTY
	ROW(page_saved_dirty)
#endif
#ifdef CONFIG_ARCH_HAS_PTE_DEVMAP
	ROW(page_devmap)
#endif
#ifdef X86_FEATURE_SHSTK
	ROW(cpu_has_shstk)
#endif
};
/* clang-format on */

answer_fn helper_answers(const char *name)
{
	size_t number;

	for (number = 0; number < ARRAY_SIZE(helpers); number++)
		if (!strcmp(helpers[number].name, name))
			return helpers[number].answers;
	return NULL;
}
