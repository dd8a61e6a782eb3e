// SPDX-License-Identifier: Apache-2.0
#include "base/seccomp/syscall_name.h"

#include <doctest/doctest.h>

#include <string>

#include <asm/unistd.h>

namespace mayfly::seccomp {
namespace {

TEST_CASE("calls have the names of the kernel's table, and numbers that are none are unknown") {
  CHECK_EQ(std::string(syscall_name(__NR_read)), "read");
  CHECK_EQ(std::string(syscall_name(__NR_openat)), "openat");
  CHECK_EQ(std::string(syscall_name(__NR_execve)), "execve");
  CHECK_EQ(std::string(syscall_name(__NR_io_uring_enter)), "io_uring_enter");
  CHECK_EQ(std::string(syscall_name(400)), "unknown");
  CHECK_EQ(std::string(syscall_name(0xffff'ffff)), "unknown");
}

}  // namespace
}  // namespace mayfly::seccomp
