//! Pieces of C that do not depend on the program's steps. Each is put out only where the program uses it.

pub(super) const SHARED: &str = r#"
/* What the actors and main() share. */
static struct {
	sem_t go[ACTORS], done[ACTORS];
	int step;
	pid_t pid[ACTORS];	/* 0: not alive */
	int uffd[4];		/* userfaultfds, plus 1; 0: not open */
	int owner[4];		/* who opened them */
	int child;		/* of the last fork */
	char result[ACTORS][128];	/* of the last step */
} *shared;

/* Which actor this process is. */
static int me;
"#;

pub(super) const CALLED: &str = r#"
/* Notes what a system call returned; success is this value. */
static void called(long value, unsigned long success)
{
	if (value == -1)
		snprintf(shared->result[me], sizeof(shared->result[me]),
			 "errno %d", errno);
	else if ((unsigned long)value == success)
		snprintf(shared->result[me], sizeof(shared->result[me]), "ok");
	else
		snprintf(shared->result[me], sizeof(shared->result[me]),
			 "elsewhere, at 0x%lx", value);
}
"#;

pub(super) const GAVE: &str = r#"
/* Notes the number that a system call or an instruction gave. */
static void gave(long value)
{
	if (value == -1)
		snprintf(shared->result[me], sizeof(shared->result[me]),
			 "errno %d", errno);
	else
		snprintf(shared->result[me], sizeof(shared->result[me]),
			 "gave 0x%lx", value);
}
"#;

pub(super) const WRITE_PKRU: &str = r#"
/* Other rights for one key in PKRU; what stood there before is noted. */
static void write_pkru(int key, unsigned int rights)
{
	unsigned int before, after;

	__asm__ volatile("rdpkru" : "=a"(before) : "c"(0) : "rdx");
	after = (before & ~(3U << 2 * key)) | rights << 2 * key;
	__asm__ volatile("wrpkru" : : "a"(after), "c"(0), "d"(0) : "memory");
	gave(before);
}
"#;

pub(super) const LOAD_BY_SYSTEM_CALL: &str = r#"
/*
 * The kernel reads the page: write() adds what stands there to the count of
 * an eventfd. A count of 0 cannot be taken back (EAGAIN).
 */
static void load_by_system_call(unsigned long address)
{
	int event = eventfd(0, EFD_NONBLOCK);
	unsigned long value = 0;

	if (write(event, (void *)address, 8) != 8)
		called(-1, 0);
	else if (read(event, &value, 8) != 8 && errno != EAGAIN)
		called(-1, 0);
	else
		snprintf(shared->result[me], sizeof(shared->result[me]),
			 "loaded 0x%lx", value);
	close(event);
}
"#;

pub(super) const STORE_BY_SYSTEM_CALL: &str = r#"
/* The kernel writes the page: read() puts the eventfd's count there. */
static void store_by_system_call(unsigned long address, unsigned long value)
{
	int event = eventfd(0, EFD_NONBLOCK);

	if (write(event, &value, 8) != 8 ||
	    read(event, (void *)address, 8) != 8)
		called(-1, 0);
	else
		snprintf(shared->result[me], sizeof(shared->result[me]),
			 "stored");
	close(event);
}
"#;

pub(super) const STORE_BY_FORCE: &str = r#"
/* The kernel writes the page, whatever the mapping permits: FOLL_FORCE. */
static void store_by_force(unsigned long address, unsigned long value)
{
	int memory = open("/proc/self/mem", O_WRONLY | O_CLOEXEC);
	long written = pwrite(memory, &value, 8, address);

	if (written == 8)
		snprintf(shared->result[me], sizeof(shared->result[me]),
			 "stored");
	else
		called(written, 0);
	close(memory);
}
"#;

pub(super) const HANDLER: &str = r#"
/* The last fault; signal 0: none. */
static volatile struct {
	int signal, code;
	unsigned int key;	/* of SEGV_PKUERR */
	unsigned long address, trap, error_code, instruction;
} fault;

/*
 * Every access below is one instruction, and before it r15 is loaded with the
 * address where to go on. That is where a fault returns to: no longjmp, so
 * that a shadow stack is unwound as the kernel wants it.
 */
static void handler(int signal, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;

	fault.signal = signal;
	fault.code = info->si_code;
	fault.key = info->si_code == 4 ? info->si_pkey : 0;
	fault.address = (unsigned long)info->si_addr;
	fault.trap = registers[REG_TRAPNO];
	fault.error_code = registers[REG_ERR];
	fault.instruction = registers[REG_RIP];
	registers[REG_RIP] = registers[REG_R15];
}
"#;

pub(super) const ACCESSED: &str = r#"
/* Notes the fault of an access, or this text where there was none. */
static void accessed(const char *text, unsigned long value)
{
	char key[16] = "";

	if (fault.key)
		snprintf(key, sizeof(key), ", key %u", fault.key);
	if (fault.signal)
		snprintf(shared->result[me], sizeof(shared->result[me]),
			 "signal %d, si_code %d, address 0x%lx, "
			 "error code 0x%lx%s",
			 fault.signal, fault.code, fault.address,
			 fault.error_code, key);
	else
		snprintf(shared->result[me], sizeof(shared->result[me]),
			 text, value);
	fault.signal = 0;
}
"#;

pub(super) const LOAD: &str = r#"
static void load(unsigned long address)
{
	unsigned long value;

	__asm__ volatile("lea 1f(%%rip), %%r15\n\t"
			 "mov (%1), %0\n"
			 "1:"
			 : "=&r"(value) : "r"(address) : "r15", "memory");
	accessed("loaded 0x%lx", value);
}
"#;

pub(super) const STORE: &str = r#"
/* All values differ; as code they are `jmp *%rcx`, see execute(). */
static void store(unsigned long address, unsigned long value)
{
	__asm__ volatile("lea 1f(%%rip), %%r15\n\t"
			 "mov %1, (%0)\n"
			 "1:"
			 : : "r"(address), "r"(value) : "r15", "memory");
	accessed("stored", 0);
}
"#;

pub(super) const SHADOW_STACK_STORE: &str = r#"
/* WRSSQ: a store to a shadow-stack page. */
static void shadow_stack_store(unsigned long address, unsigned long value)
{
	__asm__ volatile("lea 1f(%%rip), %%r15\n\t"
			 "wrssq %1, (%0)\n"
			 "1:"
			 : : "r"(address), "r"(value) : "r15", "memory");
	accessed("stored", 0);
}
"#;

pub(super) const EXECUTE: &str = r#"
/* Jumps to the page; rcx says where its `jmp *%rcx` leads. */
static void execute(unsigned long address)
{
	__asm__ volatile("lea 1f(%%rip), %%r15\n\t"
			 "mov %%r15, %%rcx\n\t"
			 "xor %%eax, %%eax\n\t"
			 "jmp *%0\n"
			 "1:"
			 : : "D"(address) : "rax", "rcx", "r15", "memory");
	/*
	 * A refused fetch is a page fault (14) at the page itself. If the
	 * page's bytes fault by what they do (zeroes are `add %al,(%rax)`,
	 * and rax is 0), they were fetched.
	 */
	if (!(fault.trap == 14 && fault.address == address) &&
	    fault.instruction - address < PAGE_SIZE)
		fault.signal = 0;
	accessed("executed", 0);
}
"#;

pub(super) const FORK: &str = r#"
/* CLONE_PARENT: main() is every actor's parent, and can wait for each. */
static void fork_actor(int child)
{
	long pid;

	shared->child = child;
	/* CLONE_FILES: actors share their descriptors. */
	pid = syscall(SYS_clone, CLONE_PARENT | CLONE_FILES | SIGCHLD,
		      0, 0, 0, 0);

	if (pid == 0) {
		me = child;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		return;
	}
	called(pid == -1 ? -1 : 0, 0);
	if (pid > 0)
		shared->pid[child] = pid;
}
"#;

pub(super) const CLEAR_SOFT_DIRTY: &str = r#"
static void clear_soft_dirty(void)
{
	int file = open("/proc/self/clear_refs", O_WRONLY);

	called(write(file, "4", 1), 1);
	close(file);
}
"#;

pub(super) const MERGE_PAGES: &str = r#"
static long ksm(const char *name, const char *value)
{
	char path[64], text[32] = "";
	int file;

	snprintf(path, sizeof(path), "/sys/kernel/mm/ksm/%s", name);
	file = open(path, value ? O_WRONLY : O_RDONLY);
	if (file < 0)
		return -1;
	if (value ? write(file, value, strlen(value)) < 0 :
		    read(file, text, sizeof(text) - 1) < 0)
		perror(path);
	close(file);
	return atol(text);
}

/* ksmd scans three times; not every kernel has every knob. */
static void merge_pages(void)
{
	long end = ksm("full_scans", NULL) + 3;

	ksm("sleep_millisecs", "0");
	ksm("pages_to_scan", "100000");
	ksm("smart_scan", "0");
	ksm("use_zero_pages", "0");
	ksm("run", "1");
	while (ksm("full_scans", NULL) < end)
		usleep(1000);
	ksm("run", "0");
}
"#;

pub(super) const ENABLE: &str = r#"
/*
 * arch_prctl as an instruction: a function that was called before the shadow
 * stack was there cannot return any more once it is.
 */
static inline __attribute__((always_inline))
long arch_prctl(long code, long value)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"((long)SYS_arch_prctl), "D"(code), "S"(value)
			 : "rcx", "r11", "memory");
	return result;
}
"#;

pub(super) const INSTALL_HANDLER: &str = r#"	struct sigaction action = { .sa_flags = SA_SIGINFO };

	action.sa_sigaction = handler;
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGILL, &action, NULL);
"#;

pub(super) const CALL_ENABLE: &str = r#"	/*
	 * 0x5001: ARCH_SHSTK_ENABLE; 1: ARCH_SHSTK_SHSTK; 2: ARCH_SHSTK_WRSS.
	 * This function never returns: its shadow stack may begin empty.
	 */
	if (arch_prctl(0x5001, 1) || arch_prctl(0x5001, 2)) {
		puts("no user shadow stacks here");
		fflush(stdout);
		_exit(1);
	}
"#;

pub(super) const LOOP: &str = r#"	for (;;) {
		sem_wait(&shared->go[me]);
		perform(shared->step);
		sem_post(&shared->done[me]);
	}
}
"#;

/// [`LOOP`] where a step may make a new actor.
pub(super) const LOOP_WITH_FORK: &str = r#"	for (;;) {
		int who = me;

		sem_wait(&shared->go[me]);
		perform(shared->step);
		if (who == me)	/* else: just forked, and nothing to tell */
			sem_post(&shared->done[who]);
	}
}
"#;

pub(super) const SHOW: &str = r#"
static unsigned long pagemap(pid_t pid, unsigned long address)
{
	unsigned long word = 0;
	char name[64];
	int file;

	snprintf(name, sizeof(name), "/proc/%d/pagemap", pid);
	file = open(name, O_RDONLY);
	if (file < 0 || pread(file, &word, 8, address / PAGE_SIZE * 8) != 8) {
		perror(name);
		exit(1);
	}
	close(file);
	return word;
}

/* Bits of a word: 0-54 frame, 55 soft-dirty, 56 mapped once, 63 present. */
#define FRAME(word) ((word) & ((1UL << 55) - 1))

static unsigned long zero_page;

/*
 * The name of a frame: numbers in order of appearance. A frame that no actor
 * maps any more after a step is forgotten, and new when it comes back.
 */
static int name_of(unsigned long frame, int round)
{
	static struct {
		unsigned long frame;
		int name, round;
	} known[2 * ACTORS * PAGES];
	static int names;
	int i, unused = 0;

	for (i = 0; i < 2 * ACTORS * PAGES; i++) {
		if (!known[i].name || known[i].round < round - 1)
			unused = i;
		else if (known[i].frame == frame)
			break;
	}
	if (i == 2 * ACTORS * PAGES) {
		i = unused;
		known[i].frame = frame;
		known[i].name = ++names;
	}
	known[i].round = round;
	return known[i].name;
}

/* Prints what pagemap says of the pages of all actors. */
static void show(int round)
{
	for (int actor = 0; actor < ACTORS; actor++) {
		for (int i = 0; i < PAGES && shared->pid[actor]; i++) {
			unsigned long word;

			word = pagemap(shared->pid[actor], PAGE(pages[i]));
			printf("  actor %d page %d: %s%s%s", actor, pages[i],
			       word >> 63 ? "present" : "empty",
			       word >> 55 & 1 ? ", soft-dirty" : "",
			       word >> 56 & 1 ? ", exclusive" : "");
			if (word >> 63 && !FRAME(word))
				printf(", frame hidden");
			else if (word >> 63 && FRAME(word) == zero_page)
				printf(", the zero page");
			else if (word >> 63)
				printf(", frame %d",
				       name_of(FRAME(word), round));
			printf(" (0x%016lx)\n", word);
		}
	}
	fflush(stdout);
}
"#;

pub(super) const STEP: &str = r#"
/* Has the actor perform the step, and prints what came of it. */
static void step(int number, int actor, const char *text)
{
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 60;
	shared->step = number;
	sem_post(&shared->go[actor]);
	if (sem_timedwait(&shared->done[actor], &limit)) {
		printf("step %d: actor %d does not answer\n", number, actor);
		exit(1);
	}
	printf("step %d, actor %d: %s\n  -> %s\n", number, actor, text,
	       shared->result[actor]);
	show(number + 1);
}
"#;

/// [`STEP`] where a fork may wait until its events are read.
pub(super) const STEP_WITH_EVENTS: &str = r#"
/* Has the actor perform the step, and prints what came of it. */
static void step(int number, int actor, const char *text)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	const struct timespec settling = { .tv_nsec = 20000000 };
	int left = 60000;

	shared->step = number;
	sem_post(&shared->go[actor]);
	while (sem_trywait(&shared->done[actor]) && --left) {
		if (uffd_read(actor))
			break;
		nanosleep(&pause, NULL);
	}
	if (!left) {
		printf("step %d: actor %d does not answer\n", number, actor);
		exit(1);
	}
	printf("step %d, actor %d: %s\n  -> %s\n", number, actor, text,
	       shared->result[actor]);
	/* An access that was woken goes on in the meantime. */
	nanosleep(&settling, NULL);
	show(number + 1);
}
"#;

pub(super) const LEAVE: &str = r#"
/* Has the actor exit, and waits until its memory is gone. */
static void leave(int number, int actor, const char *text)
{
	shared->step = number;
	sem_post(&shared->go[actor]);
	waitpid(shared->pid[actor], NULL, 0);
	shared->pid[actor] = 0;
	printf("step %d, actor %d: %s\n  -> ok\n", number, actor, text);
	show(number + 1);
}
"#;

pub(super) const MAIN: &str = r#"
int main(void)
{
	struct utsname kernel;
	volatile char *page;
	pid_t pid;

	uname(&kernel);
	printf("Linux %s\n", kernel.release);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || page == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	/* A page that was only read is the zero page. */
	zero_page = *page + FRAME(pagemap(getpid(), (unsigned long)page));
	for (int i = 0; i < ACTORS; i++) {
		sem_init(&shared->go[i], 1, 0);
		sem_init(&shared->done[i], 1, 0);
	}
	fflush(stdout);
	pid = fork();
	if (pid == 0)
		actor();
	shared->pid[0] = pid;
"#;

/// An actor that was forked last may not yet have asked to die with `main`.
pub(super) const END_OF_MAIN: &str = r#"
	for (int i = 0; i < ACTORS; i++)
		if (shared->pid[i])
			kill(shared->pid[i], SIGKILL);
	return 0;
}
"#;

/// Empties the per-CPU batches of pages, before and after each step.
pub(super) const DRAIN: &str = "
/*
 * MADV_COLD, MADV_FREE and munlock leave pages in a batch of this CPU, with
 * a reference that makes the kernel copy where it would reuse. Populating any
 * page drains the batches (mm/gup.c: faultin_page_range, lru_add_drain).
 */
static void drain(void)
{
\tstatic char page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

\tif (madvise(page, sizeof(page), MADV_POPULATE_READ))
\t\tperror(\"drain\");
}
";

/// Turns fault-around off while the file runs.
pub(super) const FAULT_AROUND: &str = r#"
/*
 * A load of shared memory maps its neighbours too, as far as they are there
 * (mm/memory.c: do_fault_around). The knob is the whole system's: it is put
 * back in the end.
 */
static char fault_around[32];

static void set_fault_around(const char *bytes)
{
	int knob = open("/sys/kernel/debug/fault_around_bytes", O_RDWR);

	/* It cannot seek. */
	if (knob < 0 ||
	    read(knob, fault_around, sizeof(fault_around) - 1) < 0 ||
	    dprintf(knob, "%s", bytes) < 0)
		perror("fault_around_bytes");
	if (knob >= 0)
		close(knob);
}

static void __attribute__((constructor)) narrow_faults(void)
{
	set_fault_around("4096");
}

static void __attribute__((destructor)) widen_faults(void)
{
	char before[sizeof(fault_around)];

	snprintf(before, sizeof(before), "%s", fault_around);
	if (*before)
		set_fault_around(before);
}
"#;

/// The table of open files is shared by all actors ([`FORK`] has CLONE_FILES then): each can use each descriptor.
pub(super) const UFFD: &str = r#"
/*
 * A descriptor acts on the memory of the actor that opened it. All structures
 * that these ioctls take begin with start, length and, if any, mode.
 */
static void __attribute__((unused)) uffd_call(int uffd, unsigned long number,
		int first, int count, unsigned long mode)
{
	unsigned long words[] = { PAGE(first), count * PAGE_SIZE, mode, 0 };

	called(ioctl(shared->uffd[uffd] - 1, number, words), 0);
}

/* A descriptor of the same name is closed first. */
static void __attribute__((unused)) uffd_open(int uffd,
					      unsigned long features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int file;

	if (shared->uffd[uffd])
		close(shared->uffd[uffd] - 1);
	shared->uffd[uffd] = 0;
	file = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (file >= 0 && ioctl(file, UFFDIO_API, &api)) {
		int error = errno;

		close(file);
		errno = error;
		file = -1;
	}
	shared->uffd[uffd] = file + 1;
	shared->owner[uffd] = me;
	called(file < 0 ? -1 : 0, 0);
}

static void __attribute__((unused)) uffd_close(int uffd)
{
	int file = shared->uffd[uffd] - 1;

	shared->uffd[uffd] = 0;
	called(close(file), 0);
}
"#;

pub(super) const UFFD_COPY: &str = r#"
/* Copies pages that begin with the value and, above it, their place. */
static void uffd_copy(int uffd, int first, int count, int mode,
		      unsigned long value)
{
	static char source[32][PAGE_SIZE]
		__attribute__((aligned(PAGE_SIZE)));
	struct uffdio_copy copy = {
		.dst = PAGE(first),
		.src = (unsigned long)source,
		.len = count * PAGE_SIZE,
		.mode = mode,
	};

	for (int i = 0; i < count; i++)
		*(unsigned long *)source[i] = value | (i + 1UL) << 48;
	called(ioctl(shared->uffd[uffd] - 1, UFFDIO_COPY, &copy), 0);
}
"#;

pub(super) const UFFD_READ: &str = r#"
/*
 * Reads the messages of an actor's descriptors. An access that waits has its
 * message as its result: then this is 1. A fork of memory registered with
 * EVENT_FORK waits until the event is read; the descriptor in it gets the
 * lowest name that is free.
 */
static int uffd_read(int actor)
{
	for (int i = 0; i < 4; i++) {
		struct uffd_msg message;
		int name = 0;

		if (!shared->uffd[i] || shared->owner[i] != actor ||
		    read(shared->uffd[i] - 1, &message, sizeof(message)) !=
		    sizeof(message))
			continue;
		if (message.event == UFFD_EVENT_PAGEFAULT) {
			snprintf(shared->result[actor],
				 sizeof(shared->result[actor]),
				 "waits, flags 0x%llx, address 0x%llx",
				 message.arg.pagefault.flags,
				 message.arg.pagefault.address);
			return 1;
		}
		while (name < 4 && shared->uffd[name])
			name++;
		if (name < 4) {
			shared->uffd[name] = message.arg.fork.ufd + 1;
			shared->owner[name] = shared->child;
		}
	}
	return 0;
}

/* Prints what has become of the actor's access that waited. */
static void __attribute__((unused)) finish(int number, int actor,
					   const char *text)
{
	const struct timespec pause = { .tv_nsec = 10000000 };

	nanosleep(&pause, NULL);
	if (sem_trywait(&shared->done[actor]))
		uffd_read(actor);
	printf("step %d, actor %d: %s\n  -> %s\n", number, actor, text,
	       shared->result[actor]);
	show(number + 1);
}
"#;
