// SPDX-License-Identifier: Apache-2.0
//
// CpuidEntry, which state and manifest both hold.
#pragma once

#include "base/wire_table.h"
#include "vmm/kvm/kvm_abi.h"

namespace mayfly {

template <>
struct WireTable<kvm_cpuid_entry2> {
  static void fields(auto& wire, auto& entry) {
    wire.number(1, "function", entry.function);
    wire.number(2, "index", entry.index);
    wire.number(3, "flags", entry.flags);
    wire.number(4, "eax", entry.eax);
    wire.number(5, "ebx", entry.ebx);
    wire.number(6, "ecx", entry.ecx);
    wire.number(7, "edx", entry.edx);
  }
};

}  // namespace mayfly
