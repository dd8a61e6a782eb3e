// SPDX-License-Identifier: Apache-2.0
//
// The commands about images, which need no daemon, and an image for `mayfly run`.
#pragma once

#include "base/error.h"
#include "cli/flags.h"
#include "image/json.h"
#include "image/store.h"

#include <optional>
#include <string>

namespace mayfly::cli {

int import_image(const GlobalFlags& global, const ImageFlags& flags);
int list_images(const GlobalFlags& global);
int inspect_image(const GlobalFlags& global, const ImageFlags& flags);
int remove_images(const GlobalFlags& global, const ImageFlags& flags);

/// An image that a VM is made from. A copy is gone with this, so it goes once the VM has it.
class ImageForRun {
 public:
  static Result<ImageForRun> open(const std::string& name, bool writable);

  const std::string& rootfs() const { return rootfs_; }
  /// Fills in what the command line leaves to the image: the command, or only what it runs with.
  Result<> complete(CommandFlags& command) const;

 private:
  ImageForRun(std::string name, image::ImageRecord record, std::string rootfs,
              std::optional<image::Draft> copy)
      : name_(std::move(name)),
        record_(std::move(record)),
        rootfs_(std::move(rootfs)),
        copy_(std::move(copy)) {}

  std::string name_;
  image::ImageRecord record_;
  std::string rootfs_;
  std::optional<image::Draft> copy_;
};

}  // namespace mayfly::cli
