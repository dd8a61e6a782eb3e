// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/pagemap.h"

#include <cerrno>

#include <fcntl.h>

namespace mayfly {
namespace {

constexpr uint64_t kPageBytes = 4096;

}  // namespace

Result<Fd> open_pagemap(Fd proc_self) {
  if (!proc_self.valid()) return Fd::open("/proc/self/pagemap", O_RDONLY);
  Fd pagemap(::openat(proc_self.number(), "pagemap", O_RDONLY | O_CLOEXEC));
  if (pagemap.valid()) return pagemap;
  return fail_errno({Code::kFailedPrecondition, "NO_PAGEMAP"}, errno,
                    "--proc-self-fd=%d: open pagemap in it", proc_self.number());
}

Result<> read_pagemap(FdRef pagemap, uint64_t host_address, std::span<PagemapEntry> entries) {
  if (!pagemap.valid()) {
    return fail({Code::kFailedPrecondition, "NO_PAGEMAP"},
                "pagemap: the monitor could not open its own when it started, and does not know "
                "which pages it has changed; the daemon needs a /proc");
  }
  if (Result<> read = pread_exact(pagemap, std::as_writable_bytes(entries),
                                  host_address / kPageBytes * sizeof(PagemapEntry));
      !read) {
    return std::unexpected(std::move(read).error().with_context("pagemap"));
  }
  return {};
}

}  // namespace mayfly
