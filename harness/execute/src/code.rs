//! The actor's code: one page of position-independent assembly, copied to [`CODE_BASE`].
//!
//! `r15` holds the address of the process's slot throughout, `r14` the SSP to come back to from a shadow stack
//! of the arena. There is no call but the kernel's to the signal handler and those of the `Call` operation, so
//! that neither the stack nor the shadow stack is touched unless that is what a step is for, or an access
//! faults.
//!
//! An access that faults: the kernel calls `handler` (SA_SIGINFO), which copies signal, code, address,
//! vector, error code and RIP into the slot and moves RIP to `answer`. It returns by the ordinary
//! `rt_sigreturn`, so a live shadow stack is unwound as the kernel wants it.

use std::arch::global_asm;
use std::mem::offset_of;

use ptediff_reference_model::arena::{ARENA_BASE, ARENA_END, RESTORER_SITE, RETURN_SITE};

use crate::area::{CODE_BASE, STACK_BYTES};
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
    "cmp eax, {kind_write_proc_mem}",
    "je 46f",
    "cmp eax, {kind_enter_shadow_stack}",
    "je 60f",
    "cmp eax, {kind_leave_shadow_stack}",
    "je 63f",
    "cmp eax, {kind_call}",
    "je 72f",
    "cmp eax, {kind_return}",
    "je 76f",
    "cmp eax, {kind_discard_frames}",
    "je 82f",
    "cmp eax, {kind_overwrite_return}",
    "je 84f",
    "cmp eax, {kind_go_home}",
    "je 85f",
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
    // /proc/self/mem: opened each time, as clear_refs.
    "46:",
    "lea rdi, [rip + 52f]",
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
    "lea rsi, [r15 + {words} + 8]",
    "mov edx, 8",
    "mov r10, qword ptr [r15 + {words}]",
    "mov eax, {sys_pwrite}",
    "syscall",
    "mov qword ptr [r15 + {value}], rax",
    "mov edi, r12d",
    "mov eax, {sys_close}",
    "syscall",
    "jmp 20b",
    // The operations on a live shadow stack. They are for one in the arena: with SSP elsewhere all but the
    // first answer 0 at once. What is done answers with SSP, or 0 outside the arena.
    //
    // Enter, by the restore token at rdi. Where SSP is one frame below r14, a move back was refused between
    // its two instructions: the rest of it is made up for.
    "60:",
    "xor eax, eax",
    "rdsspq rax",
    "lea rcx, [r14 - 8]",
    "cmp rax, rcx",
    "jne 61f",
    "mov ecx, 1",
    "incsspq rcx",
    "mov rax, r14",
    "61:",
    "movabs rdx, {arena}",
    "mov rcx, rax",
    "sub rcx, rdx",
    "cmp rcx, {arena_bytes}",
    "cmova r14, rax",
    ".globl ptediff_actor_enter",
    ".hidden ptediff_actor_enter",
    "ptediff_actor_enter:",
    "rstorssp [rdi]",
    ".globl ptediff_actor_enter_save",
    ".hidden ptediff_actor_enter_save",
    "ptediff_actor_enter_save:",
    "saveprevssp",
    "jmp 68f",
    // Leave.
    "63:",
    "xor eax, eax",
    "rdsspq rax",
    "movabs rdx, {arena}",
    "sub rax, rdx",
    "cmp rax, {arena_bytes}",
    "ja 69f",
    "rstorssp [r14 - 8]",
    ".globl ptediff_actor_leave_save",
    ".hidden ptediff_actor_leave_save",
    "ptediff_actor_leave_save:",
    "saveprevssp",
    "68:",
    "xor eax, eax",
    "rdsspq rax",
    "movabs rdx, {arena}",
    "mov rcx, rax",
    "sub rcx, rdx",
    "cmp rcx, {arena_bytes}",
    "ja 69f",
    "mov qword ptr [r15 + {value}], rax",
    "69:",
    "jmp 20b",
    // Call, rdi deep: what CALL pushes on the ordinary stack is dropped at once.
    "72:",
    "xor eax, eax",
    "rdsspq rax",
    "movabs rdx, {arena}",
    "sub rax, rdx",
    "cmp rax, {arena_bytes}",
    "ja 69b",
    "mov rbx, rdi",
    "73:",
    "test rbx, rbx",
    "jnz 75f",
    "jmp 68b",
    "74:",
    "add rsp, 8",
    "dec rbx",
    "jmp 73b",
    // Return from rdi calls. A RET that is refused leaves what was pushed for it: the next command starts
    // from the stack's top again.
    "76:",
    "xor eax, eax",
    "rdsspq rax",
    "movabs rdx, {arena}",
    "sub rax, rdx",
    "cmp rax, {arena_bytes}",
    "ja 69b",
    "mov rbx, rdi",
    "add rsp, {stack_bytes} - 1",
    "and rsp, -{stack_bytes}",
    "77:",
    "test rbx, rbx",
    "jz 68b",
    "lea rax, [rip + ptediff_actor_return_site]",
    "push rax",
    ".globl ptediff_actor_return",
    ".hidden ptediff_actor_return",
    "ptediff_actor_return:",
    "ret",
    "78:",
    "dec rbx",
    "jmp 77b",
    // Discard rdi frames.
    "82:",
    "xor eax, eax",
    "rdsspq rax",
    "movabs rdx, {arena}",
    "sub rax, rdx",
    "cmp rax, {arena_bytes}",
    "ja 69b",
    "mov rbx, rdi",
    "83:",
    "test rbx, rbx",
    "jz 68b",
    "mov ecx, 255",
    "cmp rbx, rcx",
    "cmovb rcx, rbx",
    ".globl ptediff_actor_discard",
    ".hidden ptediff_actor_discard",
    "ptediff_actor_discard:",
    "incsspq rcx",
    "sub rbx, rcx",
    "jmp 83b",
    // Overwrite the frame on top with rdi.
    "84:",
    "xor eax, eax",
    "rdsspq rax",
    "movabs rdx, {arena}",
    "mov rcx, rax",
    "sub rcx, rdx",
    "cmp rcx, {arena_bytes}",
    "ja 69b",
    ".globl ptediff_actor_overwrite",
    ".hidden ptediff_actor_overwrite",
    "ptediff_actor_overwrite:",
    "wrssq qword ptr [rax], rdi",
    "mov qword ptr [r15 + {stage}], 1",
    "jmp 20b",
    // Home, without a trace on the stack that is left.
    "85:",
    "xor eax, eax",
    "rdsspq rax",
    "movabs rdx, {arena}",
    "mov rcx, rax",
    "sub rcx, rdx",
    "cmp rcx, {arena_bytes}",
    "lea rcx, [r14 - 8]",
    "ja 86f",
    "rstorssp [rcx]",
    "mov rax, rcx",
    "86:",
    "cmp rax, rcx",
    "jne 20b",
    "mov ecx, 1",
    "incsspq rcx",
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
    "50: .asciz \"/proc/self/clear_refs\"",
    "51: .ascii \"4\"",
    "52: .asciz \"/proc/self/mem\"",
    // What ends up on shadow stacks lies at fixed places: the model knows the addresses.
    ".skip {return_offset} - 5 - (. - ptediff_actor_begin), 0xcc",
    "75:",
    ".globl ptediff_actor_call",
    ".hidden ptediff_actor_call",
    "ptediff_actor_call:",
    "call 74b",
    ".globl ptediff_actor_return_site",
    ".hidden ptediff_actor_return_site",
    "ptediff_actor_return_site:",
    "jmp 78b",
    ".skip {restorer_offset} - (. - ptediff_actor_begin), 0xcc",
    ".globl ptediff_actor_restorer",
    ".hidden ptediff_actor_restorer",
    "ptediff_actor_restorer:",
    "mov eax, {sys_rt_sigreturn}",
    "syscall",
    "ud2",
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
    kind_write_proc_mem = const kind::WRITE_PROC_MEM,
    event_descriptor = const EVENT_DESCRIPTOR,
    would_block = const libc::EAGAIN,
    kind_enter_shadow_stack = const kind::ENTER_SHADOW_STACK,
    kind_leave_shadow_stack = const kind::LEAVE_SHADOW_STACK,
    kind_call = const kind::CALL,
    kind_return = const kind::RETURN,
    kind_discard_frames = const kind::DISCARD_FRAMES,
    kind_overwrite_return = const kind::OVERWRITE_RETURN,
    kind_go_home = const kind::GO_HOME,
    arena = const ARENA_BASE,
    arena_bytes = const ARENA_END - ARENA_BASE,
    stack_bytes = const STACK_BYTES,
    return_offset = const RETURN_SITE - CODE_BASE,
    restorer_offset = const RESTORER_SITE - CODE_BASE,
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
    sys_pwrite = const libc::SYS_pwrite64,
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
    static ptediff_actor_enter: u8;
    static ptediff_actor_enter_save: u8;
    static ptediff_actor_leave_save: u8;
    static ptediff_actor_call: u8;
    static ptediff_actor_return: u8;
    static ptediff_actor_discard: u8;
    static ptediff_actor_overwrite: u8;
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
    /// RSTORSSP and SAVEPREVSSP of an `EnterShadowStack`.
    pub(crate) enter: [u64; 2],
    /// SAVEPREVSSP of a `LeaveShadowStack`.
    pub(crate) leave_save: u64,
    /// The CALL of a `Call`.
    pub(crate) call: u64,
    /// The RET of a `Return`.
    pub(crate) ret: u64,
    /// The INCSSPQ of a `DiscardFrames`.
    pub(crate) discard: u64,
    /// The WRSSQ of an `OverwriteReturn`.
    pub(crate) overwrite: u64,
    /// Where the handler lets an actor go on: it answers.
    pub(crate) answer: u64,
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
            enter: [site(&raw const ptediff_actor_enter), site(&raw const ptediff_actor_enter_save)],
            leave_save: site(&raw const ptediff_actor_leave_save),
            call: site(&raw const ptediff_actor_call),
            ret: site(&raw const ptediff_actor_return),
            discard: site(&raw const ptediff_actor_discard),
            overwrite: site(&raw const ptediff_actor_overwrite),
            answer: CODE_BASE,
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
        assert_eq!(at(sites.overwrite, 5), [0x48, 0x0f, 0x38, 0xf6, 0x38], "wrssq [rax], rdi");
        assert_eq!(at(sites.enter[0], 4), [0xf3, 0x0f, 0x01, 0x2f], "rstorssp [rdi]");
        assert_eq!(at(sites.enter[1], 4), [0xf3, 0x0f, 0x01, 0xea], "saveprevssp");
        assert_eq!(at(sites.leave_save, 4), [0xf3, 0x0f, 0x01, 0xea], "saveprevssp");
        assert_eq!(at(sites.discard, 5), [0xf3, 0x48, 0x0f, 0xae, 0xe9], "incsspq rcx");
        assert_eq!(at(sites.ret, 1), [0xc3], "ret");
    }

    #[test]
    fn what_ends_up_on_shadow_stacks_lies_where_the_model_says() {
        let sites = Sites::get();
        assert_eq!(sites.restorer, RESTORER_SITE);
        // A CALL to the instruction behind it would push nothing on the shadow stack.
        assert_eq!(sites.call + 5, RETURN_SITE);
        assert_eq!(at(sites.call, 1), [0xe8], "call");
        assert_ne!(at(sites.call + 1, 4), [0; 4], "displacement");
    }

    #[test]
    fn stored_values_start_with_the_jump_that_execute_relies_on() {
        for index in [0, 1, 255] {
            assert_eq!(store_value(index).to_le_bytes()[..2], [0xff, 0xe1], "jmp rcx");
        }
    }
}
