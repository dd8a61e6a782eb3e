// SPDX-License-Identifier: Apache-2.0
#include "daemon/address_pool.h"

namespace mayfly::daemon {

AddressLease::~AddressLease() {
  if (pool_ != nullptr) pool_->give_back(network_);
}

Result<std::unique_ptr<AddressPool>> AddressPool::create(const std::string& text) {
  const Ip4Prefix range = TRY(parse_ip4_prefix("net-pool", text));
  if (range.bits < 8 || range.bits > kLinkBits || (range.address & ~range.mask()) != 0) {
    return fail({Code::kInvalidArgument, "NET_POOL"},
                "net-pool: %s is not a network of 8 to %u bits, as %s", text.c_str(), kLinkBits,
                kDefaultNetPool);
  }
  return std::unique_ptr<AddressPool>(new AddressPool(range));
}

Result<AddressLease> AddressPool::take() {
  const uint32_t count = uint32_t{1} << (kLinkBits - range_.bits);
  std::lock_guard lock(mutex_);
  for (uint32_t tried = 0; tried < count; ++tried) {
    const uint32_t network = range_.address + (next_ << (32 - kLinkBits));
    next_ = (next_ + 1) % count;
    if (used_.insert(network).second) return AddressLease(this, network);
  }
  return fail({Code::kResourceExhausted, "NET_POOL"}, "net-pool: all %u networks of %s are in use",
              count, to_text(range_).c_str());
}

void AddressPool::give_back(uint32_t network) {
  std::lock_guard lock(mutex_);
  used_.erase(network);
}

}  // namespace mayfly::daemon
