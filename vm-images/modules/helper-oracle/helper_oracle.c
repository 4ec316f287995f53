// SPDX-License-Identifier: GPL-2.0-only
/*
 * The helper oracle: /proc/ptediff-helper-oracle answers what this kernel's
 * page-table-entry helpers make of an entry.
 *
 * Write a struct question, then read the answers as u64 at any multiple of
 * eight. A helper that this kernel does not have gives ENOENT. No entry of any
 * page table is read or written.
 */
#include <linux/bitops.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "helper_oracle.h"

#ifdef BARE
#define FILE_NAME "ptediff-helper-oracle-bare"
#else
#define FILE_NAME "ptediff-helper-oracle"
#endif

/* Answers that are made before they are copied to user space. */
#define BATCH 2048

struct conversation {
	struct mutex lock;
	struct question question;
	answer_fn answers;
	u64 batch[BATCH];
};

static int oracle_open(struct inode *inode, struct file *file)
{
	struct conversation *conversation = kvzalloc(sizeof(*conversation), GFP_KERNEL);

	if (!conversation)
		return -ENOMEM;
	mutex_init(&conversation->lock);
	file->private_data = conversation;
	return 0;
}

static int oracle_release(struct inode *inode, struct file *file)
{
	kvfree(file->private_data);
	return 0;
}

static ssize_t oracle_write(struct file *file, const char __user *from, size_t size,
			    loff_t *position)
{
	struct conversation *conversation = file->private_data;
	struct question question;
	answer_fn answers;

	if (size != sizeof(question))
		return -EINVAL;
	if (copy_from_user(&question, from, sizeof(question)))
		return -EFAULT;
	if (question.helper[HELPER_NAME_BYTES - 1] || question.base & question.mask)
		return -EINVAL;
	answers = helper_answers(question.helper);
	if (!answers)
		return -ENOENT;
	mutex_lock(&conversation->lock);
	conversation->question = question;
	conversation->answers = answers;
	mutex_unlock(&conversation->lock);
	return size;
}

/* The subset of "mask" with this number: its bits, dealt out to the set bits of the mask. */
static u64 subset_numbered(u64 number, u64 mask)
{
	u64 subset = 0;

	for (; number && mask; number >>= 1, mask &= mask - 1)
		if (number & 1)
			subset |= mask & -mask;
	return subset;
}

static ssize_t oracle_read(struct file *file, char __user *to, size_t size, loff_t *position)
{
	struct conversation *conversation = file->private_data;
	ssize_t done = 0;

	if (size % sizeof(u64) || *position < 0 || *position % sizeof(u64))
		return -EINVAL;
	mutex_lock(&conversation->lock);
	if (!conversation->answers) {
		done = -ENODATA;
		goto out;
	}
	while (size) {
		u64 mask = conversation->question.mask;
		u64 number = (*position + done) / sizeof(u64);
		u64 total = 1ULL << hweight64(mask);
		size_t count = min_t(u64, size / sizeof(u64), BATCH);

		/* A mask of all 64 bits is no question that anyone could read to its end. */
		if (hweight64(mask) > 48 || number >= total)
			break;
		count = min_t(u64, count, total - number);
		conversation->answers(&conversation->question, subset_numbered(number, mask), count,
				      conversation->batch);
		if (copy_to_user(to + done, conversation->batch, count * sizeof(u64))) {
			done = -EFAULT;
			goto out;
		}
		done += count * sizeof(u64);
		size -= count * sizeof(u64);
		cond_resched();
	}
	*position += done;
out:
	mutex_unlock(&conversation->lock);
	return done;
}

static const struct proc_ops oracle_operations = {
	.proc_open = oracle_open,
	.proc_release = oracle_release,
	.proc_write = oracle_write,
	.proc_read = oracle_read,
	.proc_lseek = default_llseek,
};

static int __init oracle_init(void)
{
	int error = helpers_init();

	if (error)
		return error;
	if (!proc_create(FILE_NAME, 0600, NULL, &oracle_operations)) {
		helpers_exit();
		return -ENOMEM;
	}
	return 0;
}

static void __exit oracle_exit(void)
{
	remove_proc_entry(FILE_NAME, NULL);
	helpers_exit();
}

module_init(oracle_init);
module_exit(oracle_exit);
MODULE_DESCRIPTION("Answers what this kernel's page-table-entry helpers make of an entry");
MODULE_LICENSE("GPL");
