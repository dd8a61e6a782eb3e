// SPDX-License-Identifier: Apache-2.0
//
// From the PVH entry (32-bit, paging off, %ebx = hvm_start_info) to probe_main() in ring 3, 64-bit,
// in as few instructions as possible: on a KVM whose back end emulates ring 0, each of them costs about
// a microsecond. Tables are laid out by the assembler and the linker, so nothing is computed here.
// The IDT is empty until a test sets a gate: a fault in ring 3 is a triple fault, and ends the VM as one. Nothing
// interrupts but what a test arms.

#define POWER_OFF_PORT 0x600
#define POWER_OFF_VALUE 0x34

#define CODE32 0x08
#define CODE64 0x10
#define USER_DATA 0x1b
#define USER_CODE 0x23
#define TASK 0x28

        .section .note.pvh, "a", @note
        .balign 4
        .long   2f - 1f, 4f - 3f, 18      // XEN_ELFNOTE_PHYS32_ENTRY
1:      .asciz  "Xen"
2:      .balign 4
3:      .long   _start
4:

        .section .text.start, "ax", @progbits
        .code32
        .globl  _start
_start: mov     24(%ebx), %edi            // hvm_start_info.cmdline_paddr, below 4 GiB
        mov     (%edi), %eax
        cmp     $0x74697865, %eax         // "exit": the shortest life there is
        je      power_off
        cmp     $0x746c6168, %eax         // "halt": only ring 0 can
        je      halt
        lgdt    gdt_pointer
        lidt    idt_pointer
        mov     $0x20, %eax               // PAE
        mov     %eax, %cr4
        mov     $page_map, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx         // EFER: LME
        mov     $0x100, %eax
        xor     %edx, %edx
        wrmsr
        mov     $0x80000011, %eax         // PG, ET, PE
        mov     %eax, %cr0
        ljmp    $CODE64, $long_mode

power_off:
        mov     $POWER_OFF_PORT, %edx
        mov     $POWER_OFF_VALUE, %al
        out     %al, %dx
halt:   hlt
        jmp     halt

        .code64
long_mode:
        mov     $TASK, %ax
        ltr     %ax
        mov     $user_frame, %esp
        iretq
user:   call    probe_main
        ud2

        // In ring 0, from the gate that a test sets.
        .globl  timer_entry
timer_entry:
        push    %rax
        incl    timer_interrupts
        mov     $0xfee000b0, %eax         // EOI
        movl    $0, (%rax)
        pop     %rax
        iretq

        // A further processor, from real mode to ring 3. A test copies this below 1 MiB: the code is at %cs:0.
        .code16
        .globl  other_start, other_start_end
other_start:
        lgdtl   %cs:other_gdt_pointer - other_start
        mov     $0x20, %eax
        mov     %eax, %cr4
        mov     $page_map, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx
        mov     $0x100, %eax
        xor     %edx, %edx
        wrmsr
        mov     $0x80000011, %eax
        mov     %eax, %cr0
        ljmpl   $CODE64, $other_long_mode
other_gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt
other_start_end:
        .code64
other_long_mode:
        mov     $other_frame, %esp
        iretq
other_user:
        mov     $1, %edi
        lock xadd %rdi, others_started
        mov     %rdi, %rax
        inc     %rax
        shl     $12, %rax
        lea     other_stacks(%rax), %rsp
        call    probe_other_main
        ud2

        .section .rodata, "a", @progbits
        // Ring 3 with IOPL 3 for its port writes.
        .balign 8
user_frame:
        .quad   user, USER_CODE, 0x3202, stack_top, USER_DATA
other_frame:
        .quad   other_user, USER_CODE, 0x3002, 0, USER_DATA
idt_pointer:
        .word   idt_end - idt - 1
        .long   idt

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff        // CODE32
        .quad   0x00af9b000000ffff        // CODE64
        .quad   0x00cff3000000ffff        // USER_DATA
        .quad   0x00affb000000ffff        // USER_CODE
        // TASK; the linker script splits the address of the task segment.
        .word   task_end - task - 1, task_address_low
        .byte   task_address_middle, 0x89, 0, 0
        .quad   0
gdt_end:
gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt

        // Where IOPL is not to be had (a KVM that runs ring 3 on the real CPU's ring 3), the map of
        // allowed ports counts: ports 0 to 0x7ff.
        .section .data.tables, "aw", @progbits
        .globl  task
        .balign 128
task:   .long   0
        .quad   interrupt_stack_top
        .fill   90, 1, 0
        .word   port_map - task
port_map:
        .fill   0x100, 1, 0
        .byte   0xff
task_end:

        // Identity: the first GiB, and the fourth uncached for the devices; pages of 2 MiB, all of them
        // ring 3's.
        .balign 4096
page_map:
        .quad   pointers + 7
        .fill   511, 8, 0
pointers:
        .quad   low_gib + 7, 0, 0, high_gib + 7
        .fill   508, 8, 0
low_gib:
        .set    address, 0
        .rept   512
        .quad   address + 0xe7
        .set    address, address + 0x200000
        .endr
high_gib:
        .set    address, 0xc0000000
        .rept   512
        .quad   address + 0xf7
        .set    address, address + 0x200000
        .endr

        .bss
        .balign 4096
        .skip   16384
stack_top:
        .skip   4096
interrupt_stack_top:
        .globl  idt
idt:    .skip   0x41 * 16
idt_end:
        .globl  timer_interrupts
timer_interrupts:
        .skip   8
others_started:
        .skip   8
        .balign 4096
other_stacks:
        .skip   3 * 4096

        .section .note.GNU-stack, "", @progbits
