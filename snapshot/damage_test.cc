// SPDX-License-Identifier: Apache-2.0
// Every way to damage a snapshot's directory ends in an error or in the same machine.
#include "snapshot/files.h"
#include "snapshot/reader.h"
#include "snapshot/state_codec.h"
#include "snapshot/testing/sample.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <filesystem>
#include <random>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace mayfly::snapshot {
namespace {

using testing::kSampleBytes;
using testing::TempDirectory;

namespace fs = std::filesystem;

constexpr char kDiskName[] = "disk.1";
constexpr const char* kFiles[] = {kManifestName,    kStateName,      kMemoryName,
                                  kMemoryIndexName, kWorkingSetName, kDiskName};

// All that a snapshot says, for comparison.
struct Contents {
  std::string manifest, state, working_set;
  std::vector<std::byte> memory, disk;
  friend bool operator==(const Contents&, const Contents&) = default;
};

Result<Contents> read_all(FdRef store) {
  const Snapshot snapshot = TRY(Snapshot::open(store, "snap"));
  TRY(snapshot.verify_memory());
  TRY(snapshot.verify_disks());
  const Fd memfd = TRY(Fd::memfd("restored", kSampleBytes));
  TRY(LayeredMemory({snapshot.layer()}).apply_to(memfd.ref()));
  return Contents{.manifest = encode_manifest(snapshot.manifest()).bytes,
                  .state = encode_state(snapshot.state()).bytes,
                  .working_set = snapshot.working_set()
                                     ? encode_working_set(*snapshot.working_set()).bytes
                                     : "",
                  .memory = testing::content_of(memfd.ref()),
                  .disk = testing::content_of(snapshot.disk(1))};
}

struct Scene {
  Scene() {
    const Fd ram = testing::sample_ram();
    const Fd disk = testing::sample_disk();
    REQUIRE(testing::write_sample(
                store.fd(),
                {.id = "snap", .ram = ram.ref(), .with_working_set = true, .disk = disk.ref()})
                .has_value());
    original = *read_all(store.fd());
  }
  std::string path(const char* file) const { return store.path(std::string("snap/") + file); }
  // Error, or what was written; never anything else. True for an error.
  bool refused() const {
    const auto read = read_all(store.fd());
    if (read) {
      CHECK(*read == original);
      return false;
    }
    const Code code = read.error().code();
    INFO(read.error().describe());
    CHECK((code == Code::kDataLoss || code == Code::kFailedPrecondition));
    return true;
  }

  TempDirectory store;
  Contents original;
};

TEST_CASE("every file at every length of interest but its own is refused") {
  Scene scene;
  size_t tried = 0;
  for (const char* name : kFiles) {
    const uint64_t size = fs::file_size(scene.path(name));
    const std::string kept = scene.store.path("kept");
    std::vector<uint64_t> lengths = {
        0,    1,    8,           15,          16,       47,          48,       63,
        64,   65,   size / 2,    size - 1,    size + 1, size + 4095, size * 2, 4095,
        4096, 4097, size - 4096, size + 4096, 2 << 20,  4 << 20,     size - 2, uint64_t{1} << 33};
    // Where each byte may end a field: all of them, in the small files.
    if (size < 1024) {
      for (uint64_t length = 0; length < size; ++length) lengths.push_back(length);
    }
    for (const uint64_t length : lengths) {
      if (length == size || length > (uint64_t{1} << 40)) continue;
      fs::copy(scene.path(name), kept);
      REQUIRE_EQ(::truncate(scene.path(name).c_str(), static_cast<off_t>(length)), 0);
      INFO(name << " of " << length << " bytes instead of " << size);
      CHECK(scene.refused());
      fs::rename(kept, scene.path(name));
      ++tried;
    }
  }
  std::printf("%zu lengths\n", tried);
  CHECK_FALSE(scene.refused());
}

TEST_CASE("a file that is missing, moved, doubled or no file is refused") {
  Scene scene;
  const std::string kept = scene.store.path("kept");
  for (const char* name : kFiles) {
    INFO(name);
    const std::string path = scene.path(name);
    fs::rename(path, kept);
    CHECK(scene.refused());
    fs::create_symlink(kept, path);
    CHECK(scene.refused());
    fs::remove(path);
    fs::create_directory(path);
    CHECK(scene.refused());
    fs::remove(path);
    REQUIRE_EQ(::mkfifo(path.c_str(), 0600), 0);
    CHECK(scene.refused());  // and does not wait for a writer
    fs::remove(path);
    fs::copy(scene.path(name == kFiles[0] ? kFiles[1] : kFiles[0]), path);
    CHECK(scene.refused());
    fs::remove(path);
    fs::rename(kept, path);
  }
  for (const char* extra : {"extra", "manifest~", ".hidden", "state.1", "disk.0", "disk.01"}) {
    fs::copy(scene.path(kStateName), scene.path(extra));
    CHECK(scene.refused());
    fs::remove(scene.path(extra));
  }
  CHECK_FALSE(scene.refused());
  fs::rename(scene.store.path("snap"), kept);
  fs::create_symlink(kept, scene.store.path("snap"));
  CHECK(scene.refused());
}

TEST_CASE("a disk is found damaged when it is read, also where nothing was stored") {
  Scene scene;
  const Fd disk = *Fd::open(scene.path(kDiskName).c_str(), O_RDWR);
  const std::vector<std::byte> one(1, std::byte{1});
  for (const uint64_t offset : {kDiskPieceBytes, 2 * kDiskPieceBytes + 9, uint64_t{8}}) {
    std::array<std::byte, 1> was;
    REQUIRE(pread_exact(disk.ref(), was, offset).has_value());
    REQUIRE(write_at(disk.ref(), one, offset).has_value());
    const auto snapshot = Snapshot::open(scene.store.fd(), "snap");
    REQUIRE(snapshot.has_value());
    CHECK_EQ(snapshot->verify_disks().error().reason(), "DISK_DAMAGED");
    REQUIRE(write_at(disk.ref(), was, offset).has_value());
  }
  CHECK_FALSE(scene.refused());
}

TEST_CASE("parts of another snapshot are refused, whole as they are") {
  Scene scene;
  const TempDirectory other;
  const Fd ram = testing::sample_ram();
  testing::fill_page(ram.ref(), 4, 4);
  const Fd disk = testing::sample_disk();
  testing::fill_page(disk.ref(), 4, 4);
  REQUIRE(testing::write_sample(other.fd(), {.id = "other", .ram = ram.ref(), .disk = disk.ref()})
              .has_value());
  for (const char* name : {kManifestName, kMemoryName, kMemoryIndexName, kDiskName}) {
    const std::string kept = scene.store.path("kept");
    fs::rename(scene.path(name), kept);
    fs::copy(other.path(std::string("other/") + name), scene.path(name));
    INFO(name);
    CHECK(scene.refused());
    fs::rename(kept, scene.path(name));
  }
  CHECK_FALSE(scene.refused());
}

// A sanitizer's run takes ten times as long.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kFlips = 1'000;
#else
constexpr int kFlips = 10'000;
#endif

TEST_CASE("10,000 random single-bit flips: an error or the same machine") {
  Scene scene;
  const uint64_t seed = std::random_device()();
  std::printf("%d flips, seed %llu\n", kFlips, static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  std::vector<Fd> files;
  std::vector<uint64_t> sizes;
  for (const char* name : kFiles) {
    files.push_back(*Fd::open(scene.path(name).c_str(), O_RDWR));
    sizes.push_back(*file_size(files.back().ref()));
  }
  std::vector<int> refusals(std::size(kFiles));
  for (int i = 0; i < kFlips; ++i) {
    const size_t which = random() % files.size();
    // Most of the memory file is holes: half of its flips go where pages are stored.
    const uint64_t offset =
        which == 2 && random() % 2 == 0 ? random() % (3 * kPageBytes) : random() % sizes[which];
    std::array<std::byte, 1> byte;
    REQUIRE(pread_exact(files[which].ref(), byte, offset).has_value());
    const std::byte bit = std::byte{1} << (random() % 8);
    byte[0] ^= bit;
    REQUIRE(write_at(files[which].ref(), byte, offset).has_value());
    INFO("flip " << i << ": " << kFiles[which] << ", byte " << offset);
    // Stronger than what is asked: every bit is covered, so that every flip is seen.
    CHECK(scene.refused());
    ++refusals[which];
    byte[0] ^= bit;
    REQUIRE(write_at(files[which].ref(), byte, offset).has_value());
  }
  CHECK_FALSE(scene.refused());
  for (size_t which = 0; which < files.size(); ++which) {
    std::printf("%s: %d flips\n", kFiles[which], refusals[which]);
    CHECK_GT(refusals[which], kFlips / 20);
  }
}

TEST_CASE("every single bit of the small files is covered") {
  Scene scene;
  for (const char* name : {kManifestName, kMemoryIndexName, kWorkingSetName}) {
    const Fd file = *Fd::open(scene.path(name).c_str(), O_RDWR);
    const uint64_t size = *file_size(file.ref());
    for (uint64_t bit = 0; bit < size * 8; ++bit) {
      std::array<std::byte, 1> byte;
      REQUIRE(pread_exact(file.ref(), byte, bit / 8).has_value());
      byte[0] ^= std::byte{1} << (bit % 8);
      REQUIRE(write_at(file.ref(), byte, bit / 8).has_value());
      INFO(name << ", bit " << bit);
      CHECK_FALSE(Snapshot::open(scene.store.fd(), "snap").has_value());
      byte[0] ^= std::byte{1} << (bit % 8);
      REQUIRE(write_at(file.ref(), byte, bit / 8).has_value());
    }
  }
  CHECK_FALSE(scene.refused());
}

}  // namespace
}  // namespace mayfly::snapshot
