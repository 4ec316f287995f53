//! Pieces of C for programs whose actors may run on a shadow stack of the arena, or without any: they call no
//! function, for a CALL would leave its return address there. They take the place of those of the same name in
//! [`super::pieces`].

pub(super) const SHARED: &str = r#"
/*
 * An actor may run on a shadow stack that its program mapped, where each call
 * would leave a return address. So nothing is called there: all is inlined,
 * and system calls are instructions.
 */
#define INLINE static inline __attribute__((always_inline))

/* What the actors and main() share. */
static struct {
	int go[ACTORS], done;	/* futexes: 0, or 1 for "go on" */
	int step;
	pid_t pid[ACTORS];	/* 0: not alive */
	const char *text;	/* the result of the last step, for printf */
	unsigned long values[4];
} *shared;

/* Which actor this process is. */
static int me;

INLINE long raw(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10),
			   "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

INLINE void await(int *word)
{
	while (!__atomic_exchange_n(word, 0, __ATOMIC_SEQ_CST))
		raw(SYS_futex, (long)word, FUTEX_WAIT, 0, 0, 0, 0);
}

INLINE void post(int *word)
{
	__atomic_store_n(word, 1, __ATOMIC_SEQ_CST);
	raw(SYS_futex, (long)word, FUTEX_WAKE, 1, 0, 0, 0);
}

INLINE void note(const char *text, unsigned long value)
{
	shared->text = text;
	shared->values[0] = value;
}

/* Notes what a system call returned; success is this value. */
INLINE void called(long value, unsigned long success)
{
	if (value < 0 && value >= -4095)
		note("errno %lu", -value);
	else if ((unsigned long)value == success)
		note("ok", 0);
	else
		note("elsewhere, at 0x%lx", value);
}
"#;

pub(super) const ACCESSED: &str = r#"
/*
 * Notes the fault of an access, or this text where there was none. The
 * address of an undefined instruction (6) is its own, and not shown.
 */
INLINE void accessed(const char *text, unsigned long value)
{
	note(text, value);
	if (fault.signal) {
		shared->text = "signal %lu, si_code %ld, address 0x%lx, "
			       "error code 0x%lx";
		shared->values[0] = fault.signal;
		shared->values[1] = fault.code;
		shared->values[2] = fault.trap == 6 ? 0 : fault.address;
		shared->values[3] = fault.error_code;
	}
	fault.signal = 0;
}
"#;

pub(super) const LOAD: &str = r#"
/* Where each RET of return_from() goes to. */
extern const char return_site[];

INLINE void load(unsigned long address)
{
	unsigned long value;

	__asm__ volatile("lea 1f(%%rip), %%r15\n\t"
			 "mov (%1), %0\n"
			 "1:"
			 : "=&r"(value) : "r"(address) : "r15", "memory");
	if (value == (unsigned long)return_site)
		value = RETURN_SITE;
	accessed("loaded 0x%lx", value);
}
"#;

pub(super) const FORK: &str = r#"
/* CLONE_PARENT: main() is every actor's parent, and can wait for each. */
INLINE void fork_actor(int child)
{
	long pid = raw(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0, 0);

	if (pid == 0) {
		me = child;
		raw(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0, 0);
		return;
	}
	called(pid > 0 ? 0 : pid, 0);
	if (pid > 0)
		shared->pid[child] = pid;
}
"#;

pub(super) const CLEAR_SOFT_DIRTY: &str = r#"
INLINE void clear_soft_dirty(void)
{
	long file = raw(SYS_open, (long)"/proc/self/clear_refs", O_WRONLY, 0,
			0, 0, 0);

	called(raw(SYS_write, file, (long)"4", 1, 0, 0, 0), 1);
	raw(SYS_close, file, 0, 0, 0, 0, 0);
}
"#;

pub(super) const DRAIN: &str = r#"
/*
 * MADV_COLD, MADV_FREE, munlock and sigreturn on a shadow stack leave pages
 * in a batch of this CPU, with a reference that makes the kernel copy where it
 * would reuse. Populating any page drains the batches (mm/gup.c:
 * faultin_page_range, lru_add_drain).
 */
INLINE void drain(void)
{
	static char page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

	raw(SYS_madvise, (long)page, sizeof(page), MADV_POPULATE_READ,
	    0, 0, 0);
}
"#;

pub(super) const LIVE: &str = r#"
/* Where calls and returns come together; rbx: how many are left to do. */
__asm__(".text\n"
	"calls:\n\t"
	"test %rbx, %rbx\n\t"
	"jz 2f\n\t"
	"call 1f\n"
	"return_site:\n\t"
	"dec %rbx\n\t"
	"jmp returns\n"
	"1:\n\t"
	"add $8, %rsp\n\t"
	"dec %rbx\n\t"
	"jmp calls\n"
	"2:\n\t"
	"jmp *%r15\n"
	"returns:\n\t"
	"test %rbx, %rbx\n\t"
	"jz 2b\n\t"
	"lea return_site(%rip), %rax\n\t"
	"push %rax\n\t"
	"ret\n");

/* SSP on the shadow stack outside the pages, to which leave_stack() moves. */
static unsigned long home;

/* SSP where it lies in the pages, else 0. */
INLINE unsigned long live(void)
{
	unsigned long ssp = 0;

	__asm__ volatile("rdsspq %0" : "+r"(ssp));
	return ssp - PAGE(0) > 32 * PAGE_SIZE ? 0 : ssp;
}

/* RSTORSSP on the token there, then SAVEPREVSSP. */
INLINE void enter_stack(unsigned long token)
{
	unsigned long ssp = 0;

	__asm__ volatile("rdsspq %0" : "+r"(ssp));
	if (ssp && ssp == home - 8) {
		/* leave_stack() was refused between its instructions. */
		__asm__ volatile("incsspq %0" : : "r"(1UL));
		ssp = home;
	}
	if (!live())
		home = ssp;
	__asm__ volatile("lea 1f(%%rip), %%r15\n\t"
			 "rstorssp (%0)\n\t"
			 "saveprevssp\n"
			 "1:"
			 : : "r"(token) : "r15", "memory", "cc");
	accessed("loaded 0x%lx", live());
}

INLINE void leave_stack(void)
{
	if (live())
		__asm__ volatile("lea 1f(%%rip), %%r15\n\t"
				 "rstorssp -8(%0)\n\t"
				 "saveprevssp\n"
				 "1:"
				 : : "r"(home) : "r15", "memory", "cc");
	accessed("loaded 0x%lx", live());
}

/* Below the red zone of this function, which has none of its own to spare. */
#define ON_THE_STACK(where)					\
	__asm__ volatile("mov %%rsp, %%r13\n\t"			\
			 "lea -256(%%rsp), %%rsp\n\t"		\
			 "lea 1f(%%rip), %%r15\n\t"		\
			 "jmp " where "\n"			\
			 "1:\n\t"				\
			 "mov %%r13, %%rsp"			\
			 : "+b"(frames)				\
			 : : "rax", "r13", "r15", "memory", "cc")

INLINE void call(unsigned long frames)
{
	if (live())
		ON_THE_STACK("calls");
	accessed("loaded 0x%lx", live());
}

INLINE void return_from(unsigned long frames)
{
	if (live())
		ON_THE_STACK("returns");
	accessed("loaded 0x%lx", live());
}

INLINE void discard(unsigned long frames)
{
	while (live() && frames && !fault.signal) {
		unsigned long count = frames < 255 ? frames : 255;

		__asm__ volatile("lea 1f(%%rip), %%r15\n\t"
				 "incsspq %0\n"
				 "1:"
				 : : "r"(count) : "r15", "memory");
		frames -= count;
	}
	accessed("loaded 0x%lx", live());
}

INLINE void overwrite_return(unsigned long value)
{
	unsigned long ssp = live();

	if (ssp)
		__asm__ volatile("lea 1f(%%rip), %%r15\n\t"
				 "wrssq %1, (%0)\n"
				 "1:"
				 : : "r"(ssp), "r"(value) : "r15", "memory");
	accessed(ssp ? "stored" : "loaded 0x%lx", 0);
}
"#;

pub(super) const STATUS: &str = r#"
/* 0x5005: ARCH_SHSTK_STATUS */
INLINE void shadow_stack_status(void)
{
	unsigned long on = 0;
	long result = raw(SYS_arch_prctl, 0x5005, (long)&on, 0, 0, 0, 0);

	if (result)
		called(result, 0);
	else
		note("loaded 0x%lx", on);
}
"#;

/// The C library's names, for the steps; up to [`END_OF_NAMES`].
pub(super) const NAMES: &str = r#"
#define mmap(a, b, c, d, e, f) raw(SYS_mmap, (long)(a), b, c, d, e, f)
#define munmap(a, b) raw(SYS_munmap, (long)(a), b, 0, 0, 0, 0)
#define mprotect(a, b, c) raw(SYS_mprotect, (long)(a), b, c, 0, 0, 0)
#define madvise(a, b, c) raw(SYS_madvise, (long)(a), b, c, 0, 0, 0)
#define mlock(a, b) raw(SYS_mlock, (long)(a), b, 0, 0, 0, 0)
#define munlock(a, b) raw(SYS_munlock, (long)(a), b, 0, 0, 0, 0)
#define syscall(n, a, b, c) raw(n, (long)(a), (long)(b), c, 0, 0, 0)
"#;

pub(super) const END_OF_NAMES: &str = "
#undef mmap
#undef munmap
#undef mprotect
#undef madvise
#undef mlock
#undef munlock
#undef syscall
";

/// The features that every actor starts with, on a machine that has them.
pub(super) const ENABLE_IF_THERE: &str = r#"	/*
	 * 0x5001: ARCH_SHSTK_ENABLE; 1: ARCH_SHSTK_SHSTK; 2: ARCH_SHSTK_WRSS.
	 * Where there are none, the program shows what is refused.
	 */
	raw(SYS_arch_prctl, 0x5001, 1, 0, 0, 0, 0);
	raw(SYS_arch_prctl, 0x5001, 2, 0, 0, 0, 0);
"#;

pub(super) const ENABLE: &str = r#"	/*
	 * 0x5001: ARCH_SHSTK_ENABLE; 1: ARCH_SHSTK_SHSTK; 2: ARCH_SHSTK_WRSS.
	 * This function never returns: its shadow stack may begin empty.
	 */
	if (raw(SYS_arch_prctl, 0x5001, 1, 0, 0, 0, 0) ||
	    raw(SYS_arch_prctl, 0x5001, 2, 0, 0, 0, 0)) {
		puts("no user shadow stacks here");
		fflush(stdout);
		_exit(1);
	}
"#;

pub(super) const LOOP: &str = r#"	for (;;) {
		int who = me;

		await(&shared->go[me]);
		perform(shared->step);
		if (who == me)	/* else: just forked, and nothing to tell */
			post(&shared->done);
	}
}
"#;

pub(super) const STEP: &str = r#"
/* Has the actor perform the step, and prints what came of it. */
static void step(int number, int actor, const char *text)
{
	struct timespec wait = { 0, 10000000 };
	int rounds = 0, status;

	shared->step = number;
	note("dead", 0);
	if (shared->pid[actor])
		post(&shared->go[actor]);
	while (shared->pid[actor] &&
	       !__atomic_exchange_n(&shared->done, 0, __ATOMIC_SEQ_CST)) {
		if (waitpid(shared->pid[actor], &status, WNOHANG) > 0) {
			shared->pid[actor] = 0;
			if (WIFSIGNALED(status))
				note("killed by signal %lu", WTERMSIG(status));
			else
				note("ok", 0);
		} else if (++rounds > 6000) {
			printf("step %d: actor %d does not answer\n", number,
			       actor);
			exit(1);
		}
		raw(SYS_futex, (long)&shared->done, FUTEX_WAIT, 0, (long)&wait,
		    0, 0);
	}
	printf("step %d, actor %d: %s\n  -> ", number, actor, text);
	printf(shared->text, shared->values[0], shared->values[1],
	       shared->values[2], shared->values[3]);
	printf("\n");
	show(number + 1);
}
"#;

/// In place of what [`super::pieces::MAIN`] does with semaphores.
pub(super) const SEMAPHORES: &str = r#"	for (int i = 0; i < ACTORS; i++) {
		sem_init(&shared->go[i], 1, 0);
		sem_init(&shared->done[i], 1, 0);
	}
"#;
