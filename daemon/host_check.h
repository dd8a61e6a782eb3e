// SPDX-License-Identifier: Apache-2.0
//
// What this host can do, what it lacks, and the command that mends it. The KVM device is probed
// once, in the background from the daemon's start on; the other checks read files when they are
// asked for.
#pragma once

#include "base/error.h"
#include "daemon/call.h"
#include "daemon/jail.h"
#include "daemon/kvm_probe_sys.h"
#include "daemon/spec.h"

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace mayfly::daemon {

/// The numbers are mayfly.v1.CheckStatus's.
enum class CheckStatus : uint8_t { kOk = 1, kWarning = 2, kMissing = 3 };

struct HostCheck {
  std::string name;
  CheckStatus status = CheckStatus::kOk;
  std::string detail;
  // The command that mends it; empty where there is nothing to mend.
  std::string remedy;
};

struct HostReport {
  std::vector<HostCheck> checks;
  bool runs_linux_guests = false;
};

struct HostDevices {
  std::string kvm;
  std::string userfault;
};

class HostChecker {
 public:
  /// Begins the probe on a thread of its own.
  HostChecker(HostDevices devices, const JailHost& jails);
  ~HostChecker();

  /// Any thread. The report is kept; `refresh` looks again, save for the KVM probe where that
  /// succeeded.
  Result<HostReport> report(bool refresh, const Call& call);

  /// Whether a VM of this spec would get anywhere: refused where there is no KVM device, and,
  /// unless spec.allow_slow_kvm, where KVM only emulates a guest's kernel.
  Result<> gate(const VmSpec& spec);

 private:
  Result<KvmProbe> wait_probe(const Call& call);

  const HostDevices devices_;
  const JailHost& jails_;
  std::mutex mutex_;
  std::condition_variable probed_;
  // Guarded by mutex_.
  std::optional<KvmProbe> probe_;
  std::optional<HostReport> report_;
  std::thread prober_;
};

}  // namespace mayfly::daemon
