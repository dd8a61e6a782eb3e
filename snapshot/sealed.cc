// SPDX-License-Identifier: Apache-2.0
#include "snapshot/sealed.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace mayfly::snapshot {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[8] = {'M', 'A', 'Y', 'F', 'L', 'Y', 'S', 'N'};
constexpr uint32_t kXxh3 = 1;

Digest digest_of(const Header& header, std::span<const std::byte> payload) {
  Hasher hasher;
  hasher.add(std::as_bytes(std::span(&header, 1)).first(offsetof(Header, digest)));
  hasher.add(payload);
  return hasher.digest();
}

std::unexpected<Error> damage(const char* what) {
  return fail({Code::kDataLoss, "PART_DAMAGED"}, "%s", what);
}

Result<> check(const Header& header, PartKind part, size_t rest) {
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    return damage("does not begin as a part of a snapshot");
  }
  const uint16_t newest = part == PartKind::kManifest ? kFormatMajor2 : kFormatMajor;
  if (header.major < kFormatMajor || header.major > newest) {
    return fail({Code::kFailedPrecondition, "FORMAT_VERSION"},
                "is of format version %u.%u; this program reads versions up to %u", header.major,
                header.minor, newest);
  }
  if (header.part != static_cast<uint32_t>(part)) {
    return fail({Code::kDataLoss, "PART_DAMAGED"}, "is part %u of a snapshot, where %u belongs",
                header.part, static_cast<uint32_t>(part));
  }
  if (header.header_bytes != sizeof(Header)) {
    return fail({Code::kDataLoss, "PART_DAMAGED"}, "header: %u bytes, where %zu belong",
                header.header_bytes, sizeof(Header));
  }
  if (header.digest_algorithm != kXxh3) {
    return fail({Code::kDataLoss, "PART_DAMAGED"}, "header: digest algorithm %u is unknown",
                header.digest_algorithm);
  }
  if (header.payload_bytes != rest) {
    return fail({Code::kDataLoss, "PART_DAMAGED"},
                "header: a payload of %llu bytes, where %zu follow",
                static_cast<unsigned long long>(header.payload_bytes), rest);
  }
  if (std::ranges::any_of(header.reserved, [](std::byte byte) { return byte != std::byte{}; })) {
    return damage("header: a reserved byte is not zero");
  }
  return {};
}

}  // namespace

Sealed seal(PartKind part, std::span<const std::byte> payload, uint16_t major, uint16_t minor) {
  Header header = {.magic = {},
                   .major = major,
                   .minor = minor,
                   .part = static_cast<uint32_t>(part),
                   .header_bytes = sizeof(Header),
                   .digest_algorithm = kXxh3,
                   .payload_bytes = payload.size(),
                   .reserved = {},
                   .digest = {}};
  std::ranges::copy(kMagic, header.magic);
  header.digest = digest_of(header, payload);
  Sealed sealed;
  sealed.digest = header.digest;
  sealed.bytes.resize(sizeof(Header) + payload.size());
  std::memcpy(sealed.bytes.data(), &header, sizeof(Header));
  if (!payload.empty()) {
    std::memcpy(sealed.bytes.data() + sizeof(Header), payload.data(), payload.size());
  }
  return sealed;
}

Result<Unsealed> unseal(PartKind part, std::span<const std::byte> file) {
  if (file.size() < sizeof(Header)) {
    return fail({Code::kDataLoss, "PART_DAMAGED"}, "%zu bytes are too few for a header of %zu",
                file.size(), sizeof(Header));
  }
  Header header;
  std::memcpy(&header, file.data(), sizeof(Header));
  const std::span<const std::byte> payload = file.subspan(sizeof(Header));
  TRY(check(header, part, payload.size()));
  if (digest_of(header, payload) != header.digest) {
    return damage("the content does not match its digest");
  }
  return Unsealed{payload, header.digest, header.major};
}

std::unexpected<Error> damaged(const Error& error) {
  return fail({Code::kDataLoss, "PART_DAMAGED"}, "%s", error.message().c_str());
}

}  // namespace mayfly::snapshot
