// SPDX-License-Identifier: Apache-2.0
#include "daemon/random.h"

#include "base/error.h"

#include <sys/random.h>

namespace mayfly::daemon {

std::string random_bytes(size_t count) {
  std::string bytes(count, 0);
  // Up to 256 bytes are always given whole once the kernel's pool is ready.
  CHECK(::getrandom(bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  return bytes;
}

std::string random_token() {
  std::string text;
  for (const char byte : random_bytes(16)) {
    text += format("%02x", static_cast<unsigned>(static_cast<unsigned char>(byte)));
  }
  return text;
}

}  // namespace mayfly::daemon
