// SPDX-License-Identifier: Apache-2.0
//
// The first vCPU's registers for an Entry. The others wait for the guest's own INIT and SIPI, as
// KVM leaves them.
#pragma once

#include "base/error.h"
#include "base/memory/guest_memory.h"
#include "vmm/boot/kernel.h"
#include "vmm/kvm/vcpu_sys.h"

namespace mayfly::boot {

/// Writes page tables and a GDT where the entry needs them, and sets the registers.
Result<> set_entry_state(const GuestMemory& memory, kvm::Vcpu& vcpu, const Entry& entry);

}  // namespace mayfly::boot
