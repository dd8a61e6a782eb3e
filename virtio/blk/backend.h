// SPDX-License-Identifier: Apache-2.0
//
// Where a disk's bytes are. The device checks requests and knows the guest; a backend knows host
// descriptors and neither guest nor queue.
//
// Threads: the loop thread under the device lock, except abandon() and idle(), which any thread may
// call under it.
#pragma once

#include "base/error.h"

#include <cstdint>
#include <span>

#include <sys/uio.h>

namespace mayfly::virtio::blk {

/// Operations under way at once; one number names each. As many as the device's queue has entries.
inline constexpr uint16_t kMaxRequests = 128;

enum class Access { kReadWrite, kReadOnly };

enum class Outcome { kDone, kFailed };

/// The device, as its backend sees it. Never called from inside a call to the backend.
class BackendClient {
 public:
  /// The kernel is done with `request` and its buffers.
  virtual void on_request_done(uint16_t request, Outcome outcome) = 0;
  /// As asked for by Backend::request_turn().
  virtual void on_turn() = 0;

 protected:
  ~BackendClient() = default;
};

class Backend {
 public:
  virtual ~Backend() = default;

  /// Once, before anything else. `client` outlives the backend's operations.
  virtual void attach(BackendClient& client) = 0;

  /// Fixed for the backend's life; a multiple of 512, not 0.
  virtual uint64_t size_bytes() const = 0;
  virtual Access access() const = 0;

  /// All of `buffers` from or to byte `offset`; or Outcome::kFailed. The caller has checked that it
  /// lies inside size_bytes(). `request` is below kMaxRequests and not in use; `buffers` belong to
  /// the backend, which may change them, until on_request_done(). An Error means that nothing was
  /// started.
  virtual Result<> read(uint16_t request, std::span<iovec> buffers, uint64_t offset) = 0;
  virtual Result<> write(uint16_t request, std::span<iovec> buffers, uint64_t offset) = 0;
  /// Makes every write that is done by now durable: data, and the metadata needed to find it again.
  /// Says nothing of writes still under way.
  virtual Result<> flush(uint16_t request) = 0;

  /// BackendClient::on_turn() is called once, soon: what has been started by now is the kernel's
  /// then, and what it could do at once has been reported. On the loop thread.
  virtual void request_turn() = 0;

  /// Starts nothing more for the operations under way: each ends, as kDone or kFailed, as soon as
  /// the kernel lets go.
  virtual void abandon() = 0;
  /// No operation is under way.
  virtual bool idle() const = 0;
};

}  // namespace mayfly::virtio::blk
