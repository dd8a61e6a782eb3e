// SPDX-License-Identifier: Apache-2.0
#include "jailer/limits.h"

#include <algorithm>
#include <cerrno>

#include <sys/resource.h>

namespace mayfly::jailer {
namespace {

Result<> lower(__rlimit_resource resource, const char* name, rlim_t bound) {
  rlimit limit = {};
  if (::getrlimit(resource, &limit) != 0) {
    return fail_errno({Code::kInternal, "RLIMIT"}, errno, "read %s", name);
  }
  const rlim_t hard = std::min(limit.rlim_max, bound);
  // Both alike: a soft limit below the hard one is an invitation to raise it.
  const rlimit lowered = {hard, hard};
  if (::setrlimit(resource, &lowered) != 0) {
    return fail_errno({Code::kInternal, "RLIMIT"}, errno, "lower %s to %llu", name,
                      static_cast<unsigned long long>(hard));
  }
  return {};
}

}  // namespace

Result<> limit_resources(const JailSpec& spec) {
  TRY(lower(RLIMIT_CORE, "RLIMIT_CORE", 0));
  if (spec.mode == JailMode::kOff) return {};
  TRY(lower(RLIMIT_NOFILE, "RLIMIT_NOFILE", kMaxOpenFiles));
  if (spec.max_file_bytes) TRY(lower(RLIMIT_FSIZE, "RLIMIT_FSIZE", *spec.max_file_bytes));
  if (spec.mode == JailMode::kUser) return {};
  return lower(RLIMIT_NPROC, "RLIMIT_NPROC", kMaxThreads);
}

}  // namespace mayfly::jailer
