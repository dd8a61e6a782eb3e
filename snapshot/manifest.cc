// SPDX-License-Identifier: Apache-2.0
#include "snapshot/manifest.h"

#include "base/wire_table.h"
#include "snapshot/balloon_table.h"
#include "snapshot/cpuid_table.h"
#include "snapshot/memory_index.h"
#include "snapshot/state_codec.h"
#include "snapshot/working_set.h"

#include <algorithm>
#include <cstring>

namespace mayfly {

template <>
struct WireTable<snapshot::Parent> {
  static void fields(auto& wire, auto& parent) {
    wire.text(1, "id", parent.id, snapshot::kMaxIdSize);
    wire.image(2, "memory_digest", parent.memory_digest);
  }
};

template <>
struct WireTable<snapshot::DiskInfo> {
  static void fields(auto& wire, auto& disk) {
    wire.number(1, "size_bytes", disk.size_bytes);
    wire.number(2, "read_only", disk.read_only);
    wire.text(3, "serial", disk.serial, snapshot::kMaxSerial);
    wire.number(4, "captured", disk.captured);
  }
};

template <>
struct WireTable<snapshot::NetInfo> {
  static void fields(auto& wire, auto& net) { wire.number(1, "mtu", net.mtu); }
};

template <>
struct WireTable<snapshot::MachineInfo> {
  static void fields(auto& wire, auto& machine) {
    wire.number(1, "vcpu_count", machine.vcpu_count);
    wire.number(2, "memory_bytes", machine.memory_bytes);
    wire.text(3, "command_line", machine.command_line, snapshot::kMaxCommandLine);
    wire.list(4, "disks", machine.disks, snapshot::kMaxDisks);
    wire.number(5, "guest_cid", machine.guest_cid);
    wire.number(6, "has_rng", machine.has_rng);
    wire.number(7, "has_agent", machine.has_agent);
    wire.optional(9, "balloon", machine.balloon);
    wire.list(8, "nets", machine.nets, snapshot::kMaxNets);
  }
};

template <>
struct WireTable<snapshot::HostRequirements> {
  static void fields(auto& wire, auto& host) {
    wire.text(1, "cpu_vendor", host.cpu_vendor, snapshot::kVendorSize);
    wire.number(2, "cpu_family", host.cpu_family);
    wire.number(3, "cpu_model", host.cpu_model);
    wire.number(4, "cpu_stepping", host.cpu_stepping);
    wire.counted(5, "cpuid", host.cpuid.count, host.cpuid.entries);
    wire.packed(6, "msrs", host.msrs, snapshot::kMaxMsrs);
    wire.number(7, "xsave_features", host.xsave_features);
    wire.number(8, "page_bytes", host.page_bytes);
    wire.number(9, "tsc_khz", host.tsc_khz);
    wire.number(10, "kvm_clock", host.kvm_clock);
  }
};

template <>
struct WireTable<snapshot::Part> {
  static void fields(auto& wire, auto& part) {
    wire.text(1, "name", part.name, snapshot::kMaxIdSize);
    wire.number(2, "size_bytes", part.size_bytes);
    wire.image(3, "digest", part.digest);
    wire.choice(4, "encoding", part.encoding, snapshot::Encoding::kZstdChunks);
  }
};

template <>
struct WireTable<snapshot::Manifest> {
  static void fields(auto& wire, auto& manifest) {
    wire.text(1, "id", manifest.id, snapshot::kMaxIdSize);
    wire.choice(2, "kind", manifest.kind, snapshot::Kind::kStateOnly);
    wire.optional(3, "parent", manifest.parent);
    wire.number(4, "created_ns", manifest.created_ns);
    wire.message(5, "machine", manifest.machine);
    wire.message(6, "host", manifest.host);
    wire.list(7, "parts", manifest.parts, snapshot::kMaxParts);
  }
};

}  // namespace mayfly

namespace mayfly::snapshot {
namespace {

// The files that there are, and in which snapshots.
struct PartRule {
  const char* name;
  Encoding encoding;
  uint64_t (*max_bytes)(uint64_t memory_bytes);
  bool needed;
  bool of_memory;
};
template <uint64_t kLimit>
constexpr uint64_t always(uint64_t) {
  return kLimit;
}
constexpr PartRule kPartRules[] = {
    {kStateName, Encoding::kSealedMessage, always<kMaxStateBytes>, true, false},
    {kMemoryName, Encoding::kSparsePages, always<kMaxMemoryBytes>, false, true},
    {kCompressedMemoryName, Encoding::kZstdChunks, max_compressed_bytes, false, true},
    {kMemoryIndexName, Encoding::kSealedMessage, max_index_bytes, true, true},
    {kWorkingSetName, Encoding::kSealedMessage, always<kMaxWorkingSetBytes>, false, true},
};

// What an older program must not skip.
uint16_t major_of(const Manifest& manifest) {
  const bool disks = std::ranges::any_of(manifest.machine.disks, &DiskInfo::captured);
  const bool is_compressed = manifest.find(kCompressedMemoryName) != nullptr;
  return disks || is_compressed ? kFormatMajor2 : kFormatMajor;
}

std::unexpected<Error> bad(const char* what) {
  return fail({Code::kDataLoss, "MANIFEST_INVALID"}, "%s", what);
}

// disk_name() backwards: which of the disks, if it is one.
std::optional<size_t> disk_place(const std::string& name, size_t disks) {
  for (size_t place = 0; place < disks; ++place) {
    if (name == disk_name(place)) return place;
  }
  return std::nullopt;
}

Result<> check_part(const Part& part, const MachineInfo& machine) {
  if (part.encoding == Encoding::kSparseDisk && disk_place(part.name, machine.disks.size())) {
    return {};
  }
  const uint64_t memory_bytes = machine.memory_bytes;
  const auto* rule = std::ranges::find_if(
      kPartRules, [&](const PartRule& candidate) { return part.name == candidate.name; });
  if (rule == std::end(kPartRules) || part.encoding != rule->encoding) {
    return fail({Code::kFailedPrecondition, "PART_UNKNOWN"},
                "parts: one that this program does not know, or encoded in another way");
  }
  const uint64_t max_bytes = rule->max_bytes(memory_bytes);
  if (part.size_bytes > max_bytes) {
    return fail({Code::kDataLoss, "MANIFEST_INVALID"},
                "parts: %s of %llu bytes is above the limit of %llu", rule->name,
                static_cast<unsigned long long>(part.size_bytes),
                static_cast<unsigned long long>(max_bytes));
  }
  return {};
}

Result<> check_disk_parts(const Manifest& manifest) {
  const std::vector<DiskInfo>& disks = manifest.machine.disks;
  for (size_t place = 0; place < disks.size(); ++place) {
    const std::string name = disk_name(place);
    const auto count = std::ranges::count(manifest.parts, name, &Part::name);
    if (count != (disks[place].captured ? 1 : 0)) {
      return fail({Code::kDataLoss, "MANIFEST_INVALID"}, "parts: %s is there %zu times",
                  name.c_str(), static_cast<size_t>(count));
    }
    if (!disks[place].captured) continue;
    const uint64_t bytes = disks[place].size_bytes;
    if (bytes == 0 || bytes % kSectorBytes != 0 || bytes > kMaxDiskBytes ||
        manifest.find(name)->size_bytes != bytes) {
      return fail({Code::kDataLoss, "MANIFEST_INVALID"},
                  "parts: %s of %llu bytes, for a disk of %llu", name.c_str(),
                  static_cast<unsigned long long>(manifest.find(name)->size_bytes),
                  static_cast<unsigned long long>(bytes));
    }
  }
  return {};
}

Result<> check_parts(const Manifest& manifest) {
  for (const Part& part : manifest.parts) {
    TRY(check_part(part, manifest.machine));
  }
  const bool has_memory = manifest.kind != Kind::kStateOnly;
  for (const PartRule& rule : kPartRules) {
    const auto count = std::ranges::count(manifest.parts, rule.name, &Part::name);
    const bool allowed = has_memory || !rule.of_memory;
    if (count > 1 || (count == 1 && !allowed) || (count == 0 && allowed && rule.needed)) {
      return fail({Code::kDataLoss, "MANIFEST_INVALID"}, "parts: %s is there %zu times", rule.name,
                  static_cast<size_t>(count));
    }
  }
  const Part* memory = manifest.find(kMemoryName);
  const bool is_compressed = manifest.find(kCompressedMemoryName) != nullptr;
  if (has_memory && (memory != nullptr) == is_compressed) {
    return bad("parts: neither memory nor memory.zst is there, or both");
  }
  if (memory != nullptr && memory->size_bytes != manifest.machine.memory_bytes) {
    return bad("parts: memory is not of the machine's memory_bytes");
  }
  return check_disk_parts(manifest);
}

Result<> check_machine(const MachineInfo& machine) {
  if (machine.vcpu_count == 0 || machine.vcpu_count > kMaxVcpus) {
    return fail({Code::kDataLoss, "MANIFEST_INVALID"}, "machine.vcpu_count: %u is not in 1 to %zu",
                machine.vcpu_count, kMaxVcpus);
  }
  if (machine.memory_bytes == 0 || machine.memory_bytes > kMaxMemoryBytes ||
      machine.memory_bytes % kPageBytes != 0) {
    return fail({Code::kDataLoss, "MANIFEST_INVALID"},
                "machine.memory_bytes: %llu is not a multiple of %u up to %llu",
                static_cast<unsigned long long>(machine.memory_bytes), kPageBytes,
                static_cast<unsigned long long>(kMaxMemoryBytes));
  }
  return {};
}

Result<> check(const Manifest& manifest) {
  if (!valid_id(manifest.id)) return bad("id: not 1 to 64 of [A-Za-z0-9_.-]");
  if (manifest.kind == Kind::kUnspecified) return bad("kind: unspecified");
  if (manifest.parent.has_value() != (manifest.kind == Kind::kDiff)) {
    return bad("parent: a diff has one, and nothing else does");
  }
  if (manifest.parent && !valid_id(manifest.parent->id)) {
    return bad("parent.id: not 1 to 64 of [A-Za-z0-9_.-]");
  }
  if (manifest.parent && manifest.parent->memory_digest == Digest{}) {
    return bad("parent.memory_digest: missing");
  }
  // It is shown to people: no control characters.
  if (!std::ranges::all_of(manifest.host.cpu_vendor, [](char c) { return c >= ' ' && c <= '~'; })) {
    return bad("host.cpu_vendor: not printable");
  }
  TRY(check_machine(manifest.machine));
  return check_parts(manifest);
}

}  // namespace

const Part* Manifest::find(const std::string& name) const {
  const auto it = std::ranges::find(parts, name, &Part::name);
  return it == parts.end() ? nullptr : &*it;
}

std::string disk_name(size_t place) { return format("disk.%zu", place); }

bool is_part_name(const std::string& name) {
  return name == kManifestName || disk_place(name, kMaxDisks) ||
         std::ranges::find(kPartRules, name, &PartRule::name) != std::end(kPartRules);
}

bool valid_id(const std::string& id) {
  // Spelled out: ctype depends on the locale.
  constexpr char kAllowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
  return !id.empty() && id.size() <= kMaxIdSize && id[0] != '.' &&
         id.find_first_not_of(kAllowed) == std::string::npos;
}

Sealed encode_manifest(const Manifest& manifest) {
  return seal(PartKind::kManifest, encode(manifest).bytes(), major_of(manifest),
              manifest.machine.balloon        ? kFormatMinorBalloon
              : manifest.machine.nets.empty() ? kFormatMinor
                                              : kFormatMinorNets);
}

Result<Manifest> decode_manifest(std::span<const std::byte> file) {
  const Unsealed unsealed = TRY(unseal(PartKind::kManifest, file));
  Manifest manifest;
  if (Result<> decoded = decode(unsealed.payload, manifest); !decoded) {
    return damaged(decoded.error());
  }
  TRY(check(manifest));
  if (unsealed.major < major_of(manifest)) {
    return bad("parts: what a format version of this number knows nothing of");
  }
  return manifest;
}

}  // namespace mayfly::snapshot
