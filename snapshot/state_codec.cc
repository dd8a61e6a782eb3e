// SPDX-License-Identifier: Apache-2.0
#include "snapshot/state_codec.h"

#include "base/wire_table.h"
#include "snapshot/balloon_table.h"
#include "snapshot/cpuid_table.h"

#include <algorithm>
#include <utility>

namespace mayfly {

// The images' sizes are part of the format.
static_assert(sizeof(kvm_regs) == 144);
static_assert(sizeof(kvm_sregs) == 312);
static_assert(sizeof(kvm_debugregs) == 128);
static_assert(sizeof(kvm_xcrs) == 392);
static_assert(sizeof(kvm_lapic_state) == 1024);
static_assert(sizeof(kvm_vcpu_events) == 64);
static_assert(sizeof(kvm::XsaveArea) == 4096);
static_assert(sizeof(virtio::blk::State::serial) == 20);
static_assert(sizeof(virtio::net::State::mac) == 6);

template <>
struct WireTable<kvm_msr_entry> {
  static void fields(auto& wire, auto& msr) {
    wire.number(1, "index", msr.index);
    wire.number(2, "data", msr.data);
  }
};

template <>
struct WireTable<snapshot::Vcpu> {
  static void fields(auto& wire, auto& vcpu) {
    wire.image(1, "regs", vcpu.state.regs);
    wire.image(2, "sregs", vcpu.state.sregs);
    wire.image(3, "debug_regs", vcpu.state.debug_regs);
    wire.image(4, "xcrs", vcpu.state.xcrs);
    wire.image(5, "lapic", vcpu.state.lapic);
    wire.image(6, "events", vcpu.state.events);
    wire.number(7, "mp_state", vcpu.state.mp_state.mp_state);
    wire.image(8, "xsave", vcpu.state.xsave);
    wire.counted(9, "msrs", vcpu.state.msrs.count, vcpu.state.msrs.entries);
    wire.counted(10, "cpuid", vcpu.cpuid.count, vcpu.cpuid.entries);
  }
};

template <>
struct WireTable<IoapicState> {
  static void fields(auto& wire, auto& ioapic) {
    wire.number(1, "select", ioapic.select);
    wire.number(2, "id", ioapic.id);
    wire.numbers(3, "redirection", ioapic.redirection);
    wire.numbers(4, "pending", ioapic.pending);
  }
};

template <>
struct WireTable<snapshot::KvmClock> {
  static void fields(auto& wire, auto& clock) {
    wire.number(1, "clock_ns", clock.clock_ns);
    wire.number(2, "realtime_ns", clock.realtime_ns);
    wire.number(3, "host_tsc", clock.host_tsc);
    wire.number(4, "flags", clock.flags);
  }
};

template <>
struct WireTable<virtio::QueueState> {
  static void fields(auto& wire, auto& queue) {
    wire.number(1, "size", queue.size);
    wire.number(2, "ready", queue.ready);
    wire.number(3, "descriptors", queue.descriptors.value);
    wire.number(4, "driver_area", queue.driver_area.value);
    wire.number(5, "device_area", queue.device_area.value);
    wire.number(6, "next_avail", queue.next_avail);
    wire.number(7, "next_used", queue.next_used);
  }
};

template <>
struct WireTable<virtio::MmioState> {
  static void fields(auto& wire, auto& transport) {
    wire.number(1, "device_type", transport.device_type);
    wire.number(2, "status", transport.status);
    wire.number(3, "driver_features", transport.driver_features);
    wire.number(4, "device_features_sel", transport.device_features_sel);
    wire.number(5, "driver_features_sel", transport.driver_features_sel);
    wire.number(6, "queue_sel", transport.queue_sel);
    wire.number(7, "interrupt_status", transport.interrupt_status);
    wire.number(8, "config_generation", transport.config_generation);
    wire.list(9, "queues", transport.queues, snapshot::kMaxDeviceQueues);
  }
};

template <>
struct WireTable<virtio::blk::State> {
  static void fields(auto& wire, auto& blk) {
    wire.number(1, "capacity_sectors", blk.capacity_sectors);
    wire.number(2, "read_only", blk.read_only);
    wire.image(3, "serial", blk.serial);
  }
};

template <>
struct WireTable<virtio::console::State> {
  static void fields(auto& wire, auto& console) {
    wire.number(1, "columns", console.columns);
    wire.number(2, "rows", console.rows);
  }
};

template <>
struct WireTable<virtio::rng::State> {
  static void fields(auto&, auto&) {}
};

template <>
struct WireTable<virtio::vsock::State> {
  static void fields(auto& wire, auto& vsock) {
    wire.number(1, "guest_cid", vsock.guest_cid);
    wire.number(2, "next_host_port", vsock.next_host_port);
  }
};

template <>
struct WireTable<virtio::balloon::State> {
  static void fields(auto& wire, auto& balloon) {
    wire.number(1, "target_pages", balloon.target_pages);
    wire.number(2, "actual_pages", balloon.actual_pages);
    wire.message(3, "options", balloon.options);
  }
};

template <>
struct WireTable<virtio::net::State> {
  static void fields(auto& wire, auto& net) {
    wire.image(1, "mac", net.mac);
    wire.number(2, "mtu", net.mtu);
  }
};

template <>
struct WireTable<snapshot::Device> {
  static void fields(auto& wire, auto& slot) {
    wire.message(1, "transport", slot.transport);
    wire.alternative(2, "blk", slot.device, std::in_place_type<virtio::blk::State>);
    wire.alternative(3, "console", slot.device, std::in_place_type<virtio::console::State>);
    wire.alternative(4, "rng", slot.device, std::in_place_type<virtio::rng::State>);
    wire.alternative(5, "vsock", slot.device, std::in_place_type<virtio::vsock::State>);
    wire.alternative(7, "balloon", slot.device, std::in_place_type<virtio::balloon::State>);
    wire.alternative(6, "net", slot.device, std::in_place_type<virtio::net::State>);
  }
};

template <>
struct WireTable<snapshot::MachineState> {
  static void fields(auto& wire, auto& machine) {
    wire.list(1, "vcpus", machine.vcpus, snapshot::kMaxVcpus);
    wire.message(2, "ioapic", machine.ioapic);
    wire.list(3, "devices", machine.devices, snapshot::kMaxDevices);
    wire.message(4, "clock", machine.clock);
  }
};

}  // namespace mayfly

namespace mayfly::snapshot {

Sealed encode_state(const MachineState& state) {
  const auto has = [&]<typename Kind>(std::in_place_type_t<Kind>) {
    return std::ranges::any_of(state.devices, [](const Device& device) {
      return std::holds_alternative<Kind>(device.device);
    });
  };
  return seal(PartKind::kState, encode(state).bytes(), kFormatMajor,
              has(std::in_place_type<virtio::balloon::State>) ? kFormatMinorBalloon
              : has(std::in_place_type<virtio::net::State>)   ? kFormatMinorNets
                                                              : kFormatMinor);
}

Result<MachineState> decode_state(std::span<const std::byte> file) {
  const Unsealed unsealed = TRY(unseal(PartKind::kState, file));
  MachineState state;
  if (Result<> decoded = decode(unsealed.payload, state); !decoded) return damaged(decoded.error());
  if (state.vcpus.empty()) return fail({Code::kDataLoss, "PART_DAMAGED"}, "vcpus: there is none");
  for (size_t i = 0; i < state.devices.size(); ++i) {
    if (std::holds_alternative<std::monostate>(state.devices[i].device)) {
      return fail({Code::kFailedPrecondition, "DEVICE_UNKNOWN"},
                  "devices: number %zu, of type %u, is of a kind this program does not know", i,
                  state.devices[i].transport.device_type);
    }
  }
  return state;
}

}  // namespace mayfly::snapshot
