// SPDX-License-Identifier: Apache-2.0
//
// How much of the jail a host lets us build.
#pragma once

#include <cstdint>

namespace mayfly::jailer {

enum class JailMode : uint8_t {
  kRoot,  // we are root: the program gets `uid` and `gid`, and nothing of ours
  kUser,  // we are not: a user namespace of our own id
  kOff,   // no namespaces, ids, capabilities or Landlock: descriptors, environment, limits only
};

}  // namespace mayfly::jailer
