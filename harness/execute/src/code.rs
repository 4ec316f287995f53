//! The actor's code: one page of position-independent assembly, copied to [`CODE_BASE`].
//!
//! `r15` holds the address of the process's slot throughout. There is no call but the kernel's to the
//! signal handler, and nothing is pushed, so that neither the stack nor the shadow stack is touched unless
//! an access faults.
//!
//! An access that faults: the kernel calls `handler` (SA_SIGINFO), which copies signal, code, address,
//! vector, error code and RIP into the slot and moves RIP to `answer`. It returns by the ordinary
//! `rt_sigreturn`, so a live shadow stack is unwound as the kernel wants it.

use std::arch::global_asm;
use std::mem::offset_of;

use crate::area::CODE_BASE;
use crate::command::kind;
use crate::mailbox::{Answer, Command, Slot, turn};

/// `clone` flags of every fork: the child is the harness's child too, which can then reap it; it shares
/// descriptors and file-system state with its parent, which makes fork and exit cheaper and has no
/// effect on memory.
const FORK_FLAGS: i32 = libc::CLONE_PARENT | libc::CLONE_FS | libc::CLONE_FILES | libc::SIGCHLD;

/// Offset of a general register in `ucontext_t`.
const fn saved_register(index: i32) -> usize {
    offset_of!(libc::ucontext_t, uc_mcontext) + offset_of!(libc::mcontext_t, gregs) + index as usize * 8
}

/// Offset of `si_addr` in `siginfo_t`: the union after signo, errno, code and padding.
const SIGNAL_ADDRESS: usize = 16;

/// Offset of `si_pkey` in `siginfo_t` (uapi/asm-generic/siginfo.h): behind `si_addr` and eight bytes of padding.
const SIGNAL_KEY: usize = 32;

/// Descriptor of the eventfd through which the kernel is made to access a page; see [`crate::nursery`].
pub(crate) const EVENT_DESCRIPTOR: i32 = 0;

global_asm!(
    ".pushsection .text.ptediff_actor, \"ax\", @progbits",
    ".balign 64",
    ".globl ptediff_actor_begin",
    ".hidden ptediff_actor_begin",
    "ptediff_actor_begin:",
    // Publishes the answer. Also the way in: a new process answers "I am here".
    "20:",
    "mov eax, {answered}",
    "xchg dword ptr [r15 + {turn}], eax",
    "cmp eax, {awaited}",
    "jne 21f",
    "lea rdi, [r15 + {turn}]",
    "mov esi, {futex_wake}",
    "mov edx, 1",
    "mov eax, {sys_futex}",
    "syscall",
    // Waits for a command.
    "21:",
    "cmp dword ptr [r15 + {turn}], {answered}",
    "jne 22f",
    "lea rdi, [r15 + {turn}]",
    "mov esi, {futex_wait}",
    "mov edx, {answered}",
    "xor r10d, r10d",
    "mov eax, {sys_futex}",
    "syscall",
    "jmp 21b",
    "22:",
    "mov rax, qword ptr [r15 + {kind}]",
    "mov rdi, qword ptr [r15 + {words}]",
    "mov rsi, qword ptr [r15 + {words} + 8]",
    "cmp eax, {kind_system_call}",
    "je 30f",
    "cmp eax, {kind_load}",
    "je 31f",
    "cmp eax, {kind_store}",
    "je 32f",
    "cmp eax, {kind_shadow_stack_store}",
    "je 33f",
    "cmp eax, {kind_execute}",
    "je 34f",
    "cmp eax, {kind_fork}",
    "je 36f",
    "cmp eax, {kind_clear_soft_dirty}",
    "je 38f",
    "cmp eax, {kind_switch_shadow_stack}",
    "je 40f",
    "cmp eax, {kind_write_pkru}",
    "je 42f",
    "cmp eax, {kind_load_by_system_call}",
    "je 43f",
    "cmp eax, {kind_store_by_system_call}",
    "je 45f",
    "ud2",
    // System call: number and six arguments.
    "30:",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, qword ptr [r15 + {words} + 16]",
    "mov rdx, qword ptr [r15 + {words} + 24]",
    "mov r10, qword ptr [r15 + {words} + 32]",
    "mov r8, qword ptr [r15 + {words} + 40]",
    "mov r9, qword ptr [r15 + {words} + 48]",
    "syscall",
    "mov qword ptr [r15 + {value}], rax",
    "jmp 20b",
    // The accesses: one instruction each.
    "31:",
    ".globl ptediff_actor_load",
    ".hidden ptediff_actor_load",
    "ptediff_actor_load:",
    "mov rax, qword ptr [rdi]",
    "mov qword ptr [r15 + {value}], rax",
    "jmp 20b",
    "32:",
    ".globl ptediff_actor_store",
    ".hidden ptediff_actor_store",
    "ptediff_actor_store:",
    "mov qword ptr [rdi], rsi",
    "jmp 20b",
    "33:",
    ".globl ptediff_actor_shadow_stack_store",
    ".hidden ptediff_actor_shadow_stack_store",
    "ptediff_actor_shadow_stack_store:",
    "wrssq qword ptr [rdi], rsi",
    "jmp 20b",
    // Execute: a page that a program stored to starts with `jmp rcx`; one of zeroes with
    // `add [rax], al`, which faults at address 0.
    "34:",
    "xor eax, eax",
    "lea rcx, [rip + 35f]",
    "jmp rdi",
    "35:",
    "mov qword ptr [r15 + {stage}], 1",
    "jmp 20b",
    // Fork: words are the child's slot and the top of its stack.
    "36:",
    "mov r12, rdi",
    "mov edi, {fork_flags}",
    "xor edx, edx",
    "xor r10d, r10d",
    "xor r8d, r8d",
    "mov eax, {sys_clone}",
    "syscall",
    "test rax, rax",
    "jz 37f",
    "mov qword ptr [r15 + {value}], rax",
    "jmp 20b",
    // The child: it dies with the harness (fork clears what its parent had asked for).
    "37:",
    "mov r15, r12",
    "mov edi, {pr_set_pdeathsig}",
    "mov esi, {sigkill}",
    "mov eax, {sys_prctl}",
    "syscall",
    "mov qword ptr [r15 + {value}], rax",
    "jmp 20b",
    // clear_refs: opened each time, for a descriptor stands for the memory of who opened it.
    "38:",
    "lea rdi, [rip + 50f]",
    "mov esi, {open_flags}",
    "xor edx, edx",
    "mov eax, {sys_open}",
    "syscall",
    "mov qword ptr [r15 + {value}], rax",
    "test rax, rax",
    "js 20b",
    "mov qword ptr [r15 + {stage}], 1",
    "mov r12, rax",
    "mov edi, eax",
    "lea rsi, [rip + 51f]",
    "mov edx, 1",
    "mov eax, {sys_write}",
    "syscall",
    "mov qword ptr [r15 + {value}], rax",
    "mov edi, r12d",
    "mov eax, {sys_close}",
    "syscall",
    "jmp 20b",
    // Moves to the shadow stack whose restore token lies at the address (0: stays), and says where it stands.
    "40:",
    "test rdi, rdi",
    "jz 41f",
    "rstorssp [rdi]",
    "41:",
    "xor eax, eax",
    "rdsspq rax",
    "mov qword ptr [r15 + {value}], rax",
    "jmp 20b",
    // RDPKRU and WRPKRU: words are the bits of PKRU that stay and those that are set. Both want ecx 0, the
    // latter edx 0 too. Nothing here is refused by PKRU: all pages but the arena's have key 0.
    "42:",
    "xor ecx, ecx",
    "rdpkru",
    "mov qword ptr [r15 + {value}], rax",
    "and eax, edi",
    "or eax, esi",
    "xor edx, edx",
    "wrpkru",
    "jmp 20b",
    // The kernel reads the page: it adds what stands there to the eventfd's count, which is then taken. A count of
    // 0 cannot be taken (EAGAIN).
    "43:",
    "mov rsi, rdi",
    "mov edi, {event_descriptor}",
    "mov edx, 8",
    "mov eax, {sys_write}",
    "syscall",
    "mov qword ptr [r15 + {value}], rax",
    "cmp rax, 8",
    "jne 20b",
    "mov qword ptr [r15 + {value}], 0",
    "mov edi, {event_descriptor}",
    "lea rsi, [r15 + {value}]",
    "mov edx, 8",
    "mov eax, {sys_read}",
    "syscall",
    "cmp rax, 8",
    "je 44f",
    "cmp rax, -{would_block}",
    "jne 20b",
    "44:",
    "mov qword ptr [r15 + {stage}], 1",
    "jmp 20b",
    // The kernel writes the page: it puts there the count that it was given before. A failure takes the count too.
    "45:",
    "mov edi, {event_descriptor}",
    "lea rsi, [r15 + {words} + 8]",
    "mov edx, 8",
    "mov eax, {sys_write}",
    "syscall",
    "mov qword ptr [r15 + {value}], rax",
    "cmp rax, 8",
    "jne 20b",
    "mov qword ptr [r15 + {stage}], 1",
    "mov edi, {event_descriptor}",
    "mov rsi, qword ptr [r15 + {words}]",
    "mov edx, 8",
    "mov eax, {sys_read}",
    "syscall",
    "mov qword ptr [r15 + {value}], rax",
    "jmp 20b",
    // The signal handler: rdi = signal, rsi = siginfo, rdx = ucontext.
    ".globl ptediff_actor_handler",
    ".hidden ptediff_actor_handler",
    "ptediff_actor_handler:",
    "mov r8, qword ptr [rdx + {saved_r15}]",
    "mov qword ptr [r8 + {signal}], rdi",
    "mov eax, dword ptr [rsi + 8]",
    "mov qword ptr [r8 + {code}], rax",
    "mov rax, qword ptr [rsi + {signal_address}]",
    "mov qword ptr [r8 + {address}], rax",
    "mov eax, dword ptr [rsi + {signal_key}]",
    "mov qword ptr [r8 + {key}], rax",
    "mov rax, qword ptr [rdx + {saved_trapno}]",
    "mov qword ptr [r8 + {trap}], rax",
    "mov rax, qword ptr [rdx + {saved_err}]",
    "mov qword ptr [r8 + {error_code}], rax",
    "mov rax, qword ptr [rdx + {saved_rip}]",
    "mov qword ptr [r8 + {instruction}], rax",
    "lea rax, [rip + 20b]",
    "mov qword ptr [rdx + {saved_rip}], rax",
    "ret",
    ".globl ptediff_actor_restorer",
    ".hidden ptediff_actor_restorer",
    "ptediff_actor_restorer:",
    "mov eax, {sys_rt_sigreturn}",
    "syscall",
    "ud2",
    "50: .asciz \"/proc/self/clear_refs\"",
    "51: .ascii \"4\"",
    ".globl ptediff_actor_end",
    ".hidden ptediff_actor_end",
    "ptediff_actor_end:",
    ".popsection",
    answered = const turn::ANSWERED,
    awaited = const turn::AWAITED,
    turn = const offset_of!(Slot, turn),
    kind = const offset_of!(Slot, command) + offset_of!(Command, kind),
    words = const offset_of!(Slot, command) + offset_of!(Command, words),
    value = const offset_of!(Slot, answer) + offset_of!(Answer, value),
    stage = const offset_of!(Slot, answer) + offset_of!(Answer, stage),
    signal = const offset_of!(Slot, answer) + offset_of!(Answer, signal),
    code = const offset_of!(Slot, answer) + offset_of!(Answer, code),
    address = const offset_of!(Slot, answer) + offset_of!(Answer, address),
    trap = const offset_of!(Slot, answer) + offset_of!(Answer, trap),
    error_code = const offset_of!(Slot, answer) + offset_of!(Answer, error_code),
    instruction = const offset_of!(Slot, answer) + offset_of!(Answer, instruction),
    key = const offset_of!(Slot, answer) + offset_of!(Answer, key),
    kind_system_call = const kind::SYSTEM_CALL,
    kind_load = const kind::LOAD,
    kind_store = const kind::STORE,
    kind_shadow_stack_store = const kind::SHADOW_STACK_STORE,
    kind_execute = const kind::EXECUTE,
    kind_fork = const kind::FORK,
    kind_clear_soft_dirty = const kind::CLEAR_SOFT_DIRTY,
    kind_switch_shadow_stack = const kind::SWITCH_SHADOW_STACK,
    kind_write_pkru = const kind::WRITE_PKRU,
    kind_load_by_system_call = const kind::LOAD_BY_SYSTEM_CALL,
    kind_store_by_system_call = const kind::STORE_BY_SYSTEM_CALL,
    event_descriptor = const EVENT_DESCRIPTOR,
    would_block = const libc::EAGAIN,
    fork_flags = const FORK_FLAGS,
    open_flags = const libc::O_WRONLY | libc::O_CLOEXEC,
    futex_wake = const libc::FUTEX_WAKE,
    futex_wait = const libc::FUTEX_WAIT,
    pr_set_pdeathsig = const libc::PR_SET_PDEATHSIG,
    sigkill = const libc::SIGKILL,
    sys_futex = const libc::SYS_futex,
    sys_clone = const libc::SYS_clone,
    sys_prctl = const libc::SYS_prctl,
    sys_open = const libc::SYS_open,
    sys_write = const libc::SYS_write,
    sys_read = const libc::SYS_read,
    sys_close = const libc::SYS_close,
    sys_rt_sigreturn = const libc::SYS_rt_sigreturn,
    saved_r15 = const saved_register(libc::REG_R15),
    saved_rip = const saved_register(libc::REG_RIP),
    saved_err = const saved_register(libc::REG_ERR),
    saved_trapno = const saved_register(libc::REG_TRAPNO),
    signal_address = const SIGNAL_ADDRESS,
    signal_key = const SIGNAL_KEY,
);

unsafe extern "C" {
    static ptediff_actor_begin: u8;
    static ptediff_actor_load: u8;
    static ptediff_actor_store: u8;
    static ptediff_actor_shadow_stack_store: u8;
    static ptediff_actor_handler: u8;
    static ptediff_actor_restorer: u8;
    static ptediff_actor_end: u8;
}

/// Addresses, in an actor, of the instructions that others must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sites {
    /// The load of a `Read`.
    pub(crate) load: u64,
    /// The store of a `Write`.
    pub(crate) store: u64,
    /// The WRSSQ of a `WriteShadowStack`.
    pub(crate) shadow_stack_store: u64,
    /// The signal handler.
    pub(crate) handler: u64,
    /// Where the handler returns to.
    pub(crate) restorer: u64,
}

impl Sites {
    /// The addresses in the copy at [`CODE_BASE`].
    pub(crate) fn get() -> Self {
        let begin = &raw const ptediff_actor_begin as u64;
        let site = |symbol: *const u8| CODE_BASE + (symbol as u64 - begin);
        Self {
            load: site(&raw const ptediff_actor_load),
            store: site(&raw const ptediff_actor_store),
            shadow_stack_store: site(&raw const ptediff_actor_shadow_stack_store),
            handler: site(&raw const ptediff_actor_handler),
            restorer: site(&raw const ptediff_actor_restorer),
        }
    }
}

/// The code, as it lies in the executable.
pub(crate) fn code() -> &'static [u8] {
    let begin = &raw const ptediff_actor_begin;
    let length = (&raw const ptediff_actor_end as usize) - begin as usize;
    // SAFETY: both symbols delimit one section of the running executable, which is readable and never freed.
    unsafe { std::slice::from_raw_parts(begin, length) }
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::arena::PAGE_SIZE;
    use ptediff_reference_model::program::store_value;

    use super::*;

    /// Bytes of the code from a site on.
    fn at(site: u64, length: usize) -> &'static [u8] {
        let offset = (site - CODE_BASE) as usize;
        &code()[offset..offset + length]
    }

    #[test]
    fn code_fits_its_page_and_needs_no_relocation() {
        assert!(code().len() as u64 <= PAGE_SIZE, "{} bytes", code().len());
        let image = String::from_utf8_lossy(code()).into_owned();
        assert!(image.contains("/proc/self/clear_refs\0"));
    }

    #[test]
    fn accesses_are_single_instructions_at_their_sites() {
        let sites = Sites::get();
        assert_eq!(at(sites.load, 3), [0x48, 0x8b, 0x07], "mov rax, [rdi]");
        assert_eq!(at(sites.store, 3), [0x48, 0x89, 0x37], "mov [rdi], rsi");
        assert_eq!(at(sites.shadow_stack_store, 5), [0x48, 0x0f, 0x38, 0xf6, 0x37], "wrssq [rdi], rsi");
    }

    #[test]
    fn stored_values_start_with_the_jump_that_execute_relies_on() {
        for index in [0, 1, 255] {
            assert_eq!(store_value(index).to_le_bytes()[..2], [0xff, 0xe1], "jmp rcx");
        }
    }
}
