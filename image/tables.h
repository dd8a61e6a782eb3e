// SPDX-License-Identifier: Apache-2.0
//
// Who an image's `User` is, by the image's own /etc/passwd and /etc/group, which are hostile text.
#pragma once

#include "base/error.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::image {

struct Identity {
  uint32_t uid = 0;
  uint32_t gid = 0;
  /// Other groups that the user is in.
  std::vector<uint32_t> groups;
  /// Empty: the tables do not say.
  std::string home;
};

/// `user`: empty (root), USER, USER:GROUP; each a name of the tables or a number. A group that is
/// named takes the place of the user's own groups.
Result<Identity> resolve_user(const std::string& user, std::string_view passwd,
                              std::string_view group);

}  // namespace mayfly::image
