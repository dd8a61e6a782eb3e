// SPDX-License-Identifier: Apache-2.0
//
// The system calls of the vCPU threads' gate.
#pragma once

#include "base/seccomp/rule.h"
#include "vmm/kvm/vcpu_sys.h"

#include <array>

#include <asm/unistd.h>
#include <linux/prctl.h>

namespace mayfly {

/// A vCPU thread before it confines itself.
inline constexpr auto kVcpuStartRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_prctl, "the thread's name", {seccomp::equals32(0, PR_SET_NAME)}),
});

/// A vCPU thread.
inline constexpr auto kVcpuKickedRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_rt_sigreturn, "back from the kick that interrupted KVM_RUN"),
});

/// Who parks vCPUs; the other calls of pthread_kill() are among the C library's rules.
inline constexpr auto kVcpuKickRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_tgkill, "kick a vCPU out of KVM_RUN",
                   {seccomp::own_pid(0), seccomp::equals32(2, kvm::kKickSignal)}),
});

}  // namespace mayfly
