// SPDX-License-Identifier: Apache-2.0
//
// The monitor's one event loop, over one restricted io_uring: created disabled, allowed only the
// operations below on registered files, then enabled. The kernel then enforces that whatever takes
// this process over can do no more with the ring. Only this folder knows liburing.
//
// Threads: run_once() and every submission belong to the loop thread, submissions under the device
// lock. lock() is that device lock: the loop holds it while it dispatches completions and not while
// it waits; vCPU threads take it to reach devices. A vCPU thread may not submit; it signals an
// eventfd that the loop watches.
//
// A completion is named by a token {slot, generation, op}: one that arrives after its client or its
// poll is gone is recognised by the generation and dropped.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include <sys/uio.h>

struct io_uring;
struct io_uring_sqe;
struct io_uring_cqe;

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
  /// As asked for by Loop::request_turn().
  virtual void on_turn() {}

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
  /// Completions still to come for it are dropped; the memory they touch stays until pending() is
  /// 0.
  void remove_client(ClientId id);
  /// Reads, writes and syncs of this client that the kernel still works on (polls do not count).
  uint32_t pending(ClientId id) const;

  /// LoopClient::on_turn() is called once, after all that was submitted by now has been given to
  /// the kernel, and what it completed at once has been dispatched. Until then the loop does not
  /// wait.
  /// On the loop thread.
  void request_turn(ClientId id);

  /// Registers `fd`, which stays open until remove_file(). kResourceExhausted past Limits::files.
  Result<FileSlot> add_file(FdRef fd);
  /// Ends its poll first.
  void remove_file(FileSlot slot);

  /// Completes with revents each time one of `events` (POLLIN, POLLOUT, ...) comes up, until
  /// remove_file(). One poll a file. Edge-triggered: the client reads until EAGAIN, except from
  /// eventfds, which need no read.
  Result<> poll(ClientId client, FileSlot file, uint32_t events, uint32_t op);

  /// add_file() and poll() in one, of which nothing is left after an Error.
  Result<FileSlot> watch(ClientId client, FdRef fd, uint32_t events, uint32_t op);

  /// The iovecs, and what they point to, stay until the completion.
  Result<> readv(ClientId client, FileSlot file, std::span<const iovec> buffers, uint64_t offset,
                 uint32_t op);
  Result<> writev(ClientId client, FileSlot file, std::span<const iovec> buffers, uint64_t offset,
                  uint32_t op);
  /// fdatasync.
  Result<> sync(ClientId client, FileSlot file, uint32_t op);

  /// Submits, waits for and dispatches one batch. On the loop thread, without the lock.
  Result<> run_once();
  /// The same, but waits for at most `timeout_ns`; the batch may be empty.
  Result<> run_once_for(uint64_t timeout_ns);
  /// Any thread: the run_once() under way, or the next one, returns.
  void wake();

  /// Blocks a thread that holds the lock, releasing it, until the loop has dispatched a batch.
  /// Never called on the loop thread.
  void wait_for_batch(std::unique_lock<std::mutex>& held);

 private:
  struct Client {
    LoopClient* client = nullptr;
    uint16_t generation = 0;
    uint32_t pending = 0;
    bool wants_turn = false;  // at the end of the next dispatch()
    bool takes_turn = false;  // at the end of this one
  };
  struct File {
    bool used = false;
    bool polled = false;
    uint16_t poll_generation = 0;
    uint32_t poll_events = 0;
    uint32_t poll_op = 0;
    ClientId poll_client;
  };

  Loop();
  Result<> restrict_and_enable(const Limits& limits);
  Result<io_uring_sqe*> next_sqe(FileSlot file);
  void submit_transfer(io_uring_sqe* sqe, ClientId client, uint32_t op);
  Result<> submit_poll(FileSlot file);
  Result<> check_wait(int status) const;
  void dispatch();
  void begin_turns();
  void take_turns();
  void dispatch_poll(uint64_t token, int32_t result, bool more);
  void dispatch_transfer(uint64_t token, int32_t result);
  LoopClient* find(ClientId id) const;

  std::mutex lock_;
  std::condition_variable batch_done_;
  uint64_t batches_ = 0;  // under lock_
  std::unique_ptr<io_uring> ring_;
  std::vector<Client> clients_;
  bool turns_wanted_ = false;  // by some client; the loop thread's own
  std::vector<File> files_;
  Fd wake_event_;
};

}  // namespace mayfly
