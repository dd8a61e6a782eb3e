// SPDX-License-Identifier: Apache-2.0
#include "vmm/seccomp/confinement.h"

#include "base/no_new_privs_sys.h"
#include "base/seccomp/filter_sys.h"
#include "vmm/seccomp/compiled_filters.h"
#include "vmm/seccomp/denial.h"

#include <atomic>

#include <unistd.h>

namespace mayfly::vmm {
namespace {

// For the handler, which has no other way to anything.
std::atomic<int> exit_report_fd = -1;
static_assert(std::atomic<int>::is_always_lock_free);

void write_out(int descriptor, const DenialText& text) {
  // One that cannot be written has nowhere to be reported.
  [[maybe_unused]] const ssize_t written =
      ::write(descriptor, text.bytes().data(), text.bytes().size());
}

void tell_denial(uint16_t tag, uint32_t number) {
  const auto thread = static_cast<ThreadKind>(tag);
  const int report = exit_report_fd.load(std::memory_order_acquire);
  if (report >= 0) write_out(report, denial_report(thread, number));
  write_out(STDERR_FILENO, denial_line(thread, number));
}

}  // namespace

Result<Confinement> Confinement::create() {
  TRY(forbid_new_privileges());
  TRY(seccomp::on_denial(tell_denial));
  return Confinement(true);
}

Result<> Confinement::enter(ThreadKind thread) const {
  if (!on_) return {};
  return seccomp::install(compiled::filters[static_cast<size_t>(thread)]);
}

void Confinement::report_to(FdRef exit_report) const {
  exit_report_fd.store(exit_report.number(), std::memory_order_release);
}

}  // namespace mayfly::vmm
