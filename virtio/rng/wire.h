// SPDX-License-Identifier: Apache-2.0
//
// The entropy device's numbers (virtio 1.2, section 5.4). It has no configuration space and no
// request structure: a buffer is a request.
#pragma once

#include <cstdint>

namespace mayfly::virtio::rng {

/// requestq.
inline constexpr uint16_t kRequestQueue = 0;

}  // namespace mayfly::virtio::rng
