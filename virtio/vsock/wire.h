// SPDX-License-Identifier: Apache-2.0
//
// The socket device's structures and numbers, as virtio 1.2 section 5.10 lays them out.
// Little-endian, as every host that Mayfly runs on.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace mayfly::virtio::vsock {

static_assert(std::endian::native == std::endian::little);

/// Feature bits (5.10.3).
inline constexpr uint64_t kFeatureStream = uint64_t{1} << 0;

/// Queue indices (5.10.2).
inline constexpr uint16_t kRxQueue = 0;
inline constexpr uint16_t kTxQueue = 1;
inline constexpr uint16_t kEventQueue = 2;

/// Context identifiers (5.10.4): 0, 1, 2 and 2^32 - 1 are taken, and the upper half is reserved.
inline constexpr uint64_t kHostCid = 2;
inline constexpr uint64_t kFirstGuestCid = 3;
inline constexpr uint64_t kLastGuestCid = 0xffff'fffe;

inline constexpr uint32_t kPortAny = 0xffff'ffff;

/// Header::type.
inline constexpr uint16_t kTypeStream = 1;

/// Header::op (5.10.6).
inline constexpr uint16_t kOpRequest = 1;
inline constexpr uint16_t kOpResponse = 2;
inline constexpr uint16_t kOpRst = 3;
inline constexpr uint16_t kOpShutdown = 4;
inline constexpr uint16_t kOpRw = 5;
inline constexpr uint16_t kOpCreditUpdate = 6;
inline constexpr uint16_t kOpCreditRequest = 7;

/// Header::flags of kOpShutdown: the sender will receive no more, send no more.
inline constexpr uint32_t kShutdownReceive = 1;
inline constexpr uint32_t kShutdownSend = 2;
inline constexpr uint32_t kShutdownBoth = kShutdownReceive | kShutdownSend;

/// What every packet begins with, both ways.
struct [[gnu::packed]] Header {
  uint64_t src_cid = 0;
  uint64_t dst_cid = 0;
  uint32_t src_port = 0;
  uint32_t dst_port = 0;
  uint32_t len = 0;
  uint16_t type = 0;
  uint16_t op = 0;
  uint32_t flags = 0;
  uint32_t buf_alloc = 0;
  uint32_t fwd_cnt = 0;
};
static_assert(sizeof(Header) == 44);
static_assert(offsetof(Header, src_port) == 16);
static_assert(offsetof(Header, len) == 24);
static_assert(offsetof(Header, type) == 28);
static_assert(offsetof(Header, flags) == 32);
static_assert(offsetof(Header, fwd_cnt) == 40);

/// What the device puts into a buffer of the event queue (5.10.6.7).
struct Event {
  uint32_t id = 0;
};
static_assert(sizeof(Event) == 4);

/// Event::id: connections are gone, and the guest's CID may be another.
inline constexpr uint32_t kEventTransportReset = 0;

/// Configuration space (5.10.4).
struct Config {
  uint64_t guest_cid;
};
static_assert(sizeof(Config) == 8);

}  // namespace mayfly::virtio::vsock
