// SPDX-License-Identifier: Apache-2.0
// The input programs a hostile driver, step by step: chains of any shape with any header, direct
// and indirect, kicks, completions in any order, resets. The backend checks that nothing leaves the
// disk.
#include "virtio/blk/blk.h"

#include "virtio/blk/testing/memory_backend.h"
#include "virtio/queue/testing/device_harness.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

namespace {

using namespace mayfly;
using namespace mayfly::virtio;
using mayfly::virtio::blk::testing::MemoryBackend;

class Input {
 public:
  explicit Input(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  uint64_t take(size_t size) {
    uint64_t value = 0;
    for (size_t i = 0; i < size && !bytes_.empty(); ++i) {
      value |= uint64_t{bytes_.front()} << (8 * i);
      bytes_ = bytes_.subspan(1);
    }
    return value;
  }

 private:
  std::span<const uint8_t> bytes_;
};

blk::RequestHeader make_header(Input& input) {
  const uint64_t kind = input.take(1);
  blk::RequestHeader header{static_cast<uint32_t>(kind % 16), 0, input.take(1)};
  if (kind >= 0xc0) header.sector = input.take(8);
  if (kind >= 0xf0) header.type = static_cast<uint32_t>(input.take(4));
  return header;
}

void add_chain(virtio::testing::FakeDriver& driver, Input& input) {
  const uint64_t shape = input.take(1);
  const blk::RequestHeader header = make_header(input);
  const auto bytes = std::as_bytes(std::span(&header, 1));
  const size_t cut = shape % 17;
  std::vector<virtio::testing::GuestBuffer> chain{driver.readable(bytes.first(cut))};
  if ((shape & 0x20) != 0) chain.push_back(driver.readable(bytes.subspan(cut)));
  const size_t pieces = input.take(1) % 80;
  for (size_t i = 0; i < pieces; ++i) {
    const uint64_t size = input.take(1) * 64;
    const bool writes = (shape & 0x40) != 0;
    chain.push_back(writes ? driver.writable(size) : driver.readable(std::vector<std::byte>(size)));
    if (input.empty()) break;
  }
  if ((shape & 0x80) == 0) chain.push_back(driver.writable(1 + shape % 2));
  if ((shape & 0x10) != 0) chain.back().range.start.value = input.take(4);
  if ((shape & 1) != 0) {
    driver.add_indirect(chain);
  } else {
    driver.add(chain);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input({data, std::min<size_t>(size, 4096)});
  const uint64_t setup = input.take(1);
  const auto access = (setup & 1) != 0 ? blk::Access::kReadOnly : blk::Access::kReadWrite;
  auto made = std::make_unique<MemoryBackend>((1 + setup / 2) * 512, access);
  MemoryBackend& backend = *made;
  // MUST: the serial is a valid one.
  const auto device = MUST(blk::Blk::create(std::move(made), "fuzz"));
  const virtio::testing::DeviceHarness::Options options{
      .memory_bytes = 1024 * 1024, .event_idx = (setup & 2) != 0, .data_size = 512 * 1024};
  auto harness = std::make_unique<virtio::testing::DeviceHarness>(*device, options);
  harness->activate();
  int added = 0;
  while (!input.empty()) {
    switch (input.take(1) % 8) {
      case 0:
      case 1:
      case 2:
        // A FakeDriver has 128 descriptors and takes none back here: one chain needs at most 83.
        if (added++ == 0 || harness->driver(0).take_used()) add_chain(harness->driver(0), input);
        break;
      case 3:
        harness->notify(0);
        break;
      case 4:
        if (backend.waiting() > 0) {
          const auto outcome = input.take(1) % 4 == 0 ? blk::Outcome::kFailed : blk::Outcome::kDone;
          backend.finish(input.take(1) % backend.waiting(), outcome);
        }
        break;
      case 5:
        backend.finish_all();
        break;
      case 6:
        backend.refuse = !backend.refuse;
        break;
      default:
        device->reset();
        backend.finish_all();
        harness = std::make_unique<virtio::testing::DeviceHarness>(*device, options);
        harness->activate();
        added = 0;
    }
  }
  device->reset();
  backend.finish_all();
  return device->idle() ? 0 : 1;
}
