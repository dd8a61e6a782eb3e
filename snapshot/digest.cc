// SPDX-License-Identifier: Apache-2.0
#include "snapshot/digest.h"

#include "base/error.h"

#include <cstring>

#include <xxhash.h>

namespace mayfly::snapshot {

std::string to_hex(const Digest& digest) {
  std::string text;
  for (const std::byte byte : digest.bytes) text += format("%02x", std::to_integer<unsigned>(byte));
  return text;
}

Hasher::Hasher() : state_(XXH3_createState()) {
  CHECK(state_ != nullptr);  // as operator new without exceptions
  reset();
}

void Hasher::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

void Hasher::reset() { XXH3_128bits_reset(state_.get()); }

void Hasher::add(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
}

Digest Hasher::digest() const {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
  Digest digest;
  static_assert(sizeof(canonical) == sizeof(digest.bytes));
  std::memcpy(digest.bytes.data(), &canonical, sizeof(canonical));
  return digest;
}

}  // namespace mayfly::snapshot
