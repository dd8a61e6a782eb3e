// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/guest_sys.h"

#include "base/fd.h"

#include <doctest/doctest.h>

#include <string>

#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::guest {
namespace {

TEST_CASE("without the rights to it, both steps are tried, and each failure is told") {
  auto pipe = *Fd::pipe();
  const pid_t child = ::fork();
  REQUIRE_GE(child, 0);
  if (child == 0) {
    if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) ::_exit(1);
    const Reseeded done = reseed({.entropy = std::string(kMinEntropyBytes, 'e'), .realtime_ns = 1});
    const auto size = static_cast<ssize_t>(done.failure.size());
    ::_exit(::write(pipe.second.number(), done.failure.data(), done.failure.size()) == size &&
                    done.clock_step_us == 0
                ? 0
                : 2);
  }
  int status = -1;
  REQUIRE_EQ(::waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
  std::string failure(1000, '\0');
  const ssize_t size = ::read(pipe.first.number(), failure.data(), failure.size());
  failure.resize(size > 0 ? static_cast<size_t>(size) : 0);
  CHECK_EQ(failure, "add entropy: Operation not permitted; set the clock: Operation not permitted");
}

}  // namespace
}  // namespace mayfly::guest
