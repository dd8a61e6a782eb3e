// SPDX-License-Identifier: Apache-2.0
//
// A paused machine but for its memory, as plain, untrusted data: the monitor fills it from its
// parts and hands it to them again, each of which checks its own like guest input.
#pragma once

#include "virtio/balloon/state.h"
#include "virtio/blk/state.h"
#include "virtio/console/state.h"
#include "virtio/net/state.h"
#include "virtio/rng/state.h"
#include "virtio/transport/state.h"
#include "virtio/vsock/state.h"
#include "vmm/kvm/kvm_abi.h"
#include "vmm/kvm/vcpu_state.h"
#include "vmm/machine/ioapic_state.h"

#include <cstdint>
#include <variant>
#include <vector>

namespace mayfly::snapshot {

inline constexpr size_t kMaxVcpus = 32;
inline constexpr size_t kMaxDevices = 32;
inline constexpr size_t kMaxDeviceQueues = 16;

struct Vcpu {
  kvm::VcpuState state;
  /// What KVM_SET_CPUID2 was given.
  kvm::CpuidTable cpuid;
};

struct Device {
  virtio::MmioState transport;
  /// monostate: a kind of device that this version does not know; decode_state() refuses it.
  std::variant<std::monostate, virtio::blk::State, virtio::console::State, virtio::rng::State,
               virtio::vsock::State, virtio::net::State, virtio::balloon::State>
      device;

  friend bool operator==(const Device&, const Device&) = default;
};

/// KVM_GET_CLOCK's answer.
struct KvmClock {
  uint64_t clock_ns = 0;
  uint64_t realtime_ns = 0;
  uint64_t host_tsc = 0;
  uint32_t flags = 0;

  friend bool operator==(const KvmClock&, const KvmClock&) = default;
};

struct MachineState {
  std::vector<Vcpu> vcpus;
  IoapicState ioapic;
  /// In slot order.
  std::vector<Device> devices;
  KvmClock clock;
};

}  // namespace mayfly::snapshot
