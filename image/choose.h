// SPDX-License-Identifier: Apache-2.0
//
// Which image of a source is meant, and of what parts it is made.
#pragma once

#include "base/error.h"
#include "image/json.h"
#include "image/limits.h"
#include "image/source.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::image {

/// A layer's file, and what is known of it beforehand.
struct LayerPart {
  std::string name;
  /// Of the file as it is; an archive of `docker save` has none.
  std::string sha256;
  std::optional<uint64_t> size;
  /// Of what is inside, as the configuration says.
  std::string diff_id;
};

struct ChosenImage {
  /// "sha256:...", of the manifest or, without one, of the configuration.
  std::string digest;
  ImageConfig config;
  /// The lowest first.
  std::vector<LayerPart> layers;
};

/// This host's, as images spell it: "amd64".
const char* host_architecture();

/// The image for Linux on `architecture` named `ref` (an annotation or a tag; empty: there is only
/// one). Digests and sizes of all but the layers are checked.
Result<ChosenImage> choose_image(Source& source, const std::string& ref,
                                 const std::string& architecture, const Limits& limits);

}  // namespace mayfly::image
