// SPDX-License-Identifier: Apache-2.0
//
// IPv4 networks of four addresses for VMs whose caller names none: one for each, with the host and
// the guest in it. Any thread.
#pragma once

#include "base/error.h"
#include "daemon/net_spec.h"

#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>

namespace mayfly::daemon {

inline constexpr const char* kDefaultNetPool = "10.213.0.0/16";
inline constexpr uint8_t kLinkBits = 30;

class AddressPool;

/// One network, given back with its owner.
class AddressLease {
 public:
  AddressLease() = default;
  ~AddressLease();
  AddressLease(AddressLease&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), network_(other.network_) {}
  AddressLease& operator=(AddressLease&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(network_, other.network_);
    return *this;
  }

  Ip4Prefix host() const { return {.address = network_ + 1, .bits = kLinkBits}; }
  Ip4Prefix guest() const { return {.address = network_ + 2, .bits = kLinkBits}; }

 private:
  friend class AddressPool;
  AddressLease(AddressPool* pool, uint32_t network) : pool_(pool), network_(network) {}

  AddressPool* pool_ = nullptr;
  uint32_t network_ = 0;
};

class AddressPool {
 public:
  /// "10.213.0.0/16": a network of 8 to 30 bits.
  static Result<std::unique_ptr<AddressPool>> create(const std::string& text);

  /// The one that was free for longest. RESOURCE_EXHAUSTED, naming the pool, when all are in use.
  Result<AddressLease> take();

 private:
  friend class AddressLease;
  explicit AddressPool(const Ip4Prefix& range) : range_(range) {}
  void give_back(uint32_t network);

  const Ip4Prefix range_;
  std::mutex mutex_;
  // Guarded by mutex_.
  std::set<uint32_t> used_;
  uint32_t next_ = 0;  // number of a network
};

}  // namespace mayfly::daemon
