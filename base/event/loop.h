// SPDX-License-Identifier: Apache-2.0
//
// The monitor's one event loop, over one restricted io_uring: created disabled, allowed only the operations below on
// registered files, then enabled. The kernel enforces that whatever takes this process over can do no more with the
// ring. Only this folder knows liburing.
//
// Threads: run() and every submission belong to the loop thread, under the device lock. lock() is that device lock:
// the loop holds it while it dispatches completions and not while it waits; vCPU threads take it to reach devices.
// A vCPU thread under the lock may not submit; it signals an eventfd that the loop watches.
//
// A completion is named by a token {client slot, generation, op}: after remove_client() a late completion is
// recognised by its generation and dropped.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include <sys/uio.h>

#include "base/error.h"
#include "base/fd.h"

namespace mayfly {

/// A descriptor registered with the ring.
struct FileSlot {
  uint16_t index = 0xffff;
  bool valid() const { return index != 0xffff; }
};

/// Who receives completions. Called on the loop thread under the device lock; must not block.
class LoopClient {
 public:
  /// `op` is the number given at submission. `result` is bytes or revents, or a negative errno.
  virtual void on_completion(uint32_t op, int32_t result) = 0;

 protected:
  ~LoopClient() = default;
};

/// A registered client; stale copies are harmless.
struct ClientId {
  uint16_t slot = 0xffff;
  uint16_t generation = 0;
};

class Loop {
 public:
  struct Limits {
    uint16_t ring_entries = 256;
    uint16_t files = 64;
    uint16_t clients = 64;
  };

  static Result<std::unique_ptr<Loop>> create(const Limits& limits);
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  std::mutex& lock() { return lock_; }

  /// `client` outlives its registration. kResourceExhausted past Limits::clients.
  Result<ClientId> add_client(LoopClient& client);
  /// Completions still to come for it are dropped; the memory they write to must stay until pending() says so.
  void remove_client(ClientId id);
  /// Operations of this client that the kernel still works on (polls not counted).
  uint32_t pending(ClientId id) const;

  /// Registers `fd`, which stays open until remove_file(). kResourceExhausted past Limits::files.
  Result<FileSlot> add_file(FdRef fd);
  /// Ends polls of it first.
  void remove_file(FileSlot slot);

  /// Completes with revents each time one of `events` (POLLIN, POLLOUT, ...) comes up, until cancel_poll() or
  /// remove_file(). Edge-triggered: the client reads until EAGAIN, except on eventfds, which need no read.
  Result<> poll(ClientId client, FileSlot file, uint32_t events, uint32_t op);
  /// Ends polls with this client and op.
  void cancel_poll(ClientId client, uint32_t op);

  /// The iovecs, and what they point to, stay until the completion.
  Result<> readv(ClientId client, FileSlot file, std::span<const iovec> buffers, uint64_t offset, uint32_t op);
  Result<> writev(ClientId client, FileSlot file, std::span<const iovec> buffers, uint64_t offset, uint32_t op);
  /// fdatasync.
  Result<> sync(ClientId client, FileSlot file, uint32_t op);

  /// Waits for and dispatches completions until stop(). Called once, on the loop thread, without the lock.
  Result<> run();
  /// Any thread: run() returns after the batch it is in.
  void stop();

  /// Blocks a thread that holds the lock, releasing it, until the loop has dispatched a batch. Never called on the
  /// loop thread.
  void wait_for_batch(std::unique_lock<std::mutex>& held);
  /// On the loop thread, under the lock: waits for and dispatches one batch (draining devices before a pause).
  Result<> run_batch();

 private:
  struct Ring;
  struct Client {
    LoopClient* client = nullptr;
    uint16_t generation = 0;
    uint32_t pending = 0;
  };
  Loop();

  std::mutex lock_;
  std::condition_variable batch_done_;
  std::unique_ptr<Ring> ring_;
  std::vector<Client> clients_;
  std::vector<int> files_;
  Fd stop_event_;
  bool stopping_ = false;
};

}  // namespace mayfly
