// SPDX-License-Identifier: Apache-2.0
//
// Which system calls the monitor's threads may make from now on. main() creates one; every thread
// then enters its own policy. A small value, copied to whom needs it.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "vmm/seccomp/thread_kind.h"

namespace mayfly::vmm {

class Confinement {
 public:
  /// Nothing is ever confined: for debugging, and for tests that run a machine in their own
  /// process.
  static Confinement off() { return Confinement(false); }

  /// Takes the privileges of exec away, and handles denials. Once, before any other thread.
  static Result<Confinement> create();

  /// The calling thread, for good. kLoop and kVcpu stack on kStart.
  Result<> enter(ThreadKind thread) const;

  /// Where a denial is reported from now on, besides standard error. It stays open.
  void report_to(FdRef exit_report) const;

 private:
  explicit Confinement(bool on) : on_(on) {}

  bool on_;
};

}  // namespace mayfly::vmm
