// SPDX-License-Identifier: Apache-2.0
#include "snapshot/reader.h"

#include "snapshot/files.h"
#include "snapshot/state_codec.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

namespace mayfly::snapshot {
namespace {

// The directory holds what the manifest says and nothing else.
Result<> check_names(FdRef directory, const Manifest& manifest) {
  for (const std::string& name : TRY(list_names(directory, kMaxParts + 1))) {
    if (name != kManifestName && manifest.find(name) == nullptr) {
      return fail({Code::kDataLoss, "PART_UNEXPECTED"},
                  "the directory has a file that the manifest does not name");
    }
  }
  return {};
}

// A sealed part, as large as the manifest says. decode() is given all of its bytes.
template <typename Decode>
auto read_sealed(FdRef directory, const Part& part, PartKind kind, Decode decode)
    -> decltype(decode(std::span<const std::byte>())) {
  const std::vector<std::byte> bytes =
      TRY(read_part_at(directory, part.name.c_str(), part.size_bytes));
  if (bytes.size() != part.size_bytes) {
    return fail({Code::kDataLoss, "PART_SIZE"}, "%s: %zu bytes, where %llu belong",
                part.name.c_str(), bytes.size(), static_cast<unsigned long long>(part.size_bytes));
  }
  const auto unsealed = unseal(kind, bytes);
  if (!unsealed) return std::unexpected(Error(unsealed.error()).with_context(part.name));
  if (unsealed->digest != part.digest) {
    return fail({Code::kDataLoss, "PART_DAMAGED"}, "%s: is not the one the manifest was made for",
                part.name.c_str());
  }
  auto decoded = decode(std::span<const std::byte>(bytes));
  if (!decoded) return std::unexpected(std::move(decoded).error().with_context(part.name));
  return decoded;
}

bool same_cpuid(const kvm::CpuidTable& a, const kvm::CpuidTable& b) {
  return a.count == b.count &&
         std::memcmp(a.entries.data(), b.entries.data(), a.count * sizeof(kvm_cpuid_entry2)) == 0;
}

std::unexpected<Error> disagree(const char* what) {
  return fail({Code::kDataLoss, "PARTS_DISAGREE"}, "%s", what);
}

}  // namespace

Result<Manifest> read_manifest(FdRef directory) {
  const std::vector<std::byte> bytes =
      TRY(read_part_at(directory, kManifestName, kMaxManifestBytes));
  auto manifest = decode_manifest(bytes);
  if (!manifest) return std::unexpected(std::move(manifest).error().with_context(kManifestName));
  return manifest;
}

Result<Snapshot> Snapshot::open(FdRef store, const std::string& name) {
  if (!valid_id(name)) {
    return fail({Code::kInvalidArgument, "SNAPSHOT_NAME"},
                "snapshot name: not 1 to %zu of [A-Za-z0-9_.-]", kMaxIdSize);
  }
  const Fd directory = TRY(open_directory_at(store, name.c_str()));
  return open(directory.ref());
}

Result<Snapshot> Snapshot::open(FdRef directory) {
  Snapshot snapshot;
  snapshot.manifest_ = TRY(read_manifest(directory));
  TRY(check_names(directory, snapshot.manifest_));
  TRY(snapshot.read_parts(directory));
  TRY(snapshot.check_agreement());
  return snapshot;
}

Result<> Snapshot::read_parts(FdRef directory) {
  // decode_manifest() has seen to it that the parts of its kind are there.
  state_ = TRY(read_sealed(directory, *manifest_.find(kStateName), PartKind::kState, decode_state));
  if (manifest_.kind != Kind::kStateOnly) TRY(read_memory_parts(directory));
  for (size_t place = 0; place < manifest_.machine.disks.size(); ++place) {
    const DiskInfo& disk = manifest_.machine.disks[place];
    disks_.push_back(disk.captured
                         ? TRY(open_part_at(directory, disk_name(place).c_str(), disk.size_bytes))
                         : Fd());
  }
  return {};
}

Result<> Snapshot::read_memory_parts(FdRef directory) {
  const uint64_t memory_bytes = manifest_.machine.memory_bytes;
  const Part* compressed = manifest_.find(kCompressedMemoryName);
  memory_ = compressed == nullptr
                ? TRY(open_part_at(directory, kMemoryName, memory_bytes))
                : TRY(open_part_at(directory, kCompressedMemoryName, compressed->size_bytes));
  index_ = TRY(read_sealed(
      directory, *manifest_.find(kMemoryIndexName), PartKind::kMemoryIndex,
      [&](std::span<const std::byte> bytes) { return decode_index(bytes, memory_bytes); }));
  if (const Part* part = manifest_.find(kWorkingSetName)) {
    working_set_ =
        TRY(read_sealed(directory, *part, PartKind::kWorkingSet, [&](std::span<const std::byte> b) {
          return decode_working_set(b, memory_bytes);
        }));
  }
  return {};
}

// Each part is whole: that they are of one snapshot is what is left.
Result<> Snapshot::check_agreement() const {
  if (state_.vcpus.size() != manifest_.machine.vcpu_count) {
    return fail({Code::kDataLoss, "PARTS_DISAGREE"}, "state: %zu vCPUs, the manifest says %u",
                state_.vcpus.size(), manifest_.machine.vcpu_count);
  }
  if (!same_cpuid(state_.vcpus[0].cpuid, manifest_.host.cpuid)) {
    return disagree("state: vCPU 0 has another CPUID than the manifest says");
  }
  for (const Vcpu& vcpu : state_.vcpus) {
    for (const kvm_msr_entry& msr :
         std::span(vcpu.state.msrs.entries).first(vcpu.state.msrs.count)) {
      if (std::ranges::find(manifest_.host.msrs, msr.index) == manifest_.host.msrs.end()) {
        return fail({Code::kDataLoss, "PARTS_DISAGREE"},
                    "state: MSR 0x%x is not among those the manifest names", msr.index);
      }
    }
  }
  if (!index_) return {};
  const Digest expected = manifest_.parent ? manifest_.parent->memory_digest : Digest{};
  if (index_->index.parent_digest != expected) {
    return disagree("memory.index: is over another parent than the manifest says");
  }
  if (!index_->index.has_frames(is_compressed())) {
    return disagree("memory.index: is of another kind of memory file than there is");
  }
  const Part* compressed = manifest_.find(kCompressedMemoryName);
  if (compressed != nullptr && index_->index.frames_bytes() != compressed->size_bytes) {
    return disagree("memory.index: has other frames than memory.zst");
  }
  return {};
}

bool Snapshot::is_compressed() const { return manifest_.find(kCompressedMemoryName) != nullptr; }

MemoryLayer Snapshot::layer() const {
  CHECK(index_.has_value());
  return {memory_.ref(), &index_->index};
}

Result<> Snapshot::verify_disks(const GoOn& go_on) const {
  for (size_t place = 0; place < disks_.size(); ++place) {
    if (!disks_[place].valid()) continue;
    const std::string name = disk_name(place);
    if (TRY(digest_disk(disks_[place].ref(), go_on)) != manifest_.find(name)->digest) {
      return fail({Code::kDataLoss, "DISK_DAMAGED"}, "%s: not as it was written", name.c_str());
    }
  }
  return {};
}

Result<> Snapshot::verify_memory() const {
  if (!index_) return {};
  return snapshot::verify_memory(memory_.ref(), index_->index);
}

}  // namespace mayfly::snapshot
