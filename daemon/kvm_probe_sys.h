// SPDX-License-Identifier: Apache-2.0
//
// Whether this host's KVM runs a guest's kernel code at the CPU's speed: some back ends run only
// its user code natively and emulate the rest, and Linux on them takes hours to boot. Told by
// timing a loop in a VM of one page.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace mayfly::daemon {

struct KvmProbe {
  // The device could be opened.
  bool opened = false;
  int api_version = 0;
  // Absent where no VM could be run; `failure` then says why.
  std::optional<double> ns_per_instruction;
  std::string failure;

  /// Native is below 10 ns, also where the machine is itself emulated; emulation takes about 1000.
  bool emulates_guest_kernel() const { return ns_per_instruction && *ns_per_instruction > 150.0; }
};

/// Takes about a millisecond, 20 where the code is emulated. Any thread; uses no signal and no
/// timer.
KvmProbe probe_kvm(const std::string& device);

}  // namespace mayfly::daemon
