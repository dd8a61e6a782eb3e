// SPDX-License-Identifier: Apache-2.0
#include "virtio/vsock/connection.h"

namespace mayfly::virtio::vsock {

bool Connection::take_credit(uint32_t buf_alloc, uint32_t fwd_cnt) {
  guest_buffer = buf_alloc;
  const uint32_t step = fwd_cnt - guest_forwarded;
  if (step <= sent - guest_forwarded) {
    guest_forwarded = fwd_cnt;
    if (credit() > 0) credit_requested = false;
    return true;
  }
  // Linux stamps packets before it queues them, from several threads, so a number may be older than
  // the last one: it is passed over. What is left is ahead of everything sent.
  const uint32_t behind = guest_forwarded - fwd_cnt;
  return behind < uint32_t{1} << 31;
}

uint32_t Connection::credit() const {
  const uint32_t under_way = sent - guest_forwarded;
  return under_way < guest_buffer ? guest_buffer - under_way : 0;
}

bool Connection::may_receive() const {
  return phase == Phase::kEstablished && readable && (guest_shutdown & kShutdownReceive) == 0 &&
         (credit() > 0 || !credit_requested);
}

Header Connection::header(uint64_t guest_cid, uint16_t op, uint32_t len, uint32_t flags) {
  forwarded_told = forwarded;
  pending &= static_cast<uint8_t>(~pending::kCreditUpdate);
  return {.src_cid = kHostCid,
          .dst_cid = guest_cid,
          .src_port = ports.host,
          .dst_port = ports.guest,
          .len = len,
          .type = kTypeStream,
          .op = op,
          .flags = flags,
          .buf_alloc = kSendBufferSize,
          .fwd_cnt = forwarded};
}

}  // namespace mayfly::virtio::vsock
