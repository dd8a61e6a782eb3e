// SPDX-License-Identifier: Apache-2.0
#include "tests/security/attempt.h"

#include <array>
#include <cerrno>
#include <string_view>

namespace mayfly::escape {

Outcome refused(const char* call, int os_errno) { return {End::kRefused, call, os_errno}; }

Outcome judge(const char* call, long result) {
  if (result >= 0) return escaped();
  const bool absent = errno == ENOSYS || errno == EOPNOTSUPP || errno == EAFNOSUPPORT ||
                      errno == ENODEV || errno == EPROTONOSUPPORT;
  return {absent ? End::kMissing : End::kRefused, call, errno};
}

std::span<const std::span<const Attempt>> all_attempts() {
  static const std::array kAll = {
      file_attempts(),    process_attempts(), namespace_attempts(),  privilege_attempts(),
      network_attempts(), memory_attempts(),  descriptor_attempts(), kernel_attempts(),
      kvm_attempts(),     ring_attempts(),
  };
  return kAll;
}

const Attempt* find_attempt(const char* name) {
  for (const auto& group : all_attempts()) {
    for (const Attempt& attempt : group) {
      if (std::string_view(attempt.name) == name) return &attempt;
    }
  }
  return nullptr;
}

}  // namespace mayfly::escape
