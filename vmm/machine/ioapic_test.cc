// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/ioapic.h"

#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <vector>

namespace mayfly {
namespace {

constexpr uint32_t kPins = 9;

struct Recorder final : Ioapic::MessageSink {
  void signal_msi(uint64_t address, uint32_t data) override { sent.emplace_back(address, data); }
  std::vector<std::pair<uint64_t, uint32_t>> sent;
};

void write32(Ioapic& ioapic, uint64_t offset, uint32_t value) {
  std::array<std::byte, 4> bytes;
  std::memcpy(bytes.data(), &value, 4);
  ioapic.write(offset, bytes);
}

void set(Ioapic& ioapic, uint32_t index, uint32_t value) {
  write32(ioapic, 0, index);
  write32(ioapic, 0x10, value);
}

uint32_t get(Ioapic& ioapic, uint32_t index) {
  write32(ioapic, 0, index);
  std::array<std::byte, 4> bytes{};
  ioapic.read(0x10, bytes);
  uint32_t value;
  std::memcpy(&value, bytes.data(), 4);
  return value;
}

TEST_CASE("what is restored is what was saved, but for bits that a guest cannot write") {
  Recorder recorder;
  Ioapic saved(recorder, kPins);
  set(saved, 0x10 + 2 * 4, 0x1'0031);
  saved.raise(4);
  IoapicState state = saved.save();
  CHECK(state.pending[4]);
  state.select = ~0u;
  state.id = ~0u;
  state.redirection[5] = ~uint64_t{0};
  Ioapic restored(recorder, kPins);
  restored.restore(state);
  CHECK_EQ(get(restored, 0), 0x0f00'0000);
  CHECK_EQ(get(restored, 0x10 + 2 * 5), 0xffff'afff);
  CHECK(recorder.sent.empty());
  set(restored, 0x10 + 2 * 4, 0x31);
  CHECK_EQ(recorder.sent.size(), 1);
}

TEST_CASE("an unmasked pin sends the message its entry describes") {
  Recorder recorder;
  Ioapic ioapic(recorder, kPins);
  set(ioapic, 0x10 + 2 * 5 + 1, 3u << 24);
  set(ioapic, 0x10 + 2 * 5, 0x31 | 1 << 8 | 1 << 11);
  ioapic.raise(5);
  REQUIRE_EQ(recorder.sent.size(), 1);
  CHECK_EQ(recorder.sent[0].first, 0xfee0'0000 | 3 << 12 | 1 << 2);
  CHECK_EQ(recorder.sent[0].second, 0x31 | 1 << 8);
}

TEST_CASE("a masked pin keeps one interrupt until it is unmasked") {
  Recorder recorder;
  Ioapic ioapic(recorder, kPins);
  ioapic.raise(7);
  ioapic.raise(7);
  CHECK(recorder.sent.empty());
  set(ioapic, 0x10 + 2 * 7, 0x40);
  CHECK_EQ(recorder.sent.size(), 1);
  set(ioapic, 0x10 + 2 * 7, 0x40);
  CHECK_EQ(recorder.sent.size(), 1);
}

TEST_CASE("registers that do not exist read as zero and swallow writes") {
  Recorder recorder;
  Ioapic ioapic(recorder, kPins);
  CHECK_EQ(get(ioapic, 1), 0x0008'0020);
  for (const uint32_t index : {0x03u, 0x0fu, 0x10u + 2 * kPins, 0xffu}) {
    set(ioapic, index, 0xffff'ffff);
    CHECK_EQ(get(ioapic, index), 0);
  }
  set(ioapic, 0x10, 0xffff'ffff);
  CHECK_EQ(get(ioapic, 0x10) & 0x5000, 0);
  std::array<std::byte, 2> narrow{};
  ioapic.write(0, narrow);
  ioapic.read(0x10, narrow);
  CHECK(recorder.sent.empty());
}

}  // namespace
}  // namespace mayfly
