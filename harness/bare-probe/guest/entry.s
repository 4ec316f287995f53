# Entry, exceptions, and the accesses themselves. Intel syntax.
#
# An access is a jump to its code, in ring 0 by JMP, in ring 3 by IRETQ. It comes back by access_done (ring 0),
# by INT 0x20 (ring 3), or by an exception, which does not return to it: each way restores RSP and the saved registers.

.section .text.start, "ax"
.globl start
start:
    cld
    lea rsp, [stack_top]
    lgdt [gdt_pointer]
    mov ax, 0x10
    mov ss, ax
    xor eax, eax
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    lea rax, [1f]
    push 0x08
    push rax
    retfq
1:  # SSE, which the compiler uses: CR0.MP without EM and TS, CR4.OSFXSR and OSXMMEXCPT.
    mov rax, cr0
    and rax, ~0xc
    or rax, 2
    mov cr0, rax
    mov rax, cr4
    or rax, 0x600
    mov cr4, rax
    mov rdi, rsi
    call guest_main
2:  hlt
    jmp 2b

# fn enter_five_levels(pml5: u64): CR4.LA57 can be changed without paging only, and so outside 64-bit mode.
.text
.globl enter_five_levels
enter_five_levels:
    push rbx
    push 0x38
    lea rax, [1f]
    push rax
    retfq
.code32
1:  mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov eax, cr4
    or eax, 0x1000
    mov cr4, eax
    mov cr3, edi
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    push 0x08
    lea eax, [five_levels_on]
    push eax
    retf
.code64
five_levels_on:
    pop rbx
    ret

# fn enter_access(code, address, value, flags, user_stack) -> u64. A user_stack of 0 stands for ring 0.
# 0: it was made. Else bit 63, the vector from bit 32 up, the error code in the lower half.
.globl enter_access
enter_access:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [access_stack], rsp
    mov [access_flags], rcx
    mov dword ptr [access_active], 1
    test r8, r8
    jnz 1f
    # POPF is slow under emulators, and most accesses want the flags that there are.
    cmp rcx, 2
    je 2f
    push rcx
    popfq
2:  jmp rdi
1:  push 0x23
    push r8
    push rcx
    push 0x1b
    push rdi
    iretq

.globl access_done
access_done:
    xor eax, eax
access_out:
    mov dword ptr [access_active], 0
    mov rsp, [access_stack]
    cmp qword ptr [access_flags], 2
    je 1f
    push 2
    popfq
1:  pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

# INT 0x20 of ring 3: the access was made, RAX is what it read.
.globl gate_from_user
gate_from_user:
    mov [access_value], rax
    jmp access_done

# Ring 0: RSI is the address, RDX the value.
.globl supervisor_read
supervisor_read:
    mov rax, [rsi]
    mov [access_value], rax
    jmp access_done
.globl supervisor_write
supervisor_write:
    mov [rsi], rdx
    jmp access_done
.globl supervisor_fetch
supervisor_fetch:
    call rsi
    jmp access_done
# WRSS at CPL 0 needs S_CET, and a shadow stack for the fault that may come: it is on for this instruction alone.
.globl supervisor_shadow_write
supervisor_shadow_write:
    mov rbx, rdx
    mov dword ptr [shadow_stack_on], 1
    mov ecx, 0x6a2
    mov eax, 3
    xor edx, edx
    wrmsr
    setssbsy
    wrssq [rsi], rbx
    xor eax, eax
    wrmsr
    mov dword ptr [shadow_stack_on], 0
    jmp access_done
.globl supervisor_user_shadow_write
supervisor_user_shadow_write:
    wrussq [rsi], rdx
    jmp access_done

# RSI is the register, RDX the value.
.globl supervisor_write_msr
supervisor_write_msr:
    mov ecx, esi
    mov eax, edx
    shr rdx, 32
    wrmsr
    jmp access_done
.globl supervisor_breakpoint
supervisor_breakpoint:
    int3
    jmp access_done

# One for each exception, 16 bytes apart: pushes an error code if the processor pushes none, and the vector.
.balign 16
.globl exceptions
exceptions:
.set vector, 0
.rept 32
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    .byte 0x6a, 0
    .endif
    .byte 0x6a, vector
    jmp exception
    .set vector, vector + 1
.endr

exception:
    cmp dword ptr [shadow_stack_on], 0
    je 1f
    mov ecx, 0x6a2
    xor eax, eax
    xor edx, edx
    wrmsr
    mov dword ptr [shadow_stack_on], 0
1:  pop rcx
    pop rax
    mov rdx, [rsp]
    mov [exception_rip], rdx
    mov rdx, cr2
    mov [exception_address], rdx
    cmp qword ptr [exception_watch], 0
    jne 3f
2:  cmp dword ptr [access_active], 0
    je stray
    shl rcx, 32
    or rax, rcx
    bts rax, 63
    jmp access_out
3:  # What IA32_PKRS holds when an exception has just been delivered.
    mov r8, rax
    mov r9, rcx
    mov ecx, 0x6e1
    rdmsr
    shl rdx, 32
    or rax, rdx
    mov [exception_pkrs], rax
    mov rax, r8
    mov rcx, r9
    jmp 2b

stray:
    lea rsp, [stack_top]
    mov rdi, rcx
    mov rsi, rax
    mov rdx, [exception_address]
    mov rcx, [exception_rip]
    call stray_exception
4:  hlt
    jmp 4b

# Ring 3, a page of its own.
.section .user, "ax"
.globl user_read
user_read:
    mov rax, [rsi]
    int 0x20
.globl user_write
user_write:
    mov [rsi], rdx
    int 0x20
.globl user_shadow_write
user_shadow_write:
    wrssq [rsi], rdx
    int 0x20
# The shadow-stack pointer is at the address.
.globl user_shadow_read
user_shadow_read:
    mov eax, 1
    incsspq rax
    int 0x20

.data
.balign 16
.globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 0x08: 64-bit code
    .quad 0x00cf93000000ffff    # 0x10: data
    .quad 0x00affb000000ffff    # 0x1b: user 64-bit code
    .quad 0x00cff3000000ffff    # 0x23: user data
    .quad 0                     # 0x28: the TSS, filled in
    .quad 0
    .quad 0x00cf9b000000ffff    # 0x38: 32-bit code
gdt_pointer:
    .word . - gdt - 1
    .quad gdt

.bss
.balign 16
    .skip 65536
stack_top:
.globl access_stack, access_active, access_value, shadow_stack_on
access_stack: .skip 8
access_flags: .skip 8
access_active: .skip 8
access_value: .skip 8
shadow_stack_on: .skip 8
.globl exception_rip, exception_address, exception_watch, exception_pkrs
exception_rip: .skip 8
exception_address: .skip 8
exception_watch: .skip 8
exception_pkrs: .skip 8
