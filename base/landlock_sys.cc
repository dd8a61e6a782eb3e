// SPDX-License-Identifier: Apache-2.0
#include "base/landlock_sys.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::landlock {
namespace {

constexpr unsigned kVersionFlag = 1 << 0;
constexpr int kPathBeneath = 1;

static_assert(sizeof(Rights) == 24);

struct [[gnu::packed]] PathBeneath {
  uint64_t allowed;
  int32_t parent;
};
static_assert(sizeof(PathBeneath) == 12);

constexpr uint64_t first_bits(unsigned count) { return (uint64_t{1} << count) - 1; }

// All that each version can restrict. File system: 13 rights in version 1, then REFER, TRUNCATE and
// (5) IOCTL_DEV. Network (4): TCP bind and connect. Scopes (6): abstract sockets, signals.
constexpr std::array<Rights, 7> kByVersion = {{
    {0, 0, 0},
    {first_bits(13), 0, 0},
    {first_bits(14), 0, 0},
    {first_bits(15), 0, 0},
    {first_bits(15), first_bits(2), 0},
    {first_bits(16), first_bits(2), 0},
    {first_bits(16), first_bits(2), first_bits(2)},
}};

}  // namespace

int version() {
  // SAFETY: without attributes and with this flag nothing is read; the version is returned.
  const long version = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, kVersionFlag);
  return version > 0 ? static_cast<int>(version) : 0;
}

Rights all_rights() {
  return kByVersion[std::min(static_cast<size_t>(version()), kByVersion.size() - 1)];
}

Result<> restrict_self(const Rights& denied, std::span<const Exception> exceptions) {
  // SAFETY: the kernel reads sizeof(denied) bytes; what an older one does not know is zero.
  const Fd ruleset(
      static_cast<int>(::syscall(SYS_landlock_create_ruleset, &denied, sizeof(denied), 0)));
  if (!ruleset.valid()) {
    return fail_errno({Code::kInternal, "LANDLOCK"}, errno, "make a Landlock ruleset");
  }
  for (const Exception& each : exceptions) {
    const PathBeneath rule = {.allowed = each.allowed, .parent = each.file.number()};
    // SAFETY: a rule of this kind is a PathBeneath.
    if (::syscall(SYS_landlock_add_rule, ruleset.number(), kPathBeneath, &rule, 0) != 0) {
      return fail_errno({Code::kInternal, "LANDLOCK"}, errno, "allow a file by Landlock");
    }
  }
  // SAFETY: a descriptor and a number.
  if (::syscall(SYS_landlock_restrict_self, ruleset.number(), 0) != 0) {
    return fail_errno({Code::kInternal, "LANDLOCK"}, errno, "enter the Landlock domain");
  }
  return {};
}

}  // namespace mayfly::landlock
