// SPDX-License-Identifier: GPL-2.0-only
/*
 * Write-protects entries of the caller's page table wrongly, on request: the
 * entry is read, Write is taken out of the copy, and the copy is stored. What a
 * processor set in between is lost. It is planted to show that the check of
 * such losses can fail; nothing else may load it.
 *
 * Write "ADDRESS PAGES MOVE DELAY" to /proc/ptediff-nonatomic-wrprotect. MOVE is
 * 1 to move Dirty to the software bit, as kernels from 6.6 on do, and 0 to leave
 * it; DELAY is the number of pauses between the read and the store. The TLBs are
 * flushed afterwards.
 */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/module.h>
#include <linux/pgtable.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/uaccess.h>
#include <asm/processor.h>
#include <asm/special_insns.h>

#define FILE_NAME "ptediff-nonatomic-wrprotect"

/* The bit of kernels from 6.6 on, by number: 6.1 has no name for it. */
#define SAVED_DIRTY (1ULL << 58)

struct request {
	unsigned long address;
	unsigned int pages;
	unsigned int moves_dirty;
	unsigned int delay;
};

static u64 without_write(u64 entry, bool moves_dirty)
{
	entry &= ~(u64)_PAGE_RW;
	if (moves_dirty && entry & _PAGE_DIRTY)
		entry = (entry & ~(u64)_PAGE_DIRTY) | SAVED_DIRTY;
	return entry;
}

/* The middle table's entry for an address, or NULL where no page table is. */
static pmd_t *find_pmd(struct mm_struct *mm, unsigned long address)
{
	pgd_t *pgd = pgd_offset(mm, address);
	p4d_t *p4d;
	pud_t *pud;
	pmd_t *pmd;

	if (pgd_none(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, address);
	if (p4d_none(*p4d))
		return NULL;
	pud = pud_offset(p4d, address);
	if (pud_none(*pud) || pud_leaf(*pud))
		return NULL;
	pmd = pmd_offset(pud, address);
	if (pmd_none(*pmd) || pmd_leaf(*pmd))
		return NULL;
	return pmd;
}

static int protect_page(struct mm_struct *mm, unsigned long address, const struct request *request)
{
	pmd_t *pmd = find_pmd(mm, address);
	unsigned int pause;
	spinlock_t *lock;
	u64 *entry, seen;

	if (!pmd)
		return -ENOENT;
	lock = pte_lockptr(mm, pmd);
	spin_lock(lock);
	entry = (u64 *)pte_offset_kernel(pmd, address);
	seen = READ_ONCE(*entry);
	if (seen & _PAGE_PRESENT) {
		for (pause = 0; pause < request->delay; pause++)
			cpu_relax();
		WRITE_ONCE(*entry, without_write(seen, request->moves_dirty));
	}
	spin_unlock(lock);
	return 0;
}

/* Both threads of the check run just now, so that the current address space's entries are all there are. */
static void flush_this_processor(void *unused)
{
	native_write_cr3(__native_read_cr3());
}

static ssize_t wrprotect_write(struct file *file, const char __user *from, size_t size,
			       loff_t *position)
{
	struct mm_struct *mm = current->mm;
	struct request request;
	unsigned int page;
	char text[64];
	int error = 0;

	if (!mm || size >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, from, size))
		return -EFAULT;
	text[size] = 0;
	if (sscanf(text, "%lx %u %u %u", &request.address, &request.pages, &request.moves_dirty,
		   &request.delay) != 4)
		return -EINVAL;
	if (request.address & ~PAGE_MASK || request.pages > 512 || request.delay > 100000)
		return -EINVAL;
	mmap_write_lock(mm);
	for (page = 0; page < request.pages && !error; page++)
		error = protect_page(mm, request.address + page * PAGE_SIZE, &request);
	on_each_cpu(flush_this_processor, NULL, 1);
	mmap_write_unlock(mm);
	return error ? error : size;
}

static const struct proc_ops wrprotect_operations = {
	.proc_write = wrprotect_write,
};

static int __init wrprotect_init(void)
{
	return proc_create(FILE_NAME, 0200, NULL, &wrprotect_operations) ? 0 : -ENOMEM;
}

static void __exit wrprotect_exit(void)
{
	remove_proc_entry(FILE_NAME, NULL);
}

module_init(wrprotect_init);
module_exit(wrprotect_exit);
MODULE_DESCRIPTION("Write-protects page-table entries without atomicity, to be caught");
MODULE_LICENSE("GPL");
