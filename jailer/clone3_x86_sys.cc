// SPDX-License-Identifier: Apache-2.0
#include "jailer/clone3_x86_sys.h"

#include <sys/syscall.h>

namespace mayfly::jailer {

long clone3_onto_stack(const clone_args& arguments, void (*entry)(void*), void* argument) {
  long result = SYS_clone3;
  // SAFETY: the parent comes out behind label 1 with its stack and all registers but the clobbered
  // ones as they were. The child comes out of `syscall` with the same registers and the stack
  // pointer at the top of its own stack; it never leaves this block (`entry` does not return), so
  // it touches no frame of the caller. The two inputs are in registers that survive `syscall`:
  // rcx and r11 are clobbers, rax is the result.
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "mov %[argument], %%rdi\n\t"
      "call *%[entry]\n\t"
      "ud2\n"
      "1:\n"
      : "+a"(result)
      : "D"(&arguments), "S"(sizeof(arguments)), [entry] "r"(entry), [argument] "r"(argument)
      : "rcx", "r11", "cc", "memory");
  return result;
}

}  // namespace mayfly::jailer
