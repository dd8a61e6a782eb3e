// SPDX-License-Identifier: Apache-2.0
// Snapshots whose memory is compressed, whole and damaged.
#include "snapshot/chain.h"
#include "snapshot/files.h"
#include "snapshot/state_codec.h"
#include "snapshot/testing/sample.h"
#include "snapshot/zstd_frame.h"

#include <doctest/doctest.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <random>

#include <fcntl.h>
#include <unistd.h>

namespace mayfly::snapshot {
namespace {

using testing::kSampleBytes;
using testing::TempDirectory;

namespace fs = std::filesystem;

std::vector<std::byte> restored(const Chain& chain) {
  const Fd memfd = *Fd::memfd("restored", kSampleBytes);
  REQUIRE(chain.memory().apply_to(memfd.ref()));
  return testing::content_of(memfd.ref());
}

// "full", and two diffs over it; which of the three are compressed is in the bits.
struct Family {
  explicit Family(unsigned bits) {
    const Fd ram = testing::sample_ram();
    REQUIRE(testing::write_sample(
        store.fd(), {.id = "full", .ram = ram.ref(), .is_compressed = (bits & 1) != 0}));
    testing::fill_page(ram.ref(), 4, 9);
    testing::fill_page(ram.ref(), 1279, 0);
    REQUIRE(testing::write_sample(store.fd(), {.id = "one",
                                               .ram = ram.ref(),
                                               .parent = testing::parent_of(store.fd(), "full"),
                                               .dirty = {4, 1279},
                                               .is_compressed = (bits & 2) != 0}));
    testing::fill_page(ram.ref(), 600, 7);
    REQUIRE(testing::write_sample(store.fd(), {.id = "two",
                                               .ram = ram.ref(),
                                               .parent = testing::parent_of(store.fd(), "one"),
                                               .dirty = {600},
                                               .is_compressed = (bits & 4) != 0}));
    content = testing::content_of(ram.ref());
  }

  TempDirectory store;
  std::vector<std::byte> content;
};

TEST_CASE("chains of compressed and plain memories are the same machine, and so are their merges") {
  for (unsigned bits = 0; bits < 8; ++bits) {
    INFO("compressed: " << bits);
    const Family family(bits);
    const auto chain = Chain::open(family.store.fd(), "two");
    REQUIRE(chain.has_value());
    CHECK(chain->verify_memory());
    CHECK(restored(*chain) == family.content);
    SnapshotWriter writer = *SnapshotWriter::create({.store = family.store.fd(), .name = "merged"});
    REQUIRE(merge({.chain = *chain, .count = 3, .id = "merged", .created_ns = 1}, writer));
    const auto merged = Chain::open(family.store.fd(), "merged");
    REQUIRE(merged.has_value());
    CHECK_EQ(merged->newest().is_compressed(), chain->newest().is_compressed());
    CHECK(restored(*merged) == family.content);
  }
}

TEST_CASE("what is compressed raises the manifest's major version, and what is not does not") {
  const Family family(1);
  const auto major_of = [&](const std::string& name) {
    std::array<std::byte, sizeof(Header)> bytes;
    const Fd file = *Fd::open(family.store.path(name).c_str(), O_RDONLY);
    REQUIRE(pread_exact(file.ref(), bytes, 0));
    return std::bit_cast<Header>(bytes).major;
  };
  CHECK_EQ(major_of("full/manifest"), 2);
  CHECK_EQ(major_of("full/memory.index"), 1);
  CHECK_EQ(major_of("one/manifest"), 1);
  // One that claims to be older than what it holds.
  const auto manifest = Snapshot::open(family.store.fd(), "full")->manifest();
  Sealed sealed = encode_manifest(manifest);
  const auto message = std::as_bytes(std::span(sealed.bytes)).subspan(sizeof(Header));
  const Sealed older = seal(PartKind::kManifest, message);
  const auto refused = decode_manifest(std::as_bytes(std::span(older.bytes)));
  REQUIRE_FALSE(refused.has_value());
  CHECK_EQ(refused.error().reason(), "MANIFEST_INVALID");
}

TEST_CASE("a compressed memory holds nothing but its frames, and noise hardly grows") {
  const Family family(1);
  const auto bytes = fs::file_size(family.store.path("full/memory.zst"));
  const Snapshot snapshot = *Snapshot::open(family.store.fd(), "full");
  uint64_t pages = 0;
  for (const Chunk& chunk : snapshot.index()->index.chunks) pages += chunk.stored.count();
  std::printf("figures: compressed sample: %llu bytes of %llu\n",
              static_cast<unsigned long long>(bytes),
              static_cast<unsigned long long>(pages * kPageBytes));
  // The sample's pages are noise; that a guest's memory gets smaller is for tests with guests.
  CHECK_LT(bytes, pages * kPageBytes + 32 * snapshot.index()->index.chunks.size());
  CHECK_EQ(bytes, snapshot.index()->index.frames_bytes());
  CHECK_FALSE(fs::exists(family.store.path("full/memory")));
}

TEST_CASE("every bit of memory.zst is covered, and every other length is refused") {
  const Family family(1);
  const std::string path = family.store.path("full/memory.zst");
  const uint64_t size = fs::file_size(path);
  const Fd file = *Fd::open(path.c_str(), O_RDWR);
  std::mt19937_64 random(std::random_device{}());
  for (int i = 0; i < 2000; ++i) {
    const uint64_t bit = i < 1024 ? static_cast<uint64_t>(i) % (size * 8) : random() % (size * 8);
    std::array<std::byte, 1> byte;
    REQUIRE(pread_exact(file.ref(), byte, bit / 8));
    byte[0] ^= std::byte{1} << (bit % 8);
    REQUIRE(write_at(file.ref(), byte, bit / 8));
    INFO("bit " << bit);
    const Result<> whole = Chain::open(family.store.fd(), "full")->verify_memory();
    REQUIRE_FALSE(whole.has_value());
    CHECK_EQ(whole.error().reason(), "MEMORY_DAMAGED");
    byte[0] ^= std::byte{1} << (bit % 8);
    REQUIRE(write_at(file.ref(), byte, bit / 8));
  }
  for (const uint64_t length : {uint64_t{0}, size - 1, size + 1, size * 2}) {
    REQUIRE_EQ(::truncate(path.c_str(), static_cast<off_t>(length)), 0);
    CHECK_FALSE(Snapshot::open(family.store.fd(), "full").has_value());
    REQUIRE_EQ(::truncate(path.c_str(), static_cast<off_t>(size)), 0);
  }
}

// `change` makes the index another, as whoever forges a snapshot can.
Result<> forged(void (*change)(MemoryIndex& index)) {
  const TempDirectory store;
  const Fd ram = testing::sample_ram();
  SnapshotWriter writer = TRY(SnapshotWriter::create({.store = store.fd(), .name = "snap"}));
  MemfdRam source(ram.ref(), kSampleBytes);
  WrittenMemory written = TRY(write_memory({.file = TRY(writer.create_part(kCompressedMemoryName)),
                                            .ram = source,
                                            .memory_bytes = kSampleBytes,
                                            .is_compressed = true}));
  change(written.index);
  TRY(writer.write_part(kMemoryIndexName, TRY(encode_index(written.index))));
  TRY(writer.write_part(kStateName, encode_state(testing::sample_state())));
  Manifest manifest = testing::sample_manifest("snap");
  manifest.kind = Kind::kFull;
  TRY(writer.commit(std::move(manifest)));
  return Chain::open(store.fd(), "snap")->verify_memory();
}

TEST_CASE("frames that are not where or what the index says are refused") {
  CHECK(forged([](MemoryIndex&) {}).has_value());
  const auto reason = [](void (*change)(MemoryIndex&)) {
    const Result<> result = forged(change);
    return result ? std::string() : std::string(result.error().reason());
  };
  CHECK_EQ(reason([](MemoryIndex& index) { index.chunks[0].frame.reset(); }), "PARTS_DISAGREE");
  CHECK_EQ(reason([](MemoryIndex& index) { ++index.chunks[0].frame->size_bytes; }),
           "PARTS_DISAGREE");
  CHECK_EQ(reason([](MemoryIndex& index) {
             ++index.chunks[0].frame->size_bytes;
             --index.chunks[1].frame->size_bytes;
           }),
           "MEMORY_DAMAGED");
  CHECK_EQ(reason([](MemoryIndex& index) { index.chunks[0].frame->size_bytes = 0; }),
           "PART_DAMAGED");
  CHECK_EQ(
      reason([](MemoryIndex& index) { index.chunks[0].frame->size_bytes = kMaxFrameBytes + 1; }),
      "PART_DAMAGED");
  // Fewer pages than the frame holds, and more: it must be as large as is said.
  CHECK_EQ(reason([](MemoryIndex& index) {
             Chunk& chunk = index.chunks[0];
             chunk.stored.reset(next_run(chunk.stored, 0).first);
           }),
           "MEMORY_DAMAGED");
  CHECK_EQ(reason([](MemoryIndex& index) { index.chunks[0].stored.set(); }), "MEMORY_DAMAGED");
}

TEST_CASE("a frame that would grow beyond what is said takes no more than that") {
  FrameWriter writer;
  FrameReader reader;
  const std::vector<std::byte> zeroes(kChunkBytes);
  const auto frame = writer.compress(zeroes);
  REQUIRE(frame.has_value());
  CHECK_LT(frame->size(), 4096);
  CHECK(reader.expand(*frame, kChunkBytes).has_value());
  for (const size_t bytes : {size_t{0}, size_t{1}, kChunkBytes - 1, kChunkBytes + 1}) {
    const auto expanded = reader.expand(*frame, bytes);
    REQUIRE_FALSE(expanded.has_value());
    CHECK_EQ(expanded.error().code(), Code::kDataLoss);
  }
  // Noise is refused or expands to what was asked for, and nothing is written beyond it.
  std::mt19937_64 random(1);
  std::vector<std::byte> noise(frame->begin(), frame->end());
  for (int i = 0; i < 20'000; ++i) {
    noise[random() % noise.size()] = static_cast<std::byte>(random());
    if (const auto expanded = reader.expand(noise, kPageBytes)) {
      CHECK_EQ(expanded->size(), kPageBytes);
    }
  }
}

}  // namespace
}  // namespace mayfly::snapshot
