/*
 * Makes an entry of every kind that `ptediff watch` knows an invariant for, as far as the machine has it: protection
 * keys, PROT_NONE, userfaultfd write-protection with markers, shadow stacks, soft-dirty, huge pages; and forks over
 * all of it. Says what it could not have.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define PAGES 16UL
#define NR_MAP_SHADOW_STACK 453
#define SHADOW_STACK_SET_TOKEN 1UL
#define WP_UNPOPULATED (1UL << 13)

static char *map(int protection, int flags)
{
	char *pages = mmap(0, PAGES * PAGE, protection, flags | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		perror("mmap");
	return pages;
}

static void write_all(char *pages)
{
	for (unsigned long page = 0; page < PAGES; page++)
		pages[page * PAGE] = 1;
}

static void fork_once(void)
{
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	waitpid(child, 0, 0);
}

/* Long enough for a look at what is there. */
static void stand(void)
{
	usleep(300000);
}

static void protect_by_userfaultfd(char *pages)
{
	struct uffdio_api api = {.api = UFFD_API, .features = WP_UNPOPULATED};
	struct uffdio_register area = {.range = {(unsigned long)pages, PAGES * PAGE},
				       .mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect protect = {.range = {(unsigned long)pages, PAGES * PAGE},
					      .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api)) {
		close(uffd);
		uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
		api.api = UFFD_API;
		api.features = 0;
		if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api)) {
			printf("no userfaultfd: %s\n", strerror(errno));
			return;
		}
	}
	if (ioctl(uffd, UFFDIO_REGISTER, &area) || ioctl(uffd, UFFDIO_WRITEPROTECT, &protect))
		printf("no write-protection: %s\n", strerror(errno));
	for (unsigned long page = 0; page < PAGES; page++)
		*(volatile char *)(pages + page * PAGE);
	fork_once();
	stand();
	protect.mode = 0;
	ioctl(uffd, UFFDIO_WRITEPROTECT, &protect);
	write_all(pages);
	close(uffd);
}

int main(void)
{
	char *private = map(PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *shared = map(PROT_READ | PROT_WRITE, MAP_SHARED);
	char *half = map(PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *none = map(PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *huge = mmap(0, 4UL << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int key = pkey_alloc(0, 0), clear;
	char *stack;

	write_all(private);
	write_all(shared);
	write_all(none);
	half[0] = 1;
	mprotect(none, PAGES * PAGE, PROT_NONE);
	if (key < 0 || pkey_mprotect(private, PAGES * PAGE, PROT_READ | PROT_WRITE, key))
		printf("no protection keys: %s\n", strerror(errno));
	madvise(huge, 4UL << 20, MADV_HUGEPAGE);
	memset(huge, 1, 4UL << 20);
	stand();
	fork_once();
	write_all(private);

	stack = (char *)syscall(NR_MAP_SHADOW_STACK, 0, 4 * PAGE, SHADOW_STACK_SET_TOKEN);
	if (stack == MAP_FAILED)
		printf("no shadow stacks: %s\n", strerror(errno));
	else
		*(volatile char *)stack;
	stand();
	fork_once();

	clear = open("/proc/self/clear_refs", O_WRONLY);
	if (clear < 0 || write(clear, "4", 1) != 1)
		printf("no soft-dirty: %s\n", strerror(errno));
	write_all(shared);

	mprotect(none, PAGES * PAGE, PROT_READ | PROT_WRITE);
	write_all(none);
	protect_by_userfaultfd(half);
	printf("met every kind\n");
	return 0;
}
