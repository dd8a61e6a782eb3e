// SPDX-License-Identifier: Apache-2.0
//
// From a source to an image in the store. Needs no privilege.
#pragma once

#include "base/error.h"
#include "image/json.h"
#include "image/limits.h"
#include "image/store.h"

#include <cstdint>
#include <string>

namespace mayfly::image {

struct ImportRequest {
  /// A directory, a file, or "-" for standard input.
  std::string source;
  std::string name;
  /// Which of several images; empty: there is only one.
  std::string ref;
  /// 0: as Ext4Options says.
  uint64_t size_mib = 0;
};

struct Imported {
  ImageRecord record;
  /// Extended attributes that the image cannot have.
  uint64_t attributes_left_out = 0;
};

/// `draft` is of this store. Either the image is in the store, in place of one of that name, or the
/// store is as it was.
Result<Imported> import_image(const Store& store, Draft draft, const ImportRequest& request,
                              const Limits& limits);

}  // namespace mayfly::image
