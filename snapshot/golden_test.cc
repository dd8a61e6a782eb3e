// SPDX-License-Identifier: Apache-2.0
// Snapshots written by the first version of the format load, with every value, for ever.
#include "snapshot/testing/golden.h"

#include "snapshot/chain.h"
#include "snapshot/files.h"
#include "snapshot/state_codec.h"

#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>

#include <fcntl.h>

namespace mayfly::snapshot {
namespace {

namespace fs = std::filesystem;

using testing::kSampleBytes;
using testing::TempDirectory;

const fs::path kKept = "snapshot/testdata";
// But for the memory, which lies there without its holes.
constexpr const char* kKeptFiles[] = {kManifestName, kStateName, kMemoryIndexName, kWorkingSetName,
                                      "disk.1"};

std::vector<std::byte> file_bytes(const fs::path& path) {
  const Fd file = *Fd::open(path.c_str(), O_RDONLY);
  std::vector<std::byte> bytes(*file_size(file.ref()));
  REQUIRE(pread_exact(file.ref(), bytes, 0).has_value());
  return bytes;
}

// The kept files, as the directories they were.
void unpack(const TempDirectory& store) {
  for (const testing::Golden& golden : testing::golden_snapshots()) {
    const fs::path from = kKept / ("v" + std::to_string(golden.version)) / golden.name;
    const fs::path to = store.path(golden.name);
    fs::create_directory(to);
    for (const char* name : kKeptFiles) {
      if (fs::exists(from / name)) fs::copy_file(from / name, to / name);
    }
    const Fd memory = *Fd::open((to / kMemoryName).c_str(), O_RDWR | O_CREAT, 0600);
    const std::vector<std::byte> pages = file_bytes(from / "pages");
    REQUIRE_EQ(pages.size(), golden.stored_pages.size() * kPageBytes);
    for (size_t i = 0; i < golden.stored_pages.size(); ++i) {
      const auto page = std::span(pages).subspan(i * kPageBytes, kPageBytes);
      REQUIRE(write_at(memory.ref(), page, golden.stored_pages[i] * kPageBytes).has_value());
    }
    fs::resize_file(to / kMemoryName, kSampleBytes);
  }
}

void check_state(const MachineState& state) {
  const MachineState expected = testing::sample_state();
  REQUIRE_EQ(state.vcpus.size(), expected.vcpus.size());
  for (size_t i = 0; i < state.vcpus.size(); ++i) {
    CHECK_EQ(std::memcmp(&state.vcpus[i], &expected.vcpus[i], sizeof(Vcpu)), 0);
  }
  CHECK(state.ioapic == expected.ioapic);
  CHECK(state.devices == expected.devices);
  CHECK(state.clock == expected.clock);
}

void check_manifest(const Manifest& manifest) {
  const Manifest expected = testing::sample_manifest(manifest.id);
  CHECK_EQ(manifest.created_ns, expected.created_ns);
  MachineInfo machine = manifest.machine;
  // Of a version 2.
  if (machine.disks.size() == 2) machine.disks.pop_back();
  CHECK(machine == expected.machine);
  const HostRequirements &host = manifest.host, &wanted = expected.host;
  CHECK_EQ(host.cpu_vendor, wanted.cpu_vendor);
  CHECK_EQ(host.cpu_family, wanted.cpu_family);
  CHECK_EQ(host.cpu_model, wanted.cpu_model);
  CHECK_EQ(host.cpu_stepping, wanted.cpu_stepping);
  CHECK_EQ(std::memcmp(&host.cpuid, &wanted.cpuid, sizeof(wanted.cpuid)), 0);
  CHECK_EQ(host.msrs, wanted.msrs);
  CHECK_EQ(host.xsave_features, wanted.xsave_features);
  CHECK_EQ(host.page_bytes, wanted.page_bytes);
  CHECK_EQ(host.tsc_khz, wanted.tsc_khz);
  CHECK_EQ(host.kvm_clock, wanted.kvm_clock);
}

std::vector<std::byte> restored(const Chain& chain) {
  const Fd memfd = *Fd::memfd("restored", kSampleBytes);
  REQUIRE(chain.memory().apply_to(memfd.ref()).has_value());
  return testing::content_of(memfd.ref());
}

TEST_CASE("the first version's full snapshot loads, with every value") {
  const TempDirectory store;
  unpack(store);
  const auto chain = Chain::open(store.fd(), "base");
  REQUIRE(chain.has_value());
  REQUIRE(chain->verify_memory().has_value());
  const Snapshot& base = chain->newest();
  CHECK_EQ(base.manifest().id, "base");
  CHECK_EQ(base.manifest().kind, Kind::kFull);
  check_manifest(base.manifest());
  check_state(base.state());
  REQUIRE(base.working_set().has_value());
  CHECK(*base.working_set() == testing::sample_working_set());
  CHECK(restored(*chain) == testing::content_of(testing::golden_base_ram().ref()));
}

TEST_CASE("the first version's diff loads over it") {
  const TempDirectory store;
  unpack(store);
  const auto chain = Chain::open(store.fd(), "diff");
  REQUIRE(chain.has_value());
  REQUIRE(chain->verify_memory().has_value());
  REQUIRE_EQ(chain->snapshots().size(), 2);
  const Snapshot& diff = chain->newest();
  CHECK_EQ(diff.manifest().kind, Kind::kDiff);
  CHECK_EQ(diff.manifest().parent->id, "base");
  CHECK_FALSE(diff.working_set().has_value());
  CHECK(diff.index()->index.find(0)->zero[511]);
  check_manifest(diff.manifest());
  check_state(diff.state());
  CHECK(restored(*chain) == testing::content_of(testing::golden_diff_ram().ref()));
}

TEST_CASE("the second version's snapshot loads, with its disk") {
  const TempDirectory store;
  unpack(store);
  CHECK_EQ(file_bytes(store.path("disks/manifest"))[8], std::byte{2});
  const auto chain = Chain::open(store.fd(), "disks");
  REQUIRE(chain.has_value());
  REQUIRE(chain->verify_memory().has_value());
  REQUIRE(chain->verify_disks().has_value());
  const Snapshot& snapshot = chain->newest();
  check_manifest(snapshot.manifest());
  check_state(snapshot.state());
  const DiskInfo disk = {
      .size_bytes = testing::kSampleDiskBytes, .read_only = false, .serial = {}, .captured = true};
  CHECK(snapshot.manifest().machine.disks[1] == disk);
  CHECK(testing::content_of(snapshot.disk(1)) == testing::content_of(testing::sample_disk().ref()));
  CHECK(restored(*chain) == testing::content_of(testing::golden_base_ram().ref()));
}

// Within a minor version. One that adds fields changes this test to compare what it did not add.
TEST_CASE("the writer still produces the same bytes") {
  const TempDirectory store, kept;
  unpack(kept);
  REQUIRE(testing::write_golden(store.fd()).has_value());
  for (const testing::Golden& golden : testing::golden_snapshots()) {
    size_t files = 0;
    for (const auto& entry : fs::directory_iterator(kept.path(golden.name))) {
      const fs::path written = fs::path(store.path(golden.name)) / entry.path().filename();
      INFO(written.string());
      CHECK(file_bytes(written) == file_bytes(entry.path()));
      ++files;
    }
    CHECK_GE(files, 4);
  }
}

}  // namespace
}  // namespace mayfly::snapshot
