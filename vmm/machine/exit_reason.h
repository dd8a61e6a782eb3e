// SPDX-License-Identifier: Apache-2.0
//
// Why a VM ended, and who is told. The numbers are control.proto's.
#pragma once

#include <cstdint>
#include <string>

namespace mayfly {

enum class ExitReason : uint8_t {
  kGuestPoweroff = 1,
  kGuestReboot = 2,
  kGuestPanic = 3,
  kTripleFault = 4,
  kHostStop = 5,
  kKvmError = 6,
  kMonitorError = 7,
  // Written by vmm/seccomp/denial.h alone.
  kSyscallDenied = 8,
};

class EndListener {
 public:
  /// Any thread. The first call decides; later ones change nothing.
  virtual void end(ExitReason reason, std::string detail) = 0;
  /// Any thread. The guest's kernel has reported a panic. It tells so before it has printed all
  /// that it has to say, and is given a moment for that.
  virtual void panicked() = 0;

 protected:
  ~EndListener() = default;
};

}  // namespace mayfly
