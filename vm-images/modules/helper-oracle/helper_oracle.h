/* SPDX-License-Identifier: GPL-2.0-only */
/* What a question to the helper oracle is, shared by its two files. */
#ifndef HELPER_ORACLE_H
#define HELPER_ORACLE_H

#include <linux/types.h>

#define HELPER_NAME_BYTES 32

/*
 * What user space writes. The file then holds one answer of eight bytes for
 * each subset of "mask", in ascending order of the subsets: the answer on the
 * entry "base | subset".
 */
struct question {
	/* The kernel's own name, "pte_wrprotect" say, with zeros behind it. */
	char helper[HELPER_NAME_BYTES];
	/*
	 * pte_modify and its like: the new protection.
	 * pte_mkwrite and pmd_mkwrite with a VMA: 1 for a shadow-stack VMA.
	 */
	__u64 argument;
	__u64 base;
	__u64 mask;
};

/* Answers for "count" subsets of the question's mask, from "subset" on. */
typedef void (*answer_fn)(const struct question *question, u64 subset, size_t count, u64 *answers);

/* Finds what the helpers need beyond the headers. */
int helpers_init(void);
void helpers_exit(void);

/* The function that answers for a helper, or NULL if this kernel has none of that name. */
answer_fn helper_answers(const char *name);

#endif
