// SPDX-License-Identifier: Apache-2.0
//
// The block device's structures and numbers, as virtio 1.2 section 5.2 lays them out.
// Little-endian, as every host that Mayfly runs on.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace mayfly::virtio::blk {

static_assert(std::endian::native == std::endian::little);

/// Feature bits (5.2.3).
inline constexpr uint64_t kFeatureSegMax = uint64_t{1} << 2;
inline constexpr uint64_t kFeatureReadOnly = uint64_t{1} << 5;
inline constexpr uint64_t kFeatureBlkSize = uint64_t{1} << 6;
inline constexpr uint64_t kFeatureFlush = uint64_t{1} << 9;

/// The unit of every offset and length in the protocol, whatever blk_size says.
inline constexpr uint32_t kSectorSize = 512;

/// A serial number: ASCII, padded with zeroes, without a terminator where all 20 are used (5.2.6).
inline constexpr size_t kIdSize = 20;

/// RequestHeader::type (5.2.6).
inline constexpr uint32_t kRequestIn = 0;
inline constexpr uint32_t kRequestOut = 1;
inline constexpr uint32_t kRequestFlush = 4;
inline constexpr uint32_t kRequestGetId = 8;

/// A request's last writable byte.
enum class Status : uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };

/// The first readable bytes of every request.
struct RequestHeader {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};
static_assert(sizeof(RequestHeader) == 16);
static_assert(offsetof(RequestHeader, sector) == 8);

/// Configuration space (5.2.4), up to the last field that a feature of ours makes valid.
struct Config {
  uint64_t capacity;  // in sectors
  uint32_t size_max;
  uint32_t seg_max;
  uint16_t cylinders;
  uint8_t heads;
  uint8_t sectors;
  uint32_t blk_size;
};
static_assert(sizeof(Config) == 24);
static_assert(offsetof(Config, size_max) == 8);
static_assert(offsetof(Config, seg_max) == 12);
static_assert(offsetof(Config, cylinders) == 16);
static_assert(offsetof(Config, blk_size) == 20);

}  // namespace mayfly::virtio::blk
