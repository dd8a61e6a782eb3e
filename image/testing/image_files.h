// SPDX-License-Identifier: Apache-2.0
//
// Images for tests: layers as tar archives, layouts around them, and what is inside an ext4 image,
// as e2fsprogs sees it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace mayfly::image {

/// An entry of a layer. `type`: f, d, l (symbolic link), h (hard link), c, b, p as find(1) has
/// them.
struct Entry {
  std::string path;
  char type = 'f';
  /// A file's bytes, or a link's target.
  std::string text = {};
  unsigned mode = 0644;
  int64_t uid = 0;
  int64_t gid = 0;
  int64_t mtime_s = 1'600'000'000;
  std::map<std::string, std::string> xattrs = {};
  unsigned major = 0;
  unsigned minor = 0;
  /// Not 0: a sparse file of that size, whose only data is `text` at its end.
  uint64_t sparse_size = 0;
};

enum class Packing : uint8_t { kPlain, kGzip, kZstd };

std::string make_tar(const std::vector<Entry>& entries, Packing packing = Packing::kPlain);
std::string sha256_of(const std::string& bytes);

/// A temporary directory, removed with its owner.
class Directory {
 public:
  Directory();
  ~Directory();
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  std::string path(const std::string& name = "") const { return (root_ / name).string(); }
  void write(const std::string& name, const std::string& bytes) const;
  /// Everything below, sorted.
  std::vector<std::string> names() const;

 private:
  std::filesystem::path root_;
};

/// What an image is made of; finish() writes it as an OCI layout.
struct Layout {
  std::string architecture = "amd64";
  /// The "config" of the configuration, as JSON.
  std::string execution = "{}";
  struct Layer {
    std::string bytes;
    std::string media_type;
    std::string diff_id;
  };
  std::vector<Layer> layers;
  std::string ref_name;

  void add(const std::vector<Entry>& entries, Packing packing = Packing::kPlain);
  std::string config() const;
  /// Returns the manifest's descriptor.
  std::string write_blobs(const Directory& directory) const;
  void finish(const Directory& directory) const;
};

/// What a program printed; an empty text is a failed check.
std::string run(const std::string& command);
/// One command of debugfs on an image.
std::string debugfs(const std::string& image, const std::string& command);
/// Whether e2fsck finds nothing to mend; prints what it says where it does.
bool is_clean(const std::string& image);

}  // namespace mayfly::image
