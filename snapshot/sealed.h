// SPDX-License-Identifier: Apache-2.0
//
// A sealed file: the header that every part but memory begins with, and one protobuf message. Every
// bit of the file is under the header's digest or compared with a constant.
//
// The first 16 bytes are the same in every version there will ever be: any version can say what a
// file is and why it does not read it. A newer minor version is read (unknown fields are skipped),
// another major version is refused.
#pragma once

#include "base/error.h"
#include "snapshot/digest.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace mayfly::snapshot {

inline constexpr uint16_t kFormatMajor = 1;
inline constexpr uint16_t kFormatMinor = 0;
/// Of a manifest or a state with a balloon.
inline constexpr uint16_t kFormatMinorBalloon = 2;
/// Of a manifest or a state with network devices.
inline constexpr uint16_t kFormatMinorNets = 1;
/// Of a manifest that names captured disks or a compressed memory. The other parts have had one
/// form only, to which fields were added.
inline constexpr uint16_t kFormatMajor2 = 2;

/// Which file of a snapshot this is.
enum class PartKind : uint32_t { kManifest = 1, kState = 2, kMemoryIndex = 3, kWorkingSet = 4 };

/// Little-endian, as every host that Mayfly runs on.
struct Header {
  char magic[8];
  uint16_t major;
  uint16_t minor;
  uint32_t part;
  uint32_t header_bytes;
  uint32_t digest_algorithm;
  uint64_t payload_bytes;
  std::byte reserved[16];
  Digest digest;  // of the 48 bytes before it and the payload
};
static_assert(sizeof(Header) == 64);
static_assert(offsetof(Header, major) == 8);
static_assert(offsetof(Header, part) == 12);
static_assert(offsetof(Header, header_bytes) == 16);
static_assert(offsetof(Header, payload_bytes) == 24);
static_assert(offsetof(Header, digest) == 48);

struct Sealed {
  std::string bytes;
  Digest digest;
};

/// The file that holds `payload`.
Sealed seal(PartKind part, std::span<const std::byte> payload, uint16_t major = kFormatMajor,
            uint16_t minor = kFormatMinor);

struct Unsealed {
  /// Into the bytes that were given.
  std::span<const std::byte> payload;
  Digest digest;
  uint16_t major = kFormatMajor;
};

/// Checks the whole file, whose bytes are hostile. kDataLoss PART_DAMAGED, or kFailedPrecondition
/// FORMAT_VERSION where it is of another major version.
Result<Unsealed> unseal(PartKind part, std::span<const std::byte> file);

/// An error of the message's decoding as damage: kDataLoss PART_DAMAGED.
std::unexpected<Error> damaged(const Error& error);

}  // namespace mayfly::snapshot
