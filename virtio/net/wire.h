// SPDX-License-Identifier: Apache-2.0
//
// The network device's part of the standard: virtio 1.2, section 5.1. Little-endian, as the host
// is.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace mayfly::virtio::net {

// 5.1.2.
inline constexpr uint16_t kRxQueue = 0;
inline constexpr uint16_t kTxQueue = 1;
inline constexpr uint16_t kControlQueue = 2;

// 5.1.3.
inline constexpr uint64_t kFeatureCsum = uint64_t{1} << 0;
inline constexpr uint64_t kFeatureGuestCsum = uint64_t{1} << 1;
inline constexpr uint64_t kFeatureMtu = uint64_t{1} << 3;
inline constexpr uint64_t kFeatureMac = uint64_t{1} << 5;
inline constexpr uint64_t kFeatureGuestTso4 = uint64_t{1} << 7;
inline constexpr uint64_t kFeatureGuestTso6 = uint64_t{1} << 8;
inline constexpr uint64_t kFeatureGuestEcn = uint64_t{1} << 9;
inline constexpr uint64_t kFeatureHostTso4 = uint64_t{1} << 11;
inline constexpr uint64_t kFeatureHostTso6 = uint64_t{1} << 12;
inline constexpr uint64_t kFeatureHostEcn = uint64_t{1} << 13;
inline constexpr uint64_t kFeatureMrgRxbuf = uint64_t{1} << 15;
inline constexpr uint64_t kFeatureStatus = uint64_t{1} << 16;
inline constexpr uint64_t kFeatureCtrlVq = uint64_t{1} << 17;
inline constexpr uint64_t kFeatureCtrlRx = uint64_t{1} << 18;
inline constexpr uint64_t kFeatureGuestAnnounce = uint64_t{1} << 21;
inline constexpr uint64_t kFeatureCtrlMacAddr = uint64_t{1} << 23;
inline constexpr uint64_t kFeatureGuestUso4 = uint64_t{1} << 54;
inline constexpr uint64_t kFeatureGuestUso6 = uint64_t{1} << 55;
inline constexpr uint64_t kFeatureHostUso = uint64_t{1} << 56;

using MacAddress = std::array<uint8_t, 6>;

// 5.1.4.1.
inline constexpr uint16_t kMinMtu = 68;
inline constexpr uint16_t kMaxMtu = 65535;

// 5.1.4.
struct Config {
  MacAddress mac;
  uint16_t status;
  uint16_t max_virtqueue_pairs;
  uint16_t mtu;
};
static_assert(sizeof(Config) == 12 && offsetof(Config, mtu) == 10);

inline constexpr uint16_t kStatusLinkUp = 1;
inline constexpr uint16_t kStatusAnnounce = 2;

// 5.1.6: in front of every frame.
struct Header {
  uint8_t flags = 0;
  uint8_t gso_type = 0;
  uint16_t hdr_len = 0;
  uint16_t gso_size = 0;
  uint16_t csum_start = 0;
  uint16_t csum_offset = 0;
  uint16_t num_buffers = 0;
};
static_assert(sizeof(Header) == 12);

inline constexpr uint8_t kHeaderNeedsCsum = 1;
inline constexpr uint8_t kHeaderDataValid = 2;
inline constexpr uint8_t kGsoNone = 0;

// 5.1.6.5: a command's class and number, then its data; then the device's answer.
struct ControlHeader {
  uint8_t command_class;
  uint8_t command;
};
static_assert(sizeof(ControlHeader) == 2);

inline constexpr uint8_t kControlOk = 0;
inline constexpr uint8_t kControlError = 1;
inline constexpr uint8_t kControlRx = 0;
inline constexpr uint8_t kControlRxPromiscuous = 0;
inline constexpr uint8_t kControlRxAllMulticast = 1;
inline constexpr uint8_t kControlMac = 1;
inline constexpr uint8_t kControlMacTableSet = 0;
inline constexpr uint8_t kControlMacAddrSet = 1;
inline constexpr uint8_t kControlAnnounce = 3;
inline constexpr uint8_t kControlAnnounceAck = 0;

}  // namespace mayfly::virtio::net
