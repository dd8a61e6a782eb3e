// SPDX-License-Identifier: Apache-2.0
//
// A vCPU as plain data, in KVM's own structures: what Vcpu::save() makes and a snapshot holds.
#pragma once

#include "vmm/kvm/kvm_abi.h"

namespace mayfly::kvm {

/// A vCPU's state as untrusted data. `xsave` and `msrs` are as large as the host's.
struct VcpuState {
  kvm_regs regs = {};
  kvm_sregs sregs = {};
  kvm_debugregs debug_regs = {};
  kvm_xcrs xcrs = {};
  kvm_lapic_state lapic = {};
  kvm_vcpu_events events = {};
  kvm_mp_state mp_state = {};
  XsaveArea xsave;
  MsrTable msrs;
};

}  // namespace mayfly::kvm
