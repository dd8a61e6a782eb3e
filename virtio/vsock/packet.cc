// SPDX-License-Identifier: Apache-2.0
#include "virtio/vsock/packet.h"

namespace mayfly::virtio::vsock {

Result<Header> read_packet(ChainReader& reader) {
  const auto header = TRY(reader.read_object<Header>());
  const uint32_t len = header.len;
  if (len > reader.remaining()) {
    return fail({Code::kInvalidArgument, "VSOCK_LENGTH"},
                "vsock: a packet says %u bytes and has %llu", len,
                static_cast<unsigned long long>(reader.remaining()));
  }
  return header;
}

Header reset_for(const Stray& stray, uint64_t guest_cid) {
  Header header;
  header.src_cid = kHostCid;
  header.dst_cid = guest_cid;
  header.src_port = stray.ports.host;
  header.dst_port = stray.ports.guest;
  header.type = stray.type;
  header.op = kOpRst;
  return header;
}

void StrayQueue::push(const Stray& stray) {
  CHECK(!full());
  strays_[(first_ + size_++) % kCapacity] = stray;
}

Stray StrayQueue::pop() {
  CHECK(!empty());
  const Stray stray = strays_[first_];
  first_ = static_cast<uint16_t>((first_ + 1) % kCapacity);
  --size_;
  return stray;
}

}  // namespace mayfly::virtio::vsock
