// SPDX-License-Identifier: Apache-2.0
//
// The images of a user: a directory with one for each, NAME/rootfs.ext4 and NAME/config.json.
//
// An image is made in a directory of another name, written to the disk, and only then takes its
// name, in place of an older one at once. What a process that was killed left behind is removed by
// the next that makes something: whoever works on a temporary directory holds a lock on it.
//
// Images may hold secrets: nobody but the user (and root) reads them. The directory is the user's
// own; names that come in and a config.json are checked all the same.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "image/json.h"

#include <string>
#include <vector>

namespace mayfly::image {

/// $MAYFLY_IMAGE_DIR; for root /var/lib/mayfly/images; else $XDG_DATA_HOME/mayfly/images, which is
/// ~/.local/share/mayfly/images where that is not set.
Result<std::string> default_store_directory();

/// [a-z0-9][a-z0-9-_.]{0,62}
bool is_image_name(const std::string& name);

/// A directory in the store that is gone with its owner, unless it has become an image.
class Draft {
 public:
  ~Draft();
  Draft(Draft&& other) noexcept;
  Draft& operator=(Draft&&) = delete;

  const std::string& path() const { return path_; }

 private:
  friend class Store;
  Draft(std::string path, Fd lock) : path_(std::move(path)), lock_(std::move(lock)) {}

  std::string path_;
  Fd lock_;
};

class Store {
 public:
  /// `directory` is absolute. Nothing is made.
  explicit Store(std::string directory) : directory_(std::move(directory)) {}

  Result<Draft> draft() const;
  /// `draft` holds a rootfs.ext4; it becomes the image `name`.
  Result<> publish(Draft draft, const std::string& name, const ImageRecord& record) const;

  /// No such image: kNotFound.
  Result<ImageRecord> get(const std::string& name) const;
  std::string rootfs_path(const std::string& name) const;
  /// Sorted.
  Result<std::vector<std::string>> list() const;
  /// VMs that have it go on: they hold its file.
  Result<> remove(const std::string& name) const;
  /// A copy of the image's rootfs.ext4 in a draft, as rootfs.ext4: shared blocks where the file
  /// system can, else the data without the holes.
  Result<Draft> copy_rootfs(const std::string& name) const;

 private:
  Result<> make_directory() const;
  void remove_leftovers() const;
  Result<> exists(const std::string& name) const;

  const std::string directory_;
};

}  // namespace mayfly::image
