// SPDX-License-Identifier: Apache-2.0
#include "snapshot/manifest.h"

#include "proto/state.pb.h"
#include "snapshot/memory_index.h"
#include "snapshot/state_codec.h"
#include "snapshot/testing/sample.h"
#include "snapshot/working_set.h"

#include <doctest/doctest.h>

#include <string>

namespace mayfly::snapshot {
namespace {

using testing::kSampleBytes;
using testing::sample_manifest;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string payload_of(const Sealed& sealed) { return sealed.bytes.substr(sizeof(Header)); }

std::string resealed(PartKind kind, const std::string& payload) {
  return seal(kind, bytes_of(payload)).bytes;
}

// A diff that names every part.
Manifest whole() {
  Manifest manifest = sample_manifest("child");
  manifest.kind = Kind::kDiff;
  manifest.parent = Parent{.id = "parent", .memory_digest = {}};
  manifest.parent->memory_digest.bytes.fill(std::byte{0xab});
  manifest.parts = {
      {.name = kStateName, .size_bytes = 1000, .digest = {}, .encoding = Encoding::kSealedMessage},
      {.name = kMemoryName,
       .size_bytes = kSampleBytes,
       .digest = {},
       .encoding = Encoding::kSparsePages},
      {.name = kMemoryIndexName,
       .size_bytes = 100,
       .digest = {},
       .encoding = Encoding::kSealedMessage},
      {.name = kWorkingSetName,
       .size_bytes = 90,
       .digest = {},
       .encoding = Encoding::kSealedMessage}};
  return manifest;
}

// The same with a disk that was captured.
Manifest with_disk() {
  Manifest manifest = whole();
  manifest.machine.disks.push_back(
      {.size_bytes = 1 << 20, .read_only = false, .serial = {}, .captured = true});
  manifest.parts.push_back(
      {.name = "disk.1", .size_bytes = 1 << 20, .digest = {}, .encoding = Encoding::kSparseDisk});
  return manifest;
}

state::Manifest as_library(const Manifest& manifest) {
  state::Manifest message;
  REQUIRE(message.ParseFromString(payload_of(encode_manifest(manifest))));
  return message;
}

TEST_CASE("the protobuf library and the table agree on a manifest") {
  const state::Manifest message = as_library(whole());
  CHECK_EQ(message.id(), "child");
  CHECK_EQ(message.kind(), state::DIFF);
  CHECK_EQ(message.parent().id(), "parent");
  CHECK_EQ(message.parent().memory_digest(), std::string(16, '\xab'));
  CHECK_EQ(message.created_ns(), 1'700'000'000'123'456'789);
  CHECK_EQ(message.machine().vcpu_count(), 2);
  CHECK_EQ(message.machine().memory_bytes(), kSampleBytes);
  CHECK_EQ(message.machine().disks(0).serial(), "serial-0");
  CHECK(message.machine().disks(0).read_only());
  CHECK_EQ(message.machine().guest_cid(), 42);
  CHECK(message.machine().has_agent());
  CHECK_EQ(message.host().cpu_vendor(), "GenuineIntel");
  CHECK_EQ(message.host().cpu_model(), 143);
  CHECK_EQ(message.host().cpuid(2).ebx(), 1u << 5);
  CHECK_EQ(message.host().msrs(1), 0xc000'0080);
  CHECK_EQ(message.host().tsc_khz(), 2'000'000);
  REQUIRE_EQ(message.parts_size(), 4);
  CHECK_EQ(message.parts(1).encoding(), state::SPARSE_PAGES);
  CHECK_EQ(message.SerializeAsString(), payload_of(encode_manifest(whole())));

  const state::Manifest disks = as_library(with_disk());
  CHECK_FALSE(disks.machine().disks(0).captured());
  CHECK(disks.machine().disks(1).captured());
  CHECK_EQ(disks.parts(4).name(), "disk.1");
  CHECK_EQ(disks.parts(4).encoding(), state::SPARSE_DISK);
  CHECK_EQ(disks.SerializeAsString(), payload_of(encode_manifest(with_disk())));

  const auto read = decode_manifest(bytes_of(encode_manifest(whole()).bytes));
  REQUIRE(read.has_value());
  CHECK_EQ(encode_manifest(*read).bytes, encode_manifest(whole()).bytes);
  CHECK(read->machine == whole().machine);
  CHECK(read->parts == whole().parts);
  CHECK(read->parent == whole().parent);
}

template <typename Change>
void refused(const char* reason, const char* part, Change change) {
  state::Manifest message = as_library(whole());
  change(message);
  const auto read =
      decode_manifest(bytes_of(resealed(PartKind::kManifest, message.SerializeAsString())));
  REQUIRE_FALSE(read.has_value());
  INFO(read.error().describe());
  CHECK_EQ(read.error().reason(), reason);
  CHECK_NE(read.error().message().find(part), std::string::npos);
}

TEST_CASE("a manifest that cannot be is refused by the field's name") {
  constexpr char kInvalid[] = "MANIFEST_INVALID", kDamaged[] = "PART_DAMAGED";
  refused(kInvalid, "id", [](auto& m) { m.set_id("../up"); });
  refused(kInvalid, "id", [](auto& m) { m.set_id(""); });
  refused(kDamaged, "id: 65", [](auto& m) { m.set_id(std::string(65, 'a')); });
  refused(kInvalid, "kind", [](auto& m) { m.clear_kind(); });
  refused(kDamaged, "kind: 4", [](auto& m) { m.set_kind(state::Kind(4)); });
  refused(kInvalid, "parent", [](auto& m) { m.clear_parent(); });
  refused(kInvalid, "parent", [](auto& m) { m.set_kind(state::FULL); });
  refused(kInvalid, "parent.id", [](auto& m) { m.mutable_parent()->set_id("a/b"); });
  refused(kInvalid, "memory_digest",
          [](auto& m) { m.mutable_parent()->set_memory_digest(std::string(16, '\0')); });
  refused(kDamaged, "memory_digest", [](auto& m) { m.mutable_parent()->set_memory_digest("x"); });
  refused(kInvalid, "vcpu_count: 33", [](auto& m) { m.mutable_machine()->set_vcpu_count(33); });
  refused(kInvalid, "vcpu_count: 0", [](auto& m) { m.mutable_machine()->clear_vcpu_count(); });
  refused(kInvalid, "memory_bytes", [](auto& m) { m.mutable_machine()->set_memory_bytes(4097); });
  refused(kInvalid, "memory_bytes",
          [](auto& m) { m.mutable_machine()->set_memory_bytes(kMaxMemoryBytes + kPageBytes); });
  refused(kInvalid, "memory", [](auto& m) { m.mutable_machine()->set_memory_bytes(4096); });
  refused(kInvalid, "cpu_vendor", [](auto& m) { m.mutable_host()->set_cpu_vendor("\x1b[2J"); });
  refused(kDamaged, "msrs: 513", [](auto& m) {
    while (m.host().msrs_size() < 513) m.mutable_host()->add_msrs(1);
  });
  refused(kInvalid, "state is there 2 times", [](auto& m) { *m.add_parts() = m.parts(0); });
  refused(kInvalid, "memory.index is there 0 times",
          [](auto& m) { m.mutable_parts()->DeleteSubrange(2, 1); });
  refused(kInvalid, "memory is there 1 times", [](auto& m) {
    m.set_kind(state::STATE_ONLY);
    m.clear_parent();
  });
  refused(kInvalid, "state of 8388609",
          [](auto& m) { m.mutable_parts(0)->set_size_bytes(kMaxStateBytes + 1); });
  refused(kInvalid, "memory.index of 10000 bytes is above the limit of 7168",
          [](auto& m) { m.mutable_parts(2)->set_size_bytes(10'000); });
  refused("PART_UNKNOWN", "parts", [](auto& m) { m.mutable_parts(0)->set_name("/etc/passwd"); });
  refused("PART_UNKNOWN", "parts",
          [](auto& m) { m.mutable_parts(0)->set_encoding(state::SPARSE_PAGES); });
}

TEST_CASE("a snapshot is of version 2 when it has disks, and of version 1 otherwise") {
  const auto major = [](const Manifest& manifest) { return encode_manifest(manifest).bytes[8]; };
  CHECK_EQ(major(whole()), 1);
  CHECK_EQ(major(with_disk()), 2);
  const auto read = decode_manifest(bytes_of(encode_manifest(with_disk()).bytes));
  REQUIRE(read.has_value());
  CHECK(read->machine == with_disk().machine);
  CHECK(read->parts == with_disk().parts);
  // A version 1 that has what it cannot have, and versions that are still to come.
  const std::string payload = payload_of(encode_manifest(with_disk()));
  const auto reason = [&](PartKind kind, uint16_t version) {
    const Sealed file = seal(kind, bytes_of(payload), version);
    return std::string(kind == PartKind::kManifest
                           ? decode_manifest(bytes_of(file.bytes)).error().reason()
                           : decode_state(bytes_of(file.bytes)).error().reason());
  };
  CHECK_EQ(reason(PartKind::kManifest, 1), "MANIFEST_INVALID");
  CHECK_EQ(reason(PartKind::kManifest, 3), "FORMAT_VERSION");
  CHECK_EQ(reason(PartKind::kManifest, 0), "FORMAT_VERSION");
  CHECK_EQ(reason(PartKind::kState, 2), "FORMAT_VERSION");
}

TEST_CASE("a manifest whose disks and parts do not fit is refused") {
  const auto refuses = [](const char* words, auto change) {
    Manifest manifest = with_disk();
    change(manifest);
    const auto read = decode_manifest(bytes_of(encode_manifest(manifest).bytes));
    REQUIRE_FALSE(read.has_value());
    INFO(read.error().describe());
    CHECK_NE(read.error().message().find(words), std::string::npos);
  };
  refuses("disk.1 is there 0 times", [](Manifest& m) { m.parts.pop_back(); });
  refuses("disk.1 is there 2 times", [](Manifest& m) { m.parts.push_back(m.parts.back()); });
  refuses("disk.0 is there 0 times", [](Manifest& m) { m.machine.disks[0].captured = true; });
  refuses("disk.1 is there 1 times", [](Manifest& m) {
    m.machine.disks[1].captured = false;
    m.machine.disks[0].captured = true;
    m.parts.push_back(m.parts.back());
    m.parts.back().name = "disk.0";
    m.parts.back().size_bytes = m.machine.disks[0].size_bytes;
  });
  refuses("parts", [](Manifest& m) { m.parts.back().name = "disk.2"; });
  refuses("parts", [](Manifest& m) { m.parts.back().name = "disk.01"; });
  refuses("parts", [](Manifest& m) { m.parts.back().encoding = Encoding::kSparsePages; });
  refuses("parts", [](Manifest& m) { m.parts[0].encoding = Encoding::kSparseDisk; });
  refuses("for a disk of 1048576", [](Manifest& m) { m.parts.back().size_bytes = 512; });
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{513}, kMaxDiskBytes + 512}) {
    refuses("disk.1", [bytes](Manifest& m) {
      m.machine.disks[1].size_bytes = bytes;
      m.parts.back().size_bytes = bytes;
    });
  }
}

TEST_CASE("the protobuf library and the table agree on a memory index") {
  MemoryIndex index{.memory_bytes = kSampleBytes, .parent_digest = {}, .chunks = {}};
  index.parent_digest.bytes.fill(std::byte{7});
  Chunk scattered{.number = 0, .digest = {}, .stored = {}, .zero = {}};
  for (size_t page = 0; page < kChunkPages; page += 2) scattered.stored.set(page);
  Chunk last{.number = 2, .digest = {}, .stored = {}, .zero = {}};
  last.stored.set(3).set(4).set(255);
  last.zero.set(5).set(100);
  last.digest.bytes.fill(std::byte{9});
  index.chunks = {scattered, last};
  const Sealed sealed = *encode_index(index);

  state::MemoryIndex message;
  REQUIRE(message.ParseFromString(payload_of(sealed)));
  REQUIRE_EQ(message.chunks_size(), 2);
  CHECK_EQ(message.chunks(0).runs_size(), 511);
  // Absent 3, stored 2, zero 1, absent 94, zero 1, absent 154, stored 1.
  const std::vector<uint32_t> runs(message.chunks(1).runs().begin(),
                                   message.chunks(1).runs().end());
  CHECK_EQ(runs, std::vector<uint32_t>{12, 9, 6, 94 * 4, 6, 154 * 4, 5});
  CHECK_EQ(message.SerializeAsString(), payload_of(sealed));
  const auto read = decode_index(bytes_of(sealed.bytes), kSampleBytes);
  REQUIRE(read.has_value());
  CHECK(read->index == index);
  CHECK(read->digest == sealed.digest);

  const auto refused = [&](auto change, uint64_t memory_bytes = kSampleBytes) {
    state::MemoryIndex changed = message;
    change(changed);
    const std::string file = resealed(PartKind::kMemoryIndex, changed.SerializeAsString());
    const auto bad = decode_index(bytes_of(file), memory_bytes);
    REQUIRE_FALSE(bad.has_value());
    CHECK_EQ(bad.error().code(), Code::kDataLoss);
  };
  refused([](auto&) {}, kSampleBytes * 2);
  refused([](auto& m) { m.mutable_chunks(1)->set_number(0); });
  refused([](auto& m) { m.mutable_chunks(1)->set_number(3); });
  refused([](auto& m) { m.mutable_chunks(1)->add_runs(2 << 2 | 2); });     // behind the end
  refused([](auto& m) { m.mutable_chunks(0)->add_runs(1 << 2 | 1); });     // two of one kind
  refused([](auto& m) { m.mutable_chunks(0)->set_runs(0, 0 << 2 | 1); });  // empty
  refused([](auto& m) { m.mutable_chunks(0)->set_runs(0, 1 << 2 | 3); });  // no such kind
  refused([](auto& m) { m.mutable_chunks(0)->set_runs(0, ~0u); });
  refused([](auto& m) { m.mutable_chunks(0)->clear_runs(); });
  refused([](auto& m) { m.mutable_chunks(0)->add_runs(1 << 2 | 0); });   // ends in nothing
  refused([](auto& m) { m.set_parent_digest(std::string(16, '\0')); });  // zeroes in a full one
}

TEST_CASE("the protobuf library and the table agree on a working set") {
  const WorkingSet set = testing::sample_working_set();
  const Sealed sealed = encode_working_set(set);
  state::WorkingSet message;
  REQUIRE(message.ParseFromString(payload_of(sealed)));
  REQUIRE_EQ(message.runs_size(), 3);
  CHECK_EQ(message.runs(0).first_page(), 700);
  CHECK(message.runs(0).dirtied());
  const auto read = decode_working_set(bytes_of(sealed.bytes), kSampleBytes);
  REQUIRE(read.has_value());
  CHECK(*read == set);

  const auto refused = [&](auto change) {
    state::WorkingSet changed = message;
    change(changed);
    const std::string file = resealed(PartKind::kWorkingSet, changed.SerializeAsString());
    CHECK_FALSE(decode_working_set(bytes_of(file), kSampleBytes).has_value());
  };
  refused([](auto& m) { m.set_memory_bytes(kSampleBytes * 2); });
  refused([](auto& m) { m.mutable_runs(0)->set_pages(0); });
  refused([](auto& m) { m.mutable_runs(0)->set_pages(581); });  // behind the end
  refused([](auto& m) { m.mutable_runs(0)->set_first_page(~0u); });
  refused([](auto& m) { m.mutable_runs(1)->set_pages(4); });  // page 3 twice
}

}  // namespace
}  // namespace mayfly::snapshot
