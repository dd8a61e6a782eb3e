// SPDX-License-Identifier: Apache-2.0
#include "virtio/net/tap_sys.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

namespace mayfly::virtio::net {
namespace {

constexpr uint32_t kReadableOp = 0;
constexpr uint32_t kWritableOp = 1;

// As readv() and writev(), but other system calls: a filter tells them from the C library's.
constexpr off_t kNowhere = -1;

// Since Linux 6.2; Debian 12's headers are older.
constexpr unsigned kTunUso4 = 0x20;
constexpr unsigned kTunUso6 = 0x40;

constexpr Offloads kAll = {.csum = true, .tso4 = true, .tso6 = true, .ecn = true, .uso = true};
constexpr Offloads kWithoutUso = {.csum = true, .tso4 = true, .tso6 = true, .ecn = true};

unsigned tun_flags(const Offloads& offloads) {
  unsigned flags = 0;
  if (offloads.csum) flags |= TUN_F_CSUM;
  if (offloads.tso4) flags |= TUN_F_TSO4;
  if (offloads.tso6) flags |= TUN_F_TSO6;
  if (offloads.ecn) flags |= TUN_F_TSO_ECN;
  if (offloads.uso) flags |= kTunUso4 | kTunUso6;
  return flags;
}

Result<> check(FdRef tap) {
  ifreq request = {};
  // SAFETY: TUNGETIFF fills the ifreq.
  if (::ioctl(tap.number(), TUNGETIFF, &request) != 0) {
    return fail_errno({Code::kInvalidArgument, "NET_TAP"}, errno,
                      "net: descriptor %d is not an attached tap device", tap.number());
  }
  const unsigned flags = static_cast<unsigned short>(request.ifr_flags);
  // TUNGETIFF has another flag in IFF_NO_PI's place: that one is taken on trust.
  constexpr unsigned kWanted = IFF_TAP | IFF_VNET_HDR;
  if ((flags & kWanted) != kWanted) {
    return fail({Code::kInvalidArgument, "NET_TAP"},
                "net: the tap device has flags 0x%x, it needs 0x%x (TAP, VNET_HDR)", flags,
                kWanted);
  }
  const int status = ::fcntl(tap.number(), F_GETFL);
  if (status < 0 || (status & O_NONBLOCK) == 0) {
    return fail({Code::kInvalidArgument, "NET_TAP"}, "net: the tap device is not non-blocking");
  }
  return {};
}

Result<> set_header_size(FdRef tap) {
  int size = sizeof(Header);
  // SAFETY: TUNSETVNETHDRSZ reads an int.
  if (::ioctl(tap.number(), TUNSETVNETHDRSZ, &size) == 0) return {};
  return fail_errno({Code::kInvalidArgument, "NET_TAP"}, errno,
                    "net: the tap device takes no headers of %d bytes", size);
}

}  // namespace

Result<std::unique_ptr<Tap>> Tap::create(Loop& loop, Fd fd) {
  TRY(check(fd.ref()));
  TRY(set_header_size(fd.ref()));
  std::unique_ptr<Tap> tap(new Tap(loop, std::move(fd)));
  tap->offloads_ = tap->let_guest_do(kAll) ? kAll : kWithoutUso;
  TRY(tap->let_guest_do({}));
  tap->id_ = TRY(loop.add_client(*tap));
  tap->readable_ = TRY(loop.watch(tap->id_, tap->tap_.ref(), POLLIN, kReadableOp));
  return tap;
}

Tap::~Tap() {
  if (writable_.valid()) loop_.remove_file(writable_);
  if (readable_.valid()) loop_.remove_file(readable_);
  loop_.remove_client(id_);
}

void Tap::on_completion(uint32_t op, int32_t) {
  if (op == kReadableOp) return client_->on_frames_waiting();
  if (writable_.valid()) loop_.remove_file(std::exchange(writable_, FileSlot{}));
  client_->on_room_to_send();
}

Result<> Tap::let_guest_do(const Offloads& offloads) {
  if (::ioctl(tap_.number(), TUNSETOFFLOAD, static_cast<unsigned long>(tun_flags(offloads))) == 0) {
    return {};
  }
  return fail_errno({Code::kInternal, "NET_OFFLOADS"}, errno,
                    "net: the tap device refuses offloads 0x%x", tun_flags(offloads));
}

IoResult Tap::receive(Header& header, std::span<const iovec> frame) {
  CHECK(frame.size() <= kMaxPieces);
  // What does not fit ends here, so that a frame that was cut is told from one that was not.
  std::array<std::byte, 1> rest;
  pieces_[0] = {&header, sizeof(header)};
  *std::ranges::copy(frame, pieces_.begin() + 1).out = {rest.data(), rest.size()};
  ssize_t size;
  do {
    // SAFETY: the pieces are a header and a byte of ours, and guest memory from GuestSpan; the
    // kernel copies.
    size =
        ::preadv2(tap_.number(), pieces_.data(), static_cast<int>(frame.size()) + 2, kNowhere, 0);
  } while (size < 0 && errno == EINTR);
  if (size < 0) return {errno == EAGAIN ? IoStatus::kWouldBlock : IoStatus::kFailed};
  if (size < static_cast<ssize_t>(sizeof(header))) return {IoStatus::kFailed};
  return {IoStatus::kMoved, static_cast<size_t>(size) - sizeof(header)};
}

IoResult Tap::send(const Header& header, std::span<const iovec> frame) {
  CHECK(frame.size() <= kMaxPieces);
  Header copy = header;
  pieces_[0] = {&copy, sizeof(copy)};
  std::ranges::copy(frame, pieces_.begin() + 1);
  ssize_t size;
  do {
    // SAFETY: as in receive().
    size =
        ::pwritev2(tap_.number(), pieces_.data(), static_cast<int>(frame.size()) + 1, kNowhere, 0);
  } while (size < 0 && errno == EINTR);
  if (size >= 0) return {IoStatus::kMoved, static_cast<size_t>(size) - sizeof(copy)};
  if (errno != EAGAIN) return {IoStatus::kFailed};
  if (!writable_.valid()) {
    const Result<FileSlot> watched = loop_.watch(id_, tap_.ref(), POLLOUT, kWritableOp);
    if (!watched) return {IoStatus::kFailed};
    writable_ = *watched;
  }
  return {IoStatus::kWouldBlock};
}

}  // namespace mayfly::virtio::net
