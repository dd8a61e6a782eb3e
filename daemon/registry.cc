// SPDX-License-Identifier: Apache-2.0
#include "daemon/registry.h"

#include "daemon/text.h"

namespace mayfly::daemon {

void VmPin::reset() {
  if (registry_ != nullptr) std::exchange(registry_, nullptr)->unpin(std::exchange(vm_, nullptr));
}

Result<VmPin> Registry::add(std::unique_ptr<Vm> vm) {
  std::lock_guard lock(mutex_);
  const std::string& id = vm->identity().id;
  if (entries_.contains(id)) {
    return fail({Code::kAlreadyExists, "VM_EXISTS"}, "vm_id: %s exists already", id.c_str());
  }
  if (entries_.size() >= kMaxVms) {
    return fail({Code::kResourceExhausted, "TOO_MANY_VMS"},
                "%zu VMs exist already, which is the limit", entries_.size());
  }
  Vm* raw = vm.get();
  entries_.emplace(id, Entry{.vm = std::move(vm), .pins = 1});
  return VmPin(this, raw);
}

Result<VmPin> Registry::find(const std::string& id) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) {
    return fail({Code::kNotFound, "VM_NOT_FOUND"}, "vm_id: there is no VM \"%s\"",
                printable(id, kMaxIdBytes).c_str());
  }
  ++found->second.pins;
  return VmPin(this, found->second.vm.get());
}

std::vector<VmPin> Registry::list(const std::string& after, size_t count) {
  std::vector<VmPin> pins;
  std::lock_guard lock(mutex_);
  for (auto it = entries_.upper_bound(after); it != entries_.end() && pins.size() < count; ++it) {
    ++it->second.pins;
    pins.push_back(VmPin(this, it->second.vm.get()));
  }
  return pins;
}

void Registry::forget(const VmPin& pin) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(pin->identity().id);
  // Another VM may have the id by now.
  if (found == entries_.end() || found->second.vm.get() != &*pin) return;
  forgotten_.emplace(&*pin, std::move(found->second));
  entries_.erase(found);
}

size_t Registry::size() const {
  std::lock_guard lock(mutex_);
  return entries_.size();
}

void Registry::unpin(Vm* vm) {
  std::unique_ptr<Vm> last;  // Destroyed without the lock: that waits for the reactor.
  std::lock_guard lock(mutex_);
  if (const auto found = forgotten_.find(vm); found != forgotten_.end()) {
    if (--found->second.pins > 0) return;
    last = std::move(found->second.vm);
    forgotten_.erase(found);
    return;
  }
  --entries_.at(vm->identity().id).pins;
}

}  // namespace mayfly::daemon
