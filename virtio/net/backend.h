// SPDX-License-Identifier: Apache-2.0
//
// The host's side of a network device: whole Ethernet frames, in and out. It knows neither guest
// nor queue; nothing here blocks.
//
// Threads: the loop thread under the device lock.
#pragma once

#include "base/error.h"
#include "virtio/net/wire.h"

#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/uio.h>

namespace mayfly::virtio::net {

/// The longest frame there is: 64 KiB of IP, with an Ethernet header and a VLAN tag.
inline constexpr size_t kMaxFrameBytes = 65535 + 18;
inline constexpr size_t kMinFrameBytes = 14;

/// Most buffers of one frame.
inline constexpr size_t kMaxPieces = 256;

enum class IoStatus {
  kMoved,       ///< a frame of `bytes`
  kWouldBlock,  ///< none now: the client is told when to try again
  kFailed,      ///< this frame is lost
};

struct IoResult {
  IoStatus status;
  size_t bytes = 0;
};

/// What one side leaves to the other: sums not made yet, and segments larger than the MTU.
struct Offloads {
  bool csum = false;
  bool tso4 = false;
  bool tso6 = false;
  bool ecn = false;
  bool uso = false;

  friend bool operator==(const Offloads&, const Offloads&) = default;
};

/// The device, as its backend sees it. Never called from inside a call to the backend.
class BackendClient {
 public:
  virtual void on_frames_waiting() = 0;
  /// After a send() that would have blocked.
  virtual void on_room_to_send() = 0;

 protected:
  ~BackendClient() = default;
};

class Backend {
 public:
  virtual ~Backend() = default;

  /// Once, before anything else. `client` outlives the backend.
  virtual void attach(BackendClient& client) = 0;

  /// What it takes from the guest, and could be told to give.
  virtual Offloads offloads() const = 0;
  /// What it may leave to the guest from now on; some of offloads(). Frames that were waiting may
  /// still have more.
  virtual Result<> let_guest_do(const Offloads& offloads) = 0;

  /// Nothing comes or goes any more, for good. It turns so in a call to it, or before a call of
  /// its client.
  virtual bool is_lost() const { return false; }

  /// The next frame, cut where `frame` (at most kMaxPieces) is too small: `bytes` then says how
  /// long it was, or at least that it was longer.
  virtual IoResult receive(Header& header, std::span<const iovec> frame) = 0;
  /// `header` is the guest's: hostile, but for num_buffers, which is not looked at. At most
  /// kMaxPieces.
  virtual IoResult send(const Header& header, std::span<const iovec> frame) = 0;
};

}  // namespace mayfly::virtio::net
