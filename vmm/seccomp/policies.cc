// SPDX-License-Identifier: Apache-2.0
#include "vmm/seccomp/policies.h"

#include "base/event/loop_rules.h"
#include "base/fd_rules.h"
#include "base/memory/guest_memory_rules.h"
#include "base/seccomp/c_library_rules.h"
#include "base/seccomp/filter_rules.h"
#include "virtio/console/loop_input_rules.h"
#include "virtio/net/backend_rules.h"
#include "virtio/rng/backend_rules.h"
#include "virtio/vsock/backend_rules.h"
#include "vmm/boot/image_file_rules.h"
#include "vmm/control/server_rules.h"
#include "vmm/kvm/kvm_rules.h"
#include "vmm/machine/lazy_memory_rules.h"
#include "vmm/machine/memory_layer_rules.h"
#include "vmm/machine/touched_pages_rules.h"
#include "vmm/machine/vcpu_group_rules.h"

#include <algorithm>
#include <array>
#include <span>

#include <asm/unistd.h>

namespace mayfly::vmm {
namespace {

constexpr auto kEndRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_exit_group, "the end of main()"),
});

using Group = std::span<const seccomp::Rule>;

bool same_call(const seccomp::Rule& one, const seccomp::Rule& other) {
  return one.number == other.number && one.answer == other.answer &&
         one.argument_count == other.argument_count && one.arguments == other.arguments;
}

// Code that several threads share has its rules in several groups.
void add(Policy& policy, std::initializer_list<Group> groups) {
  for (const Group& group : groups) {
    for (const seccomp::Rule& rule : group) {
      const auto same = [&](const seccomp::Rule& other) { return same_call(rule, other); };
      if (std::ranges::none_of(policy.rules, same)) policy.rules.push_back(rule);
    }
  }
}

Policy vcpu_policy() {
  Policy policy{.kind = ThreadKind::kVcpu, .rules = {}};
  add(policy, {kvm::kRunRules, kFdWriteRules, kvm::kInterruptRules, seccomp::kThreadRules,
               kVcpuKickedRules, seccomp::kAbortRules});
  return policy;
}

Policy loop_policy() {
  Policy policy{.kind = ThreadKind::kLoop, .rules = {}};
  add(policy,
      {kLoopRules, kvm::kInterruptRules, kFdWriteRules, virtio::vsock::kBackendRules,
       virtio::net::kBackendRules, virtio::rng::kBackendRules, virtio::console::kLoopInputRules,
       kServerRules, seccomp::kThreadRules, kFdCloseRules, kVcpuKickRules, kvm::kSaveRules,
       kPrivateMemoryRules, kReleaseMemoryRules, kSaveFileRules, kEndRules, seccomp::kAbortRules});
  return policy;
}

Policy guard_policy() {
  Policy policy{.kind = ThreadKind::kGuard, .rules = {}};
  add(policy, {kGuardRules, kFdWriteRules, kFdCloseRules, seccomp::kThreadRules, kEndRules,
               seccomp::kAbortRules});
  return policy;
}

Policy start_policy() {
  Policy policy{.kind = ThreadKind::kStart, .rules = {}};
  // First what the threads under stacked filters go on calling.
  add(policy, {kvm::kRunRules, loop_policy().rules, vcpu_policy().rules, guard_policy().rules});
  add(policy,
      {kUserfaultRules, kvm::kBuildRules, kvm::kRestoreRules, kGuestMemoryRules, kFdSetupRules,
       kTouchedPagesRules, virtio::net::kBackendSetupRules, boot::kImageFileRules,
       seccomp::kStartThreadRules, kVcpuStartRules, seccomp::kInstallRules});
  return policy;
}

}  // namespace

std::vector<Policy> make_policies() {
  return {start_policy(), loop_policy(), vcpu_policy(), guard_policy()};
}

}  // namespace mayfly::vmm
