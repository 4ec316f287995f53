/*
 * Faults, forks and write-protections as fast as they come: fault_storm ROUNDS. Each round maps 512 pages, writes and
 * reads them, forks a child that writes half of them while the parent writes the other half, takes the right to write
 * away and gives it back, and unmaps. About 1,300 faults a round.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define PAGES 512UL

static void touch(volatile char *pages, unsigned long first, unsigned long step, int write)
{
	for (unsigned long page = first; page < PAGES; page += step) {
		if (write)
			pages[page * PAGE]++;
		else
			(void)pages[page * PAGE];
	}
}

/* One thread's rounds. */
static void *storm(void *argument)
{
	for (long round = *(long *)argument; round > 0; round--) {
		char *pages = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		pid_t child;

		if (pages == MAP_FAILED)
			exit(1);
		touch(pages, 0, 2, 0);
		touch(pages, 0, 1, 1);
		child = fork();
		if (child == 0) {
			touch(pages, 0, 2, 1);
			_exit(0);
		}
		touch(pages, 1, 2, 1);
		if (child < 0 || waitpid(child, 0, 0) != child)
			exit(1);
		mprotect(pages, PAGES * PAGE, PROT_READ);
		mprotect(pages, PAGES * PAGE, PROT_READ | PROT_WRITE);
		touch(pages, 0, 1, 1);
		munmap(pages, PAGES * PAGE);
	}
	return 0;
}

int main(int count, char **words)
{
	long rounds = count > 1 ? atol(words[1]) : 100;
	pthread_t other;

	if (pthread_create(&other, 0, storm, &rounds))
		return 1;
	storm(&rounds);
	pthread_join(other, 0);
	printf("2 threads, %ld rounds each\n", rounds);
	return 0;
}
