// SPDX-License-Identifier: Apache-2.0
//
// A random guest: each record of the input is one access to the registers, a write to memory, a
// kick, or what the host does in between (freeze, thaw, snapshot).
#include "virtio/transport/mmio.h"

#include "virtio/queue/testing/fake_driver.h"
#include "virtio/transport/testing/echo_device.h"
#include "virtio/transport/testing/mmio_guest.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace {

using namespace mayfly;
using namespace mayfly::virtio;

constexpr uint64_t kMemory = 64 * 1024;
constexpr size_t kMaxSteps = 512;

struct Step {
  uint8_t what;
  uint8_t width;
  uint16_t offset;
  uint32_t value;
};
static_assert(sizeof(Step) == 8);

struct Line final : InterruptLine {
  void raise() override {}
};

struct World {
  explicit World(const GuestMemory& guest_memory)
      : memory(guest_memory),
        // MUST: only descriptors can be missing.
        transport(MUST(MmioTransport::create({device, memory, lock, line, [this](auto&) {
                                                device.finish_kept();
                                                return true;
                                              }}))) {}

  void initialise(uint32_t features) {
    const testing::MmioGuest guest(*transport);
    guest.negotiate(kFeatureVersion1 | (uint64_t{features & 3} << 28));
    guest.set_queue(0, {8, true, Gpa{0}, Gpa{0x80}, Gpa{0x100}});
    guest.set_queue(1, {4, true, Gpa{0x200}, Gpa{0x280}, Gpa{0x300}});
    guest.driver_ok();
  }

  void snapshot(MmioState& saved, bool spoil) {
    device.finish_kept();
    const std::lock_guard held(lock);
    if (!spoil) {
      saved = transport->save();
      return;
    }
    testing::EchoDevice other;
    std::mutex other_lock;
    const auto restored =
        MUST(MmioTransport::create({other, memory, other_lock, line, [](auto&) { return true; }}));
    if (restored->restore(saved)) (void)restored->save();
  }

  void run(const Step& step, MmioState& saved) {
    std::array<std::byte, 8> data{};
    std::ranges::copy(std::as_bytes(std::span(&step.value, 1)), data.begin());
    const std::span<std::byte> access = std::span(data).first(step.width % 9);
    switch (step.what % 12) {
      case 0:
        return transport->write(step.offset, access);
      case 1:
        return transport->write(step.offset % 0x100 & ~3, std::span(data).first(4));
      case 2:
        return transport->read(step.offset, access);
      case 3:
        return transport->read(step.offset % 0x100 & ~3, std::span(data).first(4));
      case 4:
      case 5: {
        // MUST: any 16-bit offset less 8 is in RAM.
        const GuestSpan word = MUST(memory.view({Gpa{step.offset % (kMemory - 8)}, 8}));
        return word.write(0, access);
      }
      case 6:
      case 7: {
        const std::lock_guard held(lock);
        return transport->process_kick(step.value % 2);
      }
      case 8:
        return initialise(step.value);
      case 9: {
        const std::lock_guard held(lock);
        return (step.value & 1) != 0 ? transport->freeze() : transport->thaw();
      }
      case 10: {
        const std::lock_guard held(lock);
        return device.finish_kept();
      }
      default: {
        if (saved.queues.size() == 2 && (step.value & 1) != 0) {
          saved.queues[0].next_avail = step.offset;
          saved.status = step.value >> 8 & 0xff;
        }
        return snapshot(saved, (step.value & 2) != 0);
      }
    }
  }

  const GuestMemory& memory;
  testing::EchoDevice device;
  std::mutex lock;
  Line line;
  std::unique_ptr<MmioTransport> transport;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const GuestMemory memory = testing::make_memory(kMemory);
  // MUST: the whole of it.
  MUST(memory.view({Gpa{0}, kMemory})).zero(0, kMemory);
  World world(memory);
  MmioState saved;
  std::span<const std::byte> input = std::as_bytes(std::span(data, size));
  for (size_t i = 0; i < kMaxSteps && input.size() >= sizeof(Step); ++i) {
    Step step;
    std::ranges::copy(input.first(sizeof(step)),
                      std::as_writable_bytes(std::span(&step, 1)).begin());
    input = input.subspan(sizeof(step));
    world.run(step, saved);
  }
  return 0;
}
