// SPDX-License-Identifier: Apache-2.0
//
// What VmService does, without gRPC. Any thread; each call waits no longer than its `call` allows,
// save that a stop, once begun, is carried through.
#pragma once

#include "base/error.h"
#include "daemon/call.h"
#include "daemon/registry.h"
#include "daemon/vm.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::daemon {

inline constexpr std::chrono::milliseconds kDefaultStopGrace{5000};
inline constexpr std::chrono::milliseconds kMaxStopGrace{600'000};
inline constexpr size_t kDefaultPageSize = 100;
inline constexpr size_t kMaxPageSize = 1000;

/// Of any listing: how many a page holds, or what is wrong with the request.
Result<size_t> checked_page(size_t page_size, const std::string& page_token);

struct CreateRequest {
  std::string vm_id;
  VmSpec spec;
  bool start = false;
  std::string request_id;
};

/// A VM that goes on from `source`, which is borrowed until the call is over.
struct RestoreRequest {
  std::string vm_id;
  VmSpec spec;
  bool start = false;
  std::string request_id;
  const RestoreSource& source;
  /// Shells of the source; null: none.
  ShellOffer* shells = nullptr;
  // For how long the call waits until the guest has reseeded itself; one that does not is ended.
  std::optional<std::chrono::milliseconds> hold = {};
};

struct VmPage {
  std::vector<VmView> vms;
  std::string next_page_token;
};

class VmManager {
 public:
  /// Says why a Linux guest would not run on this host, if it would not.
  using HostGate = std::function<Result<>(const VmSpec&)>;

  VmManager(const VmEnvironment& environment, HostGate gate)
      : environment_(environment), gate_(std::move(gate)) {}

  Result<VmOutcome> create(const CreateRequest& request, const Call& call);
  /// The spec is of a machine that is restored: it has no kernel. `stopwatch` has what was done for
  /// it already.
  Result<VmOutcome> restore(const RestoreRequest& request, const Call& call, Stopwatch& stopwatch);
  /// The VM that a request with this request_id made, if there is one; ALREADY_EXISTS where another
  /// has its id.
  Result<std::optional<VmOutcome>> made_before(const std::string& vm_id,
                                               const std::string& request_id, const Call& call);
  /// Refuses what no VM may be called.
  Result<> check_new(const std::string& vm_id, const std::string& request_id) const;
  Result<VmOutcome> start(const std::string& id, const Call& call);
  Result<VmOutcome> pause(const std::string& id, const Call& call);
  Result<VmOutcome> resume(const std::string& id, const Call& call);
  Result<VmOutcome> stop(const std::string& id, std::optional<uint32_t> grace_ms, const Call& call);
  Result<VmOutcome> remove(const std::string& id, bool force, const Call& call);
  Result<VmOutcome> update(const std::string& id, const Vm::Update& what, const Call& call);
  Result<VmView> get(const std::string& id, const Call& call = Call());
  Result<VmPage> list(size_t page_size, const std::string& page_token);
  Result<VmView> wait(const std::string& id, const WaitGoal& goal, const Call& call);

  /// Vm::rebased() of all of them.
  void rebased(const BaseSnapshot& from, const snapshot::Digest& to);

  Result<VmPin> find(const std::string& id) { return registry_.find(id); }
  /// Up to `count` in order of id, after `after`.
  std::vector<VmPin> pins(const std::string& after, size_t count) {
    return registry_.list(after, count);
  }
  const VmEnvironment& environment() const { return environment_; }
  size_t vm_count() const { return registry_.size(); }
  size_t running_count();

  /// Ends all VMs, together, and forgets them; no new ones from now on. Once.
  void shut_down(std::chrono::milliseconds grace);

 private:
  struct NewVm;
  Result<VmOutcome> make(NewVm what, const Call& call, Stopwatch& stopwatch);
  Result<> check_open() const;
  Result<> hold(Vm& vm, std::chrono::milliseconds limit, const Call& call, Stopwatch& stopwatch);

  const VmEnvironment& environment_;
  const HostGate gate_;
  Registry registry_;
  std::atomic<bool> closing_ = false;
};

}  // namespace mayfly::daemon
