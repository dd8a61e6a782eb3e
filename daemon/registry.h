// SPDX-License-Identifier: Apache-2.0
//
// The VMs by id. Owns them; a VmPin keeps one alive while a call works with it, so that it may be
// forgotten meanwhile. Any thread; the lock is held for look-ups only, and no VM's lock is taken
// under it.
#pragma once

#include "base/error.h"
#include "daemon/vm.h"

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace mayfly::daemon {

inline constexpr size_t kMaxVms = 10000;

class Registry;

/// Movable, used by one thread. The VM is destroyed with its last pin once it has been forgotten.
class VmPin {
 public:
  VmPin() = default;
  ~VmPin() { reset(); }
  VmPin(VmPin&& other) noexcept
      : registry_(std::exchange(other.registry_, nullptr)),
        vm_(std::exchange(other.vm_, nullptr)) {}
  VmPin& operator=(VmPin&& other) noexcept {
    if (this != &other) {
      reset();
      registry_ = std::exchange(other.registry_, nullptr);
      vm_ = std::exchange(other.vm_, nullptr);
    }
    return *this;
  }
  Vm* operator->() const { return vm_; }
  Vm& operator*() const { return *vm_; }
  void reset();

 private:
  friend class Registry;
  VmPin(Registry* registry, Vm* vm) : registry_(registry), vm_(vm) {}
  Registry* registry_ = nullptr;
  Vm* vm_ = nullptr;
};

class Registry {
 public:
  /// ALREADY_EXISTS while another VM has the id, RESOURCE_EXHAUSTED above kMaxVms.
  Result<VmPin> add(std::unique_ptr<Vm> vm);
  Result<VmPin> find(const std::string& id);
  /// Up to `count` in order of id, after `after`.
  std::vector<VmPin> list(const std::string& after, size_t count);
  /// Not found any more from now on. Twice is once.
  void forget(const VmPin& pin);
  size_t size() const;

 private:
  friend class VmPin;
  struct Entry {
    std::unique_ptr<Vm> vm;
    size_t pins = 0;
  };
  void unpin(Vm* vm);

  mutable std::mutex mutex_;
  // Guarded by mutex_. A forgotten VM that is still pinned is in forgotten_.
  std::map<std::string, Entry> entries_;
  std::map<Vm*, Entry> forgotten_;
};

}  // namespace mayfly::daemon
