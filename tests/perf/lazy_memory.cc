// SPDX-License-Identifier: Apache-2.0
//
// What a working set of 24 MiB costs out of a snapshot of 128 MiB, in each way in which its memory
// can come. README.md says how to read it. Needs /dev/userfaultfd.
#include "base/clock.h"
#include "daemon/lazy_server.h"
#include "snapshot/state_codec.h"
#include "snapshot/testing/sample.h"
#include "tests/perf/rounds.h"

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

namespace mayfly::perf {
namespace {

using daemon::LazyServer;

constexpr uint64_t kRamBytes = uint64_t{128} << 20;
constexpr uint64_t kWorkingSet = uint64_t{24} << 20;
constexpr uint64_t kPage = snapshot::kPageBytes;
constexpr uint32_t kRounds = 30;

// Runs of 64 pages all over RAM, as a program's parts are.
std::vector<uint64_t> touched_pages() {
  std::vector<uint64_t> pages;
  constexpr uint64_t kRun = 64;
  constexpr uint64_t kRuns = kWorkingSet / kPage / kRun;
  constexpr uint64_t kStride = kRamBytes / kPage / kRuns;
  for (uint64_t run = 0; run < kRuns; ++run) {
    for (uint64_t page = 0; page < kRun; ++page) pages.push_back(run * kStride + page);
  }
  return pages;
}

// Half of what is in a page is noise.
Result<Fd> make_ram() {
  Fd ram = TRY(Fd::memfd("ram", kRamBytes));
  std::mt19937_64 random(1);
  std::vector<uint64_t> page(kPage / sizeof(uint64_t));
  for (uint64_t number = 0; number < kRamBytes / kPage; ++number) {
    for (size_t i = 0; i < page.size(); ++i) page[i] = i % 2 == 0 ? random() : number;
    if (::pwrite(ram.number(), page.data(), kPage, static_cast<off_t>(number * kPage)) !=
        static_cast<ssize_t>(kPage)) {
      return fail({Code::kUnavailable, "WRITE"}, "ram: page %llu",
                  static_cast<unsigned long long>(number));
    }
  }
  return ram;
}

Result<> make_snapshot(FdRef store, FdRef ram, const char* name, bool is_compressed) {
  snapshot::SnapshotWriter writer =
      TRY(snapshot::SnapshotWriter::create({.store = store, .name = name}));
  snapshot::MemfdRam source(ram, kRamBytes);
  const char* part = is_compressed ? snapshot::kCompressedMemoryName : snapshot::kMemoryName;
  const auto written = TRY(snapshot::write_memory({.file = TRY(writer.create_part(part)),
                                                   .ram = source,
                                                   .memory_bytes = kRamBytes,
                                                   .is_compressed = is_compressed}));
  TRY(writer.write_part(snapshot::kMemoryIndexName, TRY(snapshot::encode_index(written.index))));
  TRY(writer.write_part(snapshot::kStateName,
                        snapshot::encode_state(snapshot::testing::sample_state())));
  snapshot::Manifest manifest = snapshot::testing::sample_manifest(name);
  manifest.kind = snapshot::Kind::kFull;
  manifest.machine.memory_bytes = kRamBytes;
  return writer.commit(std::move(manifest));
}

class Mapping {
 public:
  static Result<Mapping> of(FdRef file, int flags) {
    void* at = ::mmap(nullptr, kRamBytes, PROT_READ | PROT_WRITE, flags, file.number(), 0);
    if (at == MAP_FAILED) return fail_errno({Code::kUnavailable, "MMAP"}, errno, "map RAM");
    return Mapping(std::bit_cast<uintptr_t>(at));
  }
  Mapping(Mapping&& other) noexcept : address_(std::exchange(other.address_, 0)) {}
  ~Mapping() {
    if (address_ != 0) ::munmap(std::bit_cast<void*>(address_), kRamBytes);
  }
  uintptr_t address() const { return address_; }
  // 80 % reads, as a request's.
  void touch(const std::vector<uint64_t>& pages) const {
    for (size_t i = 0; i < pages.size(); ++i) {
      auto* byte = std::bit_cast<volatile char*>(address_ + pages[i] * kPage);
      if (i % 5 == 0) {
        *byte = 1;
      } else {
        (void)*byte;
      }
    }
  }

 private:
  explicit Mapping(uintptr_t address) : address_(address) {}
  uintptr_t address_;
};

struct Place {
  FdRef store;
  LazyServer& server;
  const std::vector<uint64_t>& pages;
};

Result<Sample> plain(const Place& place) {
  const auto chain = TRY(snapshot::Chain::open(place.store, "plain"));
  const uint64_t begin_ns = monotonic_ns();
  const Mapping ram = TRY(Mapping::of(chain.newest().memory(), MAP_PRIVATE | MAP_NORESERVE));
  ram.touch(place.pages);
  return Sample{.wall_ns = monotonic_ns() - begin_ns};
}

Result<Sample> expanded(const Place& place) {
  const auto chain = TRY(snapshot::Chain::open(place.store, "packed"));
  const uint64_t begin_ns = monotonic_ns();
  const Fd file = TRY(Fd::memfd("template", kRamBytes));
  TRY(chain.memory().apply_to(file.ref()));
  const Mapping ram = TRY(Mapping::of(file.ref(), MAP_PRIVATE | MAP_NORESERVE));
  ram.touch(place.pages);
  return Sample{.wall_ns = monotonic_ns() - begin_ns};
}

Result<Sample> lazy(const Place& place, const char* name) {
  auto chain = TRY(snapshot::Chain::open(place.store, name));
  const Fd device = TRY(Fd::open("/dev/userfaultfd", O_RDWR));
  const uint64_t begin_ns = monotonic_ns();
  const Fd file = TRY(Fd::memfd("guest", kRamBytes));
  const Mapping ram = TRY(Mapping::of(file.ref(), MAP_SHARED));
  Fd userfault(::ioctl(device.number(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
  const auto fill = TRY(place.server.source(std::move(chain))
                            ->begin(
                                {.userfault = TRY(daemon::Userfault::adopt(std::move(userfault))),
                                 .regions = {{.guest_address = 0,
                                              .size_bytes = kRamBytes,
                                              .file_offset = 0,
                                              .address = ram.address()}},
                                 .file = file.ref(),
                                 .size_bytes = kRamBytes},
                                [](Result<>) {}, daemon::Call()));
  ram.touch(place.pages);
  return Sample{.wall_ns = monotonic_ns() - begin_ns, .minor_faults = fill->progress().fault_count};
}

Result<> run() {
  const snapshot::testing::TempDirectory store;
  {
    const Fd ram = TRY(make_ram());
    TRY(make_snapshot(store.fd(), ram.ref(), "plain", false));
    TRY(make_snapshot(store.fd(), ram.ref(), "packed", true));
  }
  const std::vector<uint64_t> pages = touched_pages();
  LazyServer server(2);
  const Place place{.store = store.fd(), .server = server, .pages = pages};
  std::vector<Contender> contenders;
  contenders.push_back({"plain mapping", [&] { return plain(place); }});
  contenders.push_back({"compressed, all of it first", [&] { return expanded(place); }});
  contenders.push_back({"lazy", [&] { return lazy(place, "plain"); }});
  contenders.push_back({"compressed, lazy", [&] { return lazy(place, "packed"); }});
  const auto samples = TRY(run_rounds(contenders, kRounds));
  for (size_t i = 0; i < contenders.size(); ++i) {
    std::vector<double> walls, ratios, faults;
    for (size_t round = 0; round < samples[i].size(); ++round) {
      const auto wall = static_cast<double>(samples[i][round].wall_ns);
      walls.push_back(wall / 1e6);
      ratios.push_back(wall / static_cast<double>(samples[0][round].wall_ns));
      faults.push_back(static_cast<double>(samples[i][round].minor_faults));
    }
    std::printf(
        "%-28s %8.2f ms  %5.2f of the plain mapping  %4.0f faults told, %zu pages touched\n",
        contenders[i].name.c_str(), quantile(walls, 0.5), quantile(ratios, 0.5),
        quantile(faults, 0.5), pages.size());
  }
  return {};
}

}  // namespace
}  // namespace mayfly::perf

int main() {
  const mayfly::Result<> result = mayfly::perf::run();
  if (!result) std::fprintf(stderr, "lazy_memory: %s\n", result.error().describe().c_str());
  return result ? 0 : 1;
}
