// SPDX-License-Identifier: Apache-2.0
//
// Small snapshots for tests, always the same to the bit, and the places to put them.
#pragma once

#include "base/fd.h"
#include "snapshot/disk_file_sys.h"
#include "snapshot/manifest.h"
#include "snapshot/memory_file.h"
#include "snapshot/state.h"
#include "snapshot/working_set.h"
#include "snapshot/writer.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::snapshot::testing {

/// 5 MiB: two chunks and a half.
inline constexpr uint64_t kSampleBytes = uint64_t{5} << 20;
inline constexpr size_t kSamplePages = kSampleBytes / kPageBytes;

/// A directory that goes with the object, with what is in it.
class TempDirectory {
 public:
  TempDirectory();
  ~TempDirectory();
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;

  FdRef fd() const { return directory_.ref(); }
  const std::string& path() const { return path_; }
  std::string path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
  Fd directory_;
};

/// Two vCPUs and a device of each kind, with a value of its own in every field.
MachineState sample_state();
/// Of that machine; kind, parent and parts are the caller's.
Manifest sample_manifest(const std::string& id);
/// A host that can restore it.
HostDescription sample_host();
WorkingSet sample_working_set();

/// A disk of five pieces and a sector: some zero and stored, some holes, the last sector written.
inline constexpr uint64_t kSampleDiskBytes = 5 * kDiskPieceBytes + kSectorBytes;
Fd sample_disk();

/// Page `page`'s content is made from `seed`; 0 makes it zero.
void fill_page(FdRef ram, uint64_t page, uint8_t seed);
/// kSampleBytes with some pages in each chunk, also the first and the last.
Fd sample_ram();
/// The whole of it.
std::vector<std::byte> content_of(FdRef ram);
std::vector<uint64_t> bitmap_of(const std::vector<uint64_t>& pages);

/// Puts a snapshot together: FULL, or a DIFF over `parent` with `dirty` pages.
struct Recipe {
  std::string id;
  FdRef ram;
  std::optional<Parent> parent = {};
  std::vector<uint64_t> dirty = {};
  bool with_working_set = false;
  /// A second disk, and what is on it.
  FdRef disk = {};
  bool is_compressed = false;
};
Result<> write_sample(SnapshotWriter& writer, const Recipe& recipe);
Result<> write_sample(FdRef store, const Recipe& recipe);
/// What a diff over the snapshot `id` of `store` says of its parent.
Parent parent_of(FdRef store, const std::string& id);

}  // namespace mayfly::snapshot::testing
