// SPDX-License-Identifier: Apache-2.0
//
// The digest of the snapshot format: XXH3-128 in its canonical (big-endian) form.
//
// It shows damage: bits that flipped on the way, files cut short or mixed up. It shows no forger:
// anyone can compute it, so whoever may write a snapshot's directory decides what is restored from
// it. That is on purpose. It runs at memory speed, where SHA-256 would take longer than the restore
// itself. To refuse forgeries one would sign the manifest's digest with a key the writer does not
// hold, and would take a cryptographic hash (BLAKE3, SHA-256) for all that hangs on it: XXH3's
// collisions can be made to order. The header names the digest, so there is room for another.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

struct XXH3_state_s;

namespace mayfly::snapshot {

struct Digest {
  std::array<std::byte, 16> bytes = {};

  friend bool operator==(const Digest&, const Digest&) = default;
};

/// 32 hexadecimal digits.
std::string to_hex(const Digest& digest);

/// Of pieces, one after the other.
class Hasher {
 public:
  Hasher();
  void add(std::span<const std::byte> bytes);
  Digest digest() const;
  void reset();

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

}  // namespace mayfly::snapshot
