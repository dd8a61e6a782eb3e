// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/vcpu_group.h"

#include "base/error.h"

#include <cerrno>

#include <pthread.h>
#include <sys/prctl.h>

namespace mayfly {

VcpuGroup::VcpuGroup(std::vector<kvm::Vcpu> vcpus, ExitHandler& handler, First first)
    : vcpus_(std::move(vcpus)), handler_(handler), first_(first) {}

Result<std::unique_ptr<VcpuGroup>> VcpuGroup::create(std::vector<kvm::Vcpu> vcpus,
                                                     ExitHandler& handler, First first) {
  std::unique_ptr<VcpuGroup> group(new VcpuGroup(std::move(vcpus), handler, first));
  group->threads_.reserve(group->vcpus_.size());
  for (uint32_t index = 0; index < group->vcpus_.size(); ++index) {
    group->threads_.emplace_back([self = group.get(), index] { self->thread_main(index); });
  }
  return group;
}

VcpuGroup::~VcpuGroup() {
  want(Wanted::kGone);
  for (std::thread& thread : threads_) thread.join();
}

void VcpuGroup::run() { want(Wanted::kRunning); }
void VcpuGroup::request_park() { want(Wanted::kParked); }

void VcpuGroup::want(Wanted wanted) {
  const std::lock_guard held(gate_);
  wanted_.store(wanted, std::memory_order_release);
  gate_changed_.notify_all();
  if (wanted == Wanted::kRunning) return;
  for (size_t i = 0; i < threads_.size(); ++i) {
    vcpus_[i].request_exit();
    // SAFETY: the thread is not joined yet; the signal's handler does nothing but interrupt
    // KVM_RUN.
    ::pthread_kill(threads_[i].native_handle(), kvm::kKickSignal);
  }
}

bool VcpuGroup::parked() const {
  const std::lock_guard held(gate_);
  return parked_count_ == vcpus_.size();
}

bool VcpuGroup::may_run() const { return wanted_.load() == Wanted::kRunning && !ended_; }

bool VcpuGroup::wait_at_gate(kvm::Vcpu& vcpu) {
  std::unique_lock held(gate_);
  ++parked_count_;
  held.unlock();
  handler_.on_parked();
  held.lock();
  gate_changed_.wait(held, [this] { return wanted_.load() == Wanted::kGone || may_run(); });
  --parked_count_;
  vcpu.clear_exit_request();
  return wanted_.load() == Wanted::kRunning;
}

void VcpuGroup::run_guest(kvm::Vcpu& vcpu) {
  // An exit that was handled is finished by the next run(), so the gate is looked at only between
  // an interrupted run() and the next.
  while (true) {
    const kvm::Exit exit = vcpu.run();
    if (exit.kind == kvm::ExitKind::kInterrupted) {
      if (wanted_.load(std::memory_order_acquire) != Wanted::kRunning) return;
      continue;
    }
    if (!handler_.on_exit(vcpu.index(), exit)) return close_gate();
  }
}

void VcpuGroup::close_gate() {
  const std::lock_guard held(gate_);
  ended_ = true;
}

void VcpuGroup::thread_main(uint32_t index) {
  // By the thread itself: naming another thread opens a file in /proc.
  ::prctl(PR_SET_NAME, format("vcpu%u", index).c_str());
  if (first_ == First::kWarmUp) vcpus_[index].warm_up();
  if (!handler_.on_thread_start()) close_gate();
  while (wait_at_gate(vcpus_[index])) run_guest(vcpus_[index]);
}

}  // namespace mayfly
