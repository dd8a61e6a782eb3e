// SPDX-License-Identifier: Apache-2.0
//
// The manifest: what a snapshot is, what it needs, and the size and digest of its other files. It
// is written last and read first, and nothing in it is a path: parts have fixed names beside it.
//
// Pure; any thread.
#pragma once

#include "base/error.h"
#include "snapshot/digest.h"
#include "snapshot/host.h"
#include "snapshot/sealed.h"
#include "virtio/balloon/state.h"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::snapshot {

inline constexpr uint32_t kPageBytes = 4096;
inline constexpr uint64_t kMaxMemoryBytes = uint64_t{1} << 40;
inline constexpr uint64_t kMaxManifestBytes = uint64_t{1} << 20;
inline constexpr size_t kMaxIdSize = 64;
inline constexpr size_t kMaxCommandLine = 64 << 10;
inline constexpr size_t kMaxDisks = 32;
inline constexpr size_t kMaxNets = 16;
inline constexpr size_t kMaxSerial = 20;
inline constexpr uint64_t kMaxDiskBytes = uint64_t{1} << 44;
inline constexpr uint64_t kSectorBytes = 512;
inline constexpr size_t kMaxParts = 8 + kMaxDisks;

// The files of a snapshot.
inline constexpr char kManifestName[] = "manifest";
inline constexpr char kStateName[] = "state";
inline constexpr char kMemoryName[] = "memory";
/// Instead of it.
inline constexpr char kCompressedMemoryName[] = "memory.zst";
inline constexpr char kMemoryIndexName[] = "memory.index";
inline constexpr char kWorkingSetName[] = "working_set";
/// "disk.0" and so on, by the disk's place in the machine.
std::string disk_name(size_t place);
/// Whether any snapshot has such a file.
bool is_part_name(const std::string& name);

enum class Kind : uint8_t { kUnspecified, kFull, kDiff, kStateOnly };
enum class Encoding : uint8_t {
  kUnspecified,
  kSealedMessage,
  kSparsePages,
  kSparseDisk,
  kZstdChunks,
};

struct Parent {
  std::string id;
  /// Of the parent's memory index. An index holds its own parent's: this names the whole content.
  Digest memory_digest;

  friend bool operator==(const Parent&, const Parent&) = default;
};

struct DiskInfo {
  uint64_t size_bytes = 0;
  bool read_only = false;
  std::string serial;
  /// What was on it is in the part disk_name().
  bool captured = false;

  friend bool operator==(const DiskInfo&, const DiskInfo&) = default;
};

struct NetInfo {
  uint16_t mtu = 0;

  friend bool operator==(const NetInfo&, const NetInfo&) = default;
};

struct MachineInfo {
  uint32_t vcpu_count = 0;
  uint64_t memory_bytes = 0;
  std::string command_line;
  std::vector<DiskInfo> disks;
  /// 0: no vsock device.
  uint64_t guest_cid = 0;
  bool has_rng = false;
  bool has_agent = false;
  std::optional<virtio::balloon::Options> balloon = {};
  std::vector<NetInfo> nets = {};

  friend bool operator==(const MachineInfo&, const MachineInfo&) = default;
};

struct Part {
  std::string name;
  uint64_t size_bytes = 0;
  /// Zeroes for memory, whose digests are in the index; of a disk, digest_disk()'s.
  Digest digest;
  Encoding encoding = Encoding::kUnspecified;

  friend bool operator==(const Part&, const Part&) = default;
};

struct Manifest {
  std::string id;
  Kind kind = Kind::kUnspecified;
  std::optional<Parent> parent;
  uint64_t created_ns = 0;
  MachineInfo machine;
  HostRequirements host;
  std::vector<Part> parts;

  /// The part of that name, or null.
  const Part* find(const std::string& name) const;
};

/// [A-Za-z0-9_.-], not '.' first, at most kMaxIdSize: fit to be a file's name.
bool valid_id(const std::string& id);

Sealed encode_manifest(const Manifest& manifest);

/// Hostile bytes: the whole file. What it returns is whole: the parts that its kind has, each once,
/// sizes inside their limits; a parent for a DIFF and for nothing else; a part for each captured
/// disk.
Result<Manifest> decode_manifest(std::span<const std::byte> file);

}  // namespace mayfly::snapshot
