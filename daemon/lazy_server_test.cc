// SPDX-License-Identifier: Apache-2.0
// The memory of this very process, filled as a VM's is. Needs /dev/userfaultfd.
#include "daemon/lazy_server.h"

#include "snapshot/testing/sample.h"

#include <doctest/doctest.h>

#include <atomic>
#include <bit>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <optional>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

using namespace mayfly;
using namespace mayfly::daemon;
using snapshot::kPageBytes;
using snapshot::testing::kSampleBytes;

namespace {

Fd new_userfault() {
  const auto device = Fd::open("/dev/userfaultfd", O_RDWR);
  if (!device) return Fd();
  return Fd(::ioctl(device->number(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
}

/// kSampleBytes that are missing, as a monitor would have mapped them.
struct Memory {
  Memory() : file(*Fd::memfd("guest", kSampleBytes)) {
    void* room =
        ::mmap(nullptr, kSampleBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.number(), 0);
    REQUIRE(room != MAP_FAILED);
    address = std::bit_cast<uintptr_t>(room);
  }
  ~Memory() { ::munmap(std::bit_cast<void*>(address), kSampleBytes); }
  MissingMemory missing() const {
    return {.userfault = *Userfault::adopt(new_userfault()),
            .regions = {{.guest_address = 0,
                         .size_bytes = kSampleBytes,
                         .file_offset = 0,
                         .address = address}},
            .file = file.ref(),
            .size_bytes = kSampleBytes};
  }
  std::vector<std::byte> content() const {
    std::vector<std::byte> bytes(kSampleBytes);
    std::memcpy(bytes.data(), std::bit_cast<const void*>(address), kSampleBytes);
    return bytes;
  }

  Fd file;
  uintptr_t address = 0;
};

struct Outcome {
  MemorySource::EndHook hook() {
    return [this](Result<> ended) {
      std::lock_guard lock(mutex);
      result = std::move(ended);
      changed.notify_all();
    };
  }
  Result<> wait() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return result.has_value(); });
    return *result;
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::optional<Result<>> result;
};

snapshot::Chain chain_of(const snapshot::testing::TempDirectory& store, bool is_compressed) {
  const Fd ram = snapshot::testing::sample_ram();
  REQUIRE(snapshot::testing::write_sample(
      store.fd(),
      {.id = "snap", .ram = ram.ref(), .with_working_set = true, .is_compressed = is_compressed}));
  return *snapshot::Chain::open(store.fd(), "snap");
}

std::vector<std::byte> content_of(const snapshot::Chain& chain) {
  const Fd memfd = *Fd::memfd("expected", kSampleBytes);
  REQUIRE(chain.memory().apply_to(memfd.ref()));
  return snapshot::testing::content_of(memfd.ref());
}

bool has_device() {
  if (new_userfault().valid()) return true;
  std::printf("SKIPPED: /dev/userfaultfd cannot be used on this host\n");
  return false;
}

}  // namespace

TEST_CASE("what is touched is what the snapshot has, and a fault brings all of its chunk") {
  if (!has_device()) return;
  for (const bool is_compressed : {false, true}) {
    const snapshot::testing::TempDirectory store;
    snapshot::Chain chain = chain_of(store, is_compressed);
    const auto expected = content_of(chain);
    LazyServer server(2);
    const Memory memory;
    Outcome outcome;
    auto fill = server.source(std::move(chain))->begin(memory.missing(), outcome.hook(), Call());
    REQUIRE(fill.has_value());
    CHECK(memory.content() == expected);
    REQUIRE(outcome.wait().has_value());
    const FillProgress progress = (*fill)->progress();
    CHECK_EQ(progress.filled_bytes, progress.source_bytes);
    CHECK_EQ(progress.source_bytes, 3 * snapshot::kChunkBytes);
    CHECK_LE(progress.fault_count, 3);
    CHECK(memory.content() == expected);
  }
}

TEST_CASE("a memory that is hurried is there, though nobody touches it") {
  if (!has_device()) return;
  const snapshot::testing::TempDirectory store;
  LazyServer server(1);
  const Memory memory;
  Outcome outcome;
  snapshot::Chain chain = chain_of(store, true);
  const auto expected = content_of(chain);
  auto fill = server.source(std::move(chain))->begin(memory.missing(), outcome.hook(), Call());
  REQUIRE(fill.has_value());
  (*fill)->hurry();
  REQUIRE(outcome.wait().has_value());
  CHECK_EQ((*fill)->progress().fault_count, 0);
  CHECK(memory.content() == expected);
}

TEST_CASE("one that is stopped or dropped ends, with no word but that the VM is gone") {
  if (!has_device()) return;
  const snapshot::testing::TempDirectory store;
  LazyServer server(1);
  const Memory memory;
  Outcome outcome;
  auto fill =
      server.source(chain_of(store, false))->begin(memory.missing(), outcome.hook(), Call());
  REQUIRE(fill.has_value());
  (*fill)->stop();
  const Result<> result = outcome.wait();
  if (!result) CHECK_EQ(result.error().reason(), "VM_GONE");
  fill->reset();
}

TEST_CASE("damage is told of, and no damaged page is put in place") {
  if (!has_device()) return;
  const snapshot::testing::TempDirectory store;
  snapshot::Chain chain = chain_of(store, true);
  {
    const Fd file = *Fd::open(store.path("snap/memory.zst").c_str(), O_RDWR);
    std::byte byte[1];
    REQUIRE(pread_exact(file.ref(), byte, 20));
    byte[0] ^= std::byte{1};
    REQUIRE_EQ(::pwrite(file.number(), byte, 1, 20), 1);
  }
  LazyServer server(1);
  const Memory memory;
  Outcome outcome;
  auto fill = server.source(std::move(chain))->begin(memory.missing(), outcome.hook(), Call());
  REQUIRE(fill.has_value());
  (*fill)->hurry();
  const Result<> result = outcome.wait();
  REQUIRE_FALSE(result.has_value());
  CHECK_EQ(result.error().code(), Code::kDataLoss);
  CHECK_EQ(result.error().reason(), "MEMORY_DAMAGED");
}

TEST_CASE("what is no userfaultfd is not taken for one") {
  CHECK_EQ(Userfault::adopt(*Fd::event()).error().reason(), "USERFAULT");
  CHECK_EQ(Userfault::adopt(*Fd::memfd("none", kPageBytes)).error().reason(), "USERFAULT");
  if (!has_device()) return;
  Fd first = new_userfault();
  Fd again = *Fd::duplicate(first.ref());
  CHECK(Userfault::adopt(std::move(first)).has_value());
  CHECK_EQ(Userfault::adopt(std::move(again)).error().reason(), "USERFAULT");
}

TEST_CASE("a monitor's table of regions covers the memory or is refused") {
  constexpr uint64_t kSize = 8 * snapshot::kChunkBytes;
  const auto reason = [](std::vector<MonitorRegion> regions) {
    const Result<> result = check_regions(regions, kSize);
    return result ? std::string() : std::string(result.error().reason());
  };
  const MonitorRegion low = {.guest_address = 0,
                             .size_bytes = 6 * snapshot::kChunkBytes,
                             .file_offset = 0,
                             .address = 0x10000};
  const MonitorRegion high = {.guest_address = uint64_t{1} << 32,
                              .size_bytes = 2 * snapshot::kChunkBytes,
                              .file_offset = 6 * snapshot::kChunkBytes,
                              .address = 0x40000000};
  CHECK_EQ(reason({low, high}), "");
  const auto changed = [](MonitorRegion region, uint64_t MonitorRegion::* field, uint64_t value) {
    region.*field = value;
    return region;
  };
  for (const std::vector<MonitorRegion>& bad : std::vector<std::vector<MonitorRegion>>{
           {},
           {low},
           {high, low},
           {low, low},
           {low, high, high},
           {low, changed(high, &MonitorRegion::size_bytes, 2 * snapshot::kChunkBytes + kPageBytes)},
           {low, changed(high, &MonitorRegion::size_bytes, 0)},
           {low, changed(high, &MonitorRegion::size_bytes, ~uint64_t{0})},
           {low, changed(high, &MonitorRegion::address, ~uint64_t{0xfff})},
           {low, changed(high, &MonitorRegion::address, 0x40000001)},
           {changed(low, &MonitorRegion::size_bytes, kPageBytes), high},
           {changed(low, &MonitorRegion::file_offset, kPageBytes), high}}) {
    CHECK_EQ(reason(bad), "MONITOR_REPLY");
  }
}
