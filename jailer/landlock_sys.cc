// SPDX-License-Identifier: Apache-2.0
#include "jailer/landlock_sys.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>

#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

// Of the kernel's interface, which is newer than Debian 12's <linux/landlock.h>.
constexpr uint64_t kExecute = 1 << 0;
constexpr uint64_t kReadFile = 1 << 2;
constexpr unsigned kVersionFlag = 1 << 0;
constexpr int kPathBeneath = 1;

struct Ruleset {
  uint64_t file_system;
  uint64_t network;
  uint64_t scopes;
};
static_assert(sizeof(Ruleset) == 24);

struct [[gnu::packed]] PathBeneath {
  uint64_t allowed;
  int32_t parent;
};
static_assert(sizeof(PathBeneath) == 12);

constexpr uint64_t first_bits(unsigned count) { return (uint64_t{1} << count) - 1; }

// All that each version can restrict. File system: 13 rights in version 1, then REFER, TRUNCATE and
// (5) IOCTL_DEV. Network (4): TCP bind and connect. Scopes (6): abstract sockets, signals.
constexpr std::array<Ruleset, 6> kByVersion = {{
    {first_bits(13), 0, 0},
    {first_bits(14), 0, 0},
    {first_bits(15), 0, 0},
    {first_bits(15), first_bits(2), 0},
    {first_bits(16), first_bits(2), 0},
    {first_bits(16), first_bits(2), first_bits(2)},
}};

}  // namespace

Result<> restrict_by_landlock(FdRef program) {
  // SAFETY: without attributes and with this flag nothing is read; the version is returned.
  const long version = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, kVersionFlag);
  if (version < 1) return {};
  const auto known = std::min(static_cast<size_t>(version), kByVersion.size());
  const Ruleset& everything = kByVersion[known - 1];
  // SAFETY: the kernel reads sizeof(everything) bytes; what an older one does not know is zero.
  const Fd ruleset(
      static_cast<int>(::syscall(SYS_landlock_create_ruleset, &everything, sizeof(everything), 0)));
  if (!ruleset.valid()) {
    return fail_errno({Code::kInternal, "LANDLOCK"}, errno,
                      "make a Landlock ruleset of version %zu", known);
  }
  const PathBeneath rule = {.allowed = kExecute | kReadFile, .parent = program.number()};
  // SAFETY: a rule of this kind is a PathBeneath.
  if (::syscall(SYS_landlock_add_rule, ruleset.number(), kPathBeneath, &rule, 0) != 0) {
    return fail_errno({Code::kInternal, "LANDLOCK"}, errno, "allow the program by Landlock");
  }
  // SAFETY: a descriptor and a number.
  if (::syscall(SYS_landlock_restrict_self, ruleset.number(), 0) != 0) {
    return fail_errno({Code::kInternal, "LANDLOCK"}, errno, "enter the Landlock domain");
  }
  return {};
}

}  // namespace mayfly::jailer
