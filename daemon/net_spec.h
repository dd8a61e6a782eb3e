// SPDX-License-Identifier: Apache-2.0
//
// What a caller may ask for of a VM's network: the plain form of mayfly.v1.Net and its limits. Any
// thread.
#pragma once

#include "base/error.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::daemon {

inline constexpr size_t kMaxNets = 4;
inline constexpr uint32_t kMinMtu = 68;
inline constexpr uint32_t kMaxMtu = 65535;
/// Of a network device's name; the kernel's limit.
inline constexpr size_t kMaxDeviceName = 15;
inline constexpr size_t kMaxNameservers = 3;
inline constexpr size_t kMaxPortForwards = 16;
/// Of a network that is a program: what goes through a stream, and passt's own choice.
inline constexpr uint32_t kUserModeMtu = 65520;

using MacAddress = std::array<uint8_t, 6>;

/// An IPv4 address in host order, and how many of its bits name the network.
struct Ip4Prefix {
  uint32_t address = 0;
  uint8_t bits = 0;

  uint32_t mask() const { return bits == 0 ? 0 : ~uint32_t{0} << (32 - bits); }
  friend bool operator==(const Ip4Prefix&, const Ip4Prefix&) = default;
};

/// "10.0.0.1", "10.0.0.1/24" and "02:00:00:00:00:01"; `field` is named in a refusal.
Result<uint32_t> parse_ip4(const char* field, const std::string& text);
Result<Ip4Prefix> parse_ip4_prefix(const char* field, const std::string& text);
Result<MacAddress> parse_mac(const char* field, const std::string& text);
std::string to_text(uint32_t ip4);
std::string to_text(const Ip4Prefix& prefix);
std::string to_text(const MacAddress& mac);

/// Locally administered, and no group's.
MacAddress random_mac();

/// As the guest's agent sets it.
struct GuestNetwork {
  Ip4Prefix address;
  std::optional<uint32_t> gateway;
  std::vector<uint32_t> nameservers;
};

struct PortForward {
  uint32_t host_address = 0x7f00'0001;
  uint32_t host_port = 0;
  /// 0: the same.
  uint32_t guest_port = 0;
};

struct NetSpec {
  /// Empty: the daemon's choice.
  std::string tap = {};
  /// A path. Empty: the daemon's own.
  std::string network_namespace = {};
  std::string bridge = {};
  std::optional<Ip4Prefix> host_address = {};
  std::optional<MacAddress> mac = {};
  /// Absent: the tap device's.
  std::optional<uint32_t> mtu = {};
  std::optional<GuestNetwork> guest = {};
  /// Addresses of the daemon's pool.
  bool automatic = false;
  /// By passt, and not by a device.
  bool user_mode = false;
  std::vector<PortForward> tcp_ports = {};
  /// Of a saved VM: the device must have it.
  std::optional<uint32_t> saved_mtu = {};
};

/// "nets[0]".
std::string net_field(size_t place);

/// Everything that can be told without touching the host.
Result<> validate(const std::vector<NetSpec>& nets, bool has_agent);

}  // namespace mayfly::daemon
