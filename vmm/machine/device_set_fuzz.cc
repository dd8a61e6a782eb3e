// SPDX-License-Identifier: Apache-2.0
// A machine's devices and IOAPIC from a state that anybody wrote (proto/state.proto, MachineState),
// over memory of noise, which their queues then serve. The first byte chooses the noise.
#include "vmm/machine/device_set.h"

#include "snapshot/state_codec.h"

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <vector>

namespace {

using namespace mayfly;

constexpr uint64_t kMemoryBytes = 2 << 20;
constexpr uint32_t kPins = 7;

struct NoGuest final : Ioapic::MessageSink {
  void signal_msi(uint64_t, uint32_t) override {}
};

MachineConfig make_config() {
  MachineConfig config;
  config.vsock = VsockConfig{.guest_cid = 3, .host_ports = {}};
  config.disks.push_back({.file = MUST(Fd::memfd("disk", 1 << 20)), .serial = "fuzz"});
  return config;
}

void fill(const GuestMemory& memory, uint8_t seed) {
  std::vector<std::byte> noise(kMemoryBytes);
  uint32_t value = seed;
  for (std::byte& byte : noise) {
    value = value * 1'664'525 + 1'013'904'223;
    // Small numbers: most of them are flags, lengths and indices that are possible.
    byte = static_cast<std::byte>(seed == 0 || value >> 30 != 0 ? 0 : value >> 26);
  }
  MUST(memory.view({Gpa{0}, kMemoryBytes})).write(0, noise);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto payload = std::as_bytes(std::span(data, size)).subspan(1);
  const snapshot::Sealed part = snapshot::seal(snapshot::PartKind::kState, payload);
  const auto state = snapshot::decode_state(std::as_bytes(std::span(part.bytes)));
  if (!state) return 0;

  // MUST: files and a ring of our own.
  const Fd ram = MUST(Fd::memfd("memory", kMemoryBytes));
  const GuestMemory memory = MUST(GuestMemory::create(ram.ref(), kMemoryBytes));
  fill(memory, data[0]);
  const auto loop = MUST(Loop::create({.ring_entries = 64, .files = 600, .clients = 16}));
  const Fd ring = MUST(Fd::memfd("ring", 4096 + 4096));
  const Fd event = MUST(Fd::event());
  ConsoleRingWriter console = MUST(ConsoleRingWriter::create(ring.ref(), event.ref()));
  NoGuest sink;
  Ioapic ioapic(sink, kPins);
  kvm::Vm no_vm{Fd()};
  MachineConfig config = make_config();
  std::atomic<bool> ending = false;
  std::unique_ptr<DeviceSet> devices;
  {
    const std::lock_guard held(loop->lock());
    devices = MUST(DeviceSet::create({.config = config,
                                      .memory = memory,
                                      .loop = *loop,
                                      .vm = no_vm,
                                      .ioapic = ioapic,
                                      .console_ring = console,
                                      .ending = ending}));
  }
  devices->freeze();
  ioapic.restore(state->ioapic);
  if (!devices->restore(state->devices)) return 0;
  snapshot::MachineState again = *state;
  again.devices = devices->save();
  again.ioapic = ioapic.save();
  const snapshot::Sealed saved = snapshot::encode_state(again);
  if (!snapshot::decode_state(std::as_bytes(std::span(saved.bytes)))) std::abort();
  devices->thaw();
  for (int turn = 0; turn < 4; ++turn) MUST(loop->run_once_for(100'000));
  devices->freeze();
  while (!devices->idle()) MUST(loop->run_once());
  return 0;
}
