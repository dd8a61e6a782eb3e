// SPDX-License-Identifier: Apache-2.0
#include "virtio/rng/backend.h"

#include <cerrno>

#include <sys/random.h>

namespace mayfly::virtio::rng {

Result<> KernelEntropy::fill(std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t n = ::getrandom(out.data(), out.size(), GRND_NONBLOCK);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno({Code::kUnavailable, "ENTROPY"}, errno, "getrandom");
    out = out.subspan(static_cast<size_t>(n));
  }
  return {};
}

}  // namespace mayfly::virtio::rng
