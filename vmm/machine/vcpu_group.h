// SPDX-License-Identifier: Apache-2.0
//
// The vCPU threads of one machine and the gate they wait at: all of them run guest code, or all of
// them are parked. What a thread does with an exit is the handler's business.
//
// Threads: every call belongs to the loop thread. It never blocks: request_park() asks, `on_parked`
// is called on a vCPU thread as each arrives, and parked() tells when all have.
#pragma once

#include "base/error.h"
#include "vmm/kvm/vcpu_sys.h"

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace mayfly {

class ExitHandler {
 public:
  /// On each vCPU's thread, as the last thing before it waits for the first time. False: it may not
  /// run guest code; the machine has ended, no vCPU runs.
  virtual bool on_thread_start() = 0;
  /// On vCPU `index`'s thread, several at once. False: the machine has ended, no vCPU runs again.
  virtual bool on_exit(uint32_t index, const kvm::Exit& exit) = 0;
  /// On a vCPU's thread when it has stopped running guest code.
  virtual void on_parked() = 0;

 protected:
  ~ExitHandler() = default;
};

class VcpuGroup {
 public:
  /// What a thread does before it confines itself and waits for the first time.
  enum class First : uint8_t {
    kNothing,
    kWarmUp,  // Vcpu::warm_up(): the vCPUs have their state, and may wait for long
  };

  /// Starts a parked thread for each vCPU. `handler` outlives the group.
  static Result<std::unique_ptr<VcpuGroup>> create(std::vector<kvm::Vcpu> vcpus,
                                                   ExitHandler& handler,
                                                   First first = First::kNothing);
  /// Parks and joins.
  ~VcpuGroup();
  VcpuGroup(const VcpuGroup&) = delete;
  VcpuGroup& operator=(const VcpuGroup&) = delete;

  void run();
  void request_park();
  bool parked() const;

  /// Only while parked(), or before the first run().
  std::vector<kvm::Vcpu>& vcpus() { return vcpus_; }

 private:
  enum class Wanted : uint8_t { kParked, kRunning, kGone };

  VcpuGroup(std::vector<kvm::Vcpu> vcpus, ExitHandler& handler, First first);
  void thread_main(uint32_t index);
  bool wait_at_gate(kvm::Vcpu& vcpu);
  void run_guest(kvm::Vcpu& vcpu);
  void close_gate();
  bool may_run() const;
  void want(Wanted wanted);

  std::vector<kvm::Vcpu> vcpus_;
  ExitHandler& handler_;
  const First first_;
  mutable std::mutex gate_;
  std::condition_variable gate_changed_;
  std::atomic<Wanted> wanted_ = Wanted::kParked;  // written under gate_
  size_t parked_count_ = 0;                       // guarded by gate_
  bool ended_ = false;                            // guarded by gate_
  std::vector<std::thread> threads_;
};

}  // namespace mayfly
