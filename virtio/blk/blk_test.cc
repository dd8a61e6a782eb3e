// SPDX-License-Identifier: Apache-2.0
#include "virtio/blk/blk.h"

#include "base/event/loop.h"
#include "virtio/blk/testing/memory_backend.h"
#include "virtio/blk/uring_backend.h"
#include "virtio/queue/testing/device_harness.h"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

namespace mayfly::virtio::blk {
namespace {

using testing::MemoryBackend;
using virtio::testing::DeviceHarness;
using virtio::testing::FakeDriver;
using virtio::testing::GuestBuffer;

using Bytes = std::vector<std::byte>;

constexpr uint64_t kDiskBytes = 64 * 1024;
constexpr uint64_t kSectors = kDiskBytes / kSectorSize;

Bytes pattern(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  Bytes bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

/// A disk in the test's memory with a driver in front of it.
struct Disk {
  explicit Disk(Access access = Access::kReadWrite)
      : Disk(std::make_unique<MemoryBackend>(kDiskBytes, access)) {}
  explicit Disk(std::unique_ptr<MemoryBackend> made)
      : backend(*made), blk(*Blk::create(std::move(made), "serial-1")), harness(*blk) {
    harness.activate();
  }

  FakeDriver& driver() { return harness.driver(0); }
  GuestBuffer header(uint32_t type, uint64_t sector) {
    return driver().readable_object(RequestHeader{type, 0, sector});
  }
  /// Kicks, ends everything, and returns the status byte that `buffer` ends with.
  int run(const GuestBuffer& buffer) {
    harness.notify(0);
    backend.finish_all();
    return status(buffer);
  }
  int status(const GuestBuffer& buffer) {
    return static_cast<int>(driver().contents(buffer.range).back());
  }
  int simple(uint32_t type, uint64_t sector, const std::vector<GuestBuffer>& data) {
    std::vector<GuestBuffer> chain{header(type, sector)};
    chain.insert(chain.end(), data.begin(), data.end());
    chain.push_back(driver().writable(1));
    driver().add(chain);
    const int result = run(chain.back());
    while (driver().take_used()) {
    }
    return result;
  }

  MemoryBackend& backend;
  std::unique_ptr<Blk> blk;
  DeviceHarness harness;
};

constexpr int kOk = 0;
constexpr int kIoError = 1;
constexpr int kUnsupported = 2;

TEST_CASE("configuration space says what the disk is, and nothing beyond") {
  Disk disk;
  Config config;
  disk.blk->read_config(0, std::as_writable_bytes(std::span(&config, 1)));
  CHECK_EQ(config.capacity, kSectors);
  CHECK_EQ(config.seg_max, kSegMax);
  CHECK_EQ(config.blk_size, 512);
  uint32_t low = 0;
  disk.blk->read_config(4, std::as_writable_bytes(std::span(&low, 1)));
  CHECK_EQ(low, 0);
  for (const uint64_t offset : {uint64_t{22}, uint64_t{24}, ~uint64_t{0}, ~uint64_t{0} - 3}) {
    Bytes out(8, std::byte{0xff});
    disk.blk->read_config(offset, out);
    CHECK_EQ(out[7], std::byte{0});
    disk.blk->write_config(offset, out);
  }
  CHECK_EQ(disk.blk->features(), (1u << 2 | 1u << 6 | 1u << 9));
  CHECK_EQ(Disk(Access::kReadOnly).blk->features(), (1u << 2 | 1u << 5 | 1u << 6 | 1u << 9));
}

TEST_CASE("serial numbers are bounded and printable") {
  const auto create = [](std::string_view serial) {
    return Blk::create(std::make_unique<MemoryBackend>(512, Access::kReadWrite), serial);
  };
  CHECK(create("").has_value());
  CHECK(create("12345678901234567890").has_value());
  CHECK_FALSE(create("123456789012345678901").has_value());
  CHECK_FALSE(create("new\nline").has_value());
}

TEST_CASE("a write lands on the disk and is read back, however the chains are cut") {
  Disk disk;
  FakeDriver& driver = disk.driver();
  const Bytes data = pattern(4096, 1);
  const auto part = [&](size_t at, size_t size) {
    return driver.readable(std::span(data).subspan(at, size));
  };
  CHECK_EQ(disk.simple(kRequestOut, 8, {part(0, 4096)}), kOk);
  CHECK(Bytes(disk.backend.bytes.begin() + 4096, disk.backend.bytes.begin() + 8192) == data);
  CHECK_EQ(disk.simple(kRequestOut, 16, {part(0, 1), part(1, 1000), part(1001, 3095)}), kOk);
  CHECK(Bytes(disk.backend.bytes.begin() + 8192, disk.backend.bytes.begin() + 12288) == data);

  // Header in three pieces, data in uneven ones, the status at the end of the last.
  const RequestHeader raw{kRequestIn, 0, 16};
  const auto bytes = std::as_bytes(std::span(&raw, 1));
  const std::vector<GuestBuffer> chain{driver.readable(bytes.first(3)),
                                       driver.readable(bytes.subspan(3, 5)),
                                       driver.readable(bytes.subspan(8)),
                                       driver.writable(7),
                                       driver.writable(4000),
                                       driver.writable(90)};
  driver.add_indirect(chain);
  disk.harness.notify(0);
  disk.backend.finish_all();
  Bytes read;
  for (size_t i = 3; i < 6; ++i) {
    const Bytes piece = driver.contents(chain[i].range);
    read.insert(read.end(), piece.begin(), piece.end());
  }
  REQUIRE_EQ(read.size(), 4097);
  CHECK_EQ(read.back(), std::byte{kOk});
  read.pop_back();
  CHECK(read == data);
  const auto used = driver.take_used();
  REQUIRE(used.has_value());
  CHECK_EQ(used->length, 4097);
  CHECK_EQ(disk.blk->counters().reads, 1);
  CHECK_EQ(disk.blk->counters().read_bytes, 4096);
  CHECK_EQ(disk.blk->counters().writes, 2);
  CHECK_EQ(disk.blk->counters().written_bytes, 8192);
  CHECK_EQ(disk.blk->counters().errors, 0);
}

TEST_CASE("header and data in one descriptor, data and status in one") {
  Disk disk;
  Bytes whole = pattern(16 + 512, 2);
  const RequestHeader raw{kRequestOut, 0, 1};
  std::ranges::copy(std::as_bytes(std::span(&raw, 1)), whole.begin());
  const GuestBuffer status = disk.driver().writable(1);
  disk.driver().add({disk.driver().readable(whole), status});
  CHECK_EQ(disk.run(status), kOk);
  CHECK(std::equal(whole.begin() + 16, whole.end(), disk.backend.bytes.begin() + 512));
}

TEST_CASE("a range that leaves the disk, or wraps, is an I/O error that reaches no backend") {
  Disk disk;
  FakeDriver& driver = disk.driver();
  const auto read = [&](uint64_t sector, uint64_t size) {
    return disk.simple(kRequestIn, sector, {driver.writable(size)});
  };
  CHECK_EQ(read(kSectors - 1, 512), kOk);
  CHECK_EQ(read(kSectors, 512), kIoError);
  CHECK_EQ(read(kSectors - 1, 1024), kIoError);
  CHECK_EQ(read(0, kDiskBytes), kOk);
  CHECK_EQ(read(0, kDiskBytes + 512), kIoError);
  for (const uint64_t sector : {~uint64_t{0}, ~uint64_t{0} - 1, ~uint64_t{0} / 512,
                                ~uint64_t{0} / 512 + 1, uint64_t{1} << 63, uint64_t{1} << 55}) {
    CHECK_EQ(read(sector, 512), kIoError);
    CHECK_EQ(disk.simple(kRequestOut, sector, {driver.readable(Bytes(512))}), kIoError);
  }
  CHECK_EQ(disk.blk->counters().errors, 15);
}

TEST_CASE("a length that is not a multiple of 512 is an I/O error") {
  Disk disk;
  for (const uint64_t size : {uint64_t{1}, uint64_t{511}, uint64_t{513}, uint64_t{4095}}) {
    CHECK_EQ(disk.simple(kRequestIn, 0, {disk.driver().writable(size)}), kIoError);
    CHECK_EQ(disk.simple(kRequestOut, 0, {disk.driver().readable(Bytes(size))}), kIoError);
  }
}

TEST_CASE("a request of no bytes is done at once inside the disk, and an error outside") {
  Disk disk;
  CHECK_EQ(disk.simple(kRequestIn, 0, {}), kOk);
  CHECK_EQ(disk.simple(kRequestOut, kSectors, {}), kOk);
  CHECK_EQ(disk.simple(kRequestIn, kSectors + 1, {}), kIoError);
}

TEST_CASE("a read-only disk refuses writes and keeps its bytes; flush is nothing to it") {
  Disk disk(Access::kReadOnly);
  CHECK_EQ(disk.simple(kRequestOut, 0, {disk.driver().readable(Bytes(512, std::byte{1}))}),
           kIoError);
  CHECK_EQ(disk.simple(kRequestOut, 0, {}), kIoError);
  CHECK_EQ(disk.simple(kRequestIn, 0, {disk.driver().writable(512)}), kOk);
  CHECK_EQ(disk.simple(kRequestFlush, 0, {}), kOk);
  CHECK(disk.backend.bytes == Bytes(kDiskBytes));
}

TEST_CASE("GET_ID gives the serial number, padded, into buffers of any size") {
  Disk disk;
  FakeDriver& driver = disk.driver();
  const GuestBuffer id = driver.writable(20);
  CHECK_EQ(disk.simple(kRequestGetId, 0, {id}), kOk);
  CHECK_EQ(driver.text(id.range), std::string("serial-1") + std::string(12, '\0'));
  const GuestBuffer small = driver.writable(6);
  CHECK_EQ(disk.simple(kRequestGetId, ~uint64_t{0}, {small}), kOk);
  CHECK_EQ(driver.text(small.range), "serial");
  CHECK_EQ(disk.simple(kRequestGetId, 0, {driver.writable(4096)}), kOk);
  CHECK_EQ(disk.simple(kRequestGetId, 0, {}), kOk);
}

TEST_CASE("unknown requests are told so") {
  Disk disk;
  for (const uint32_t type : {2u, 3u, 5u, 11u, 13u, 0x80000000u, ~0u}) {
    CHECK_EQ(disk.simple(type, 0, {disk.driver().writable(512)}), kUnsupported);
  }
}

TEST_CASE("FLUSH is passed on and counted") {
  Disk disk;
  CHECK_EQ(disk.simple(kRequestFlush, 0, {}), kOk);
  CHECK_EQ(disk.backend.flushes, 1);
  CHECK_EQ(disk.blk->counters().flushes, 1);
}

TEST_CASE("a chain without room for header or status breaks the protocol") {
  const auto reasons = [](auto&& build) {
    Disk disk;
    build(disk);
    disk.harness.notify(0);
    CHECK_EQ(disk.harness.resets_wanted, 1);
    CHECK_FALSE(disk.harness.queue(0).ready());
    // Later kicks find a queue that serves nothing.
    disk.harness.notify(0);
    CHECK_EQ(disk.harness.resets_wanted, 1);
  };
  reasons([](Disk& disk) { disk.driver().add({disk.header(kRequestIn, 0)}); });
  reasons([](Disk& disk) { disk.driver().add({disk.driver().writable(513)}); });
  reasons([](Disk& disk) {
    disk.driver().add({disk.driver().readable(Bytes(15)), disk.driver().writable(1)});
  });
}

TEST_CASE("more pieces than seg_max are an I/O error, exactly seg_max are not") {
  Disk disk;
  const auto read_in = [&](size_t pieces) {
    std::vector<GuestBuffer> data;
    for (size_t i = 0; i < pieces; ++i) data.push_back(disk.driver().writable(512));
    return disk.simple(kRequestIn, 0, data);
  };
  CHECK_EQ(read_in(kSegMax), kOk);
  CHECK_EQ(read_in(kSegMax + 1), kIoError);
  CHECK_EQ(read_in(120), kIoError);
  CHECK_EQ(read_in(1), kOk);
  CHECK(disk.backend.idle());
}

TEST_CASE("a backend's failure, at once or later, is an I/O error") {
  Disk disk;
  const std::vector<GuestBuffer> chain{disk.header(kRequestIn, 0), disk.driver().writable(512),
                                       disk.driver().writable(1)};
  disk.driver().add(chain);
  disk.harness.notify(0);
  disk.backend.finish_all(Outcome::kFailed);
  CHECK_EQ(disk.status(chain[2]), kIoError);
  CHECK_EQ(disk.driver().take_used()->length, 1);
  disk.backend.refuse = true;
  CHECK_EQ(disk.simple(kRequestIn, 0, {disk.driver().writable(512)}), kIoError);
  CHECK_EQ(disk.simple(kRequestFlush, 0, {}), kIoError);
  CHECK_EQ(disk.blk->counters().errors, 3);
  CHECK_EQ(disk.blk->counters().reads, 0);
}

TEST_CASE("one kick starts all that waits; answers in any order; inline answers signal once") {
  Disk disk;
  std::vector<GuestBuffer> status;
  for (uint64_t i = 0; i < 5; ++i) {
    status.push_back(disk.driver().writable(1));
    disk.driver().add({disk.header(kRequestIn, i), disk.driver().writable(512), status.back()});
  }
  disk.harness.notify(0);
  CHECK_EQ(disk.backend.waiting(), 5);
  CHECK_EQ(disk.harness.used_calls[0], 0);
  disk.backend.finish(3, Outcome::kDone);
  CHECK_EQ(disk.status(status[3]), kOk);
  CHECK_EQ(disk.status(status[0]), 0xa5);
  disk.backend.finish_all();
  int used = 0;
  while (disk.driver().take_used()) ++used;
  CHECK_EQ(used, 5);
  disk.harness.used_calls[0] = 0;
  for (int i = 0; i < 7; ++i) disk.driver().add({disk.header(99, 0), disk.driver().writable(1)});
  disk.harness.notify(0);
  CHECK_EQ(disk.harness.used_calls[0], 1);
  // Spurious.
  disk.harness.notify(0);
  CHECK_EQ(disk.harness.used_calls[0], 1);
}

TEST_CASE("while requests are served, the driver need not kick, and one turn has one interrupt") {
  Disk disk;
  const auto add = [&] {
    disk.driver().add(
        {disk.header(kRequestIn, 0), disk.driver().writable(512), disk.driver().writable(1)});
  };
  add();
  CHECK(disk.driver().kick_wanted());
  disk.harness.notify(0);
  add();
  CHECK_FALSE(disk.driver().kick_wanted());
  CHECK_EQ(disk.backend.waiting(), 1);
  disk.backend.take_turn();
  CHECK_EQ(disk.backend.waiting(), 2);
  // Nothing new is found: from now on it must.
  disk.backend.take_turn();
  add();
  CHECK(disk.driver().kick_wanted());
  CHECK_EQ(disk.harness.used_calls[0], 0);
  disk.backend.finish_without_turn(0);
  disk.backend.finish_without_turn(0);
  CHECK_FALSE(disk.blk->idle());
  disk.backend.take_turn();
  CHECK_EQ(disk.harness.used_calls[0], 1);
  CHECK_EQ(disk.backend.waiting(), 1);
  disk.backend.finish_all();
  CHECK(disk.blk->idle());
  CHECK_EQ(disk.blk->counters().reads, 3);
}

TEST_CASE("requests in flight at a reset are forgotten in silence, and hold the device from idle") {
  Disk disk;
  const GuestBuffer status = disk.driver().writable(1);
  disk.driver().add({disk.header(kRequestIn, 0), disk.driver().writable(512), status});
  disk.harness.notify(0);
  CHECK_FALSE(disk.blk->idle());
  disk.blk->reset();
  CHECK_EQ(disk.backend.abandoned, 1);
  CHECK_FALSE(disk.blk->idle());
  // The driver comes back before the kernel is done with the old request.
  disk.harness.activate();
  disk.backend.finish_all();
  CHECK(disk.blk->idle());
  CHECK_EQ(disk.status(status), 0xa5);
  CHECK_FALSE(disk.driver().take_used().has_value());
  CHECK_EQ(disk.harness.used_calls[0], 0);
  CHECK_EQ(disk.blk->counters().reads, 0);
}

TEST_CASE("with every request taken, chains wait and go on when one ends") {
  auto made = std::make_unique<MemoryBackend>(kDiskBytes, Access::kReadWrite);
  MemoryBackend& backend = *made;
  const auto blk = *Blk::create(std::move(made), "");
  // Each reset leaves 42 requests with the backend. Their memory stays, so every round has its own.
  std::vector<std::unique_ptr<DeviceHarness>> rounds;
  for (int round = 0; round < 4; ++round) {
    blk->reset();
    rounds.push_back(std::make_unique<DeviceHarness>(*blk));
    rounds.back()->activate();
    FakeDriver& driver = rounds.back()->driver(0);
    for (int i = 0; i < 42; ++i) {
      driver.add({driver.readable_object(RequestHeader{kRequestIn, 0, 0}), driver.writable(512),
                  driver.writable(1)});
    }
    rounds.back()->notify(0);
  }
  CHECK_EQ(backend.waiting(), kMaxRequests);
  for (int i = 0; i < 40; ++i) {
    backend.finish(0, Outcome::kDone);
    CHECK_EQ(backend.waiting(), kMaxRequests);
  }
  backend.finish_all();
  int used = 0;
  while (rounds.back()->driver(0).take_used()) ++used;
  CHECK_EQ(used, 42);
  CHECK(blk->idle());
  CHECK_FALSE(rounds.front()->driver(0).take_used().has_value());
}

TEST_CASE("a saved disk is restored onto the same disk only") {
  Disk disk;
  State state = disk.blk->save();
  CHECK_EQ(state.capacity_sectors, kSectors);
  state.serial = {'o', 't', 'h', 'e', 'r'};
  REQUIRE(disk.blk->restore(state));
  CHECK_EQ(disk.blk->save(), state);
  State bad = state;
  ++bad.capacity_sectors;
  CHECK_FALSE(disk.blk->restore(bad).has_value());
  bad = state;
  bad.read_only = true;
  CHECK_FALSE(disk.blk->restore(bad).has_value());
  bad = state;
  bad.serial[3] = '\x07';
  CHECK_FALSE(disk.blk->restore(bad).has_value());
  CHECK_EQ(disk.blk->save(), state);
}

TEST_CASE("random writes and reads through the ring agree with a copy of the disk") {
  constexpr uint64_t kSize = 1024 * 1024;
  auto loop = *Loop::create({});
  const auto blk =
      *Blk::create(*UringBackend::create(*loop, *Fd::memfd("disk", kSize), Access::kReadWrite), "");
  DeviceHarness harness(*blk, {.memory_bytes = 16 * 1024 * 1024, .data_size = 8 * 1024 * 1024});
  harness.activate();
  FakeDriver& driver = harness.driver(0);
  Bytes copy(kSize);
  std::mt19937_64 random(5);
  const auto run = [&] {
    harness.notify(0);
    while (!blk->idle()) REQUIRE(loop->run_once());
    while (driver.take_used()) {
    }
  };
  for (int round = 0; round < 20; ++round) {
    // Writes of one batch do not overlap: their order is not defined.
    std::vector<GuestBuffer> status;
    for (uint64_t slot = 0; slot < 16; ++slot) {
      const uint64_t size = 512 * (1 + random() % 40);
      const uint64_t sector = slot * 128 + random() % 80;
      const Bytes data = pattern(size, random());
      const uint64_t cut = random() % size;
      std::ranges::copy(data, copy.begin() + static_cast<ptrdiff_t>(sector * 512));
      status.push_back(driver.writable(1));
      driver.add({driver.readable_object(RequestHeader{kRequestOut, 0, sector}),
                  driver.readable(std::span(data).first(cut)),
                  driver.readable(std::span(data).subspan(cut)), status.back()});
    }
    run();
    status.push_back(driver.writable(1));
    driver.add({driver.readable_object(RequestHeader{kRequestFlush, 0, 0}), status.back()});
    run();
    const uint64_t sector = random() % (kSize / 512 - 256);
    const GuestBuffer data = driver.writable(256 * 512);
    status.push_back(driver.writable(1));
    driver.add_indirect(
        {driver.readable_object(RequestHeader{kRequestIn, 0, sector}), data, status.back()});
    run();
    for (const GuestBuffer& byte : status) CHECK_EQ(driver.contents(byte.range)[0], std::byte{0});
    const auto expected = std::span(copy).subspan(sector * 512, 256 * 512);
    CHECK(std::ranges::equal(driver.contents(data.range), expected));
  }
  CHECK_EQ(blk->counters().writes, 320);
  CHECK_EQ(blk->counters().flushes, 20);
}

TEST_CASE("a file truncated behind the guest's back gives I/O errors") {
  auto loop = *Loop::create({});
  Fd file = *Fd::memfd("disk", 65536);
  const Fd same = *Fd::duplicate(file.ref());
  const auto blk =
      *Blk::create(*UringBackend::create(*loop, std::move(file), Access::kReadWrite), "");
  DeviceHarness harness(*blk);
  harness.activate();
  REQUIRE_EQ(::ftruncate(same.number(), 512), 0);
  FakeDriver& driver = harness.driver(0);
  const GuestBuffer status = driver.writable(1);
  driver.add(
      {driver.readable_object(RequestHeader{kRequestIn, 0, 0}), driver.writable(4096), status});
  harness.notify(0);
  while (!blk->idle()) REQUIRE(loop->run_once());
  CHECK_EQ(driver.contents(status.range)[0], std::byte{1});
}

}  // namespace
}  // namespace mayfly::virtio::blk
