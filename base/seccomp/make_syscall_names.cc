// SPDX-License-Identifier: Apache-2.0
//
// Build tool: prints the source of syscall_name().
#include <seccomp.h>

#include <cstdio>
#include <cstdlib>

int main() {
  constexpr int kNumbers = 1024;
  std::puts(
      "#include \"base/seccomp/syscall_name.h\"\n\n"
      "const char* mayfly::seccomp::syscall_name(uint32_t number) {\n"
      "  switch (number) {");
  for (int number = 0; number < kNumbers; ++number) {
    char* name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number);
    if (name == nullptr) continue;
    std::printf("    case %d:\n      return \"%s\";\n", number, name);
    std::free(name);
  }
  std::puts("    default:\n      return \"unknown\";\n  }\n}");
}
