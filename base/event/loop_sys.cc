// SPDX-License-Identifier: Apache-2.0
#include "base/event/loop.h"

#include <liburing.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include <poll.h>

namespace mayfly {
namespace {

// user_data of an SQE. Transfers: op << 32 | generation << 16 | client slot. Polls have their own
// table, so that a slot used again never receives its predecessor's events: bit 63 set, then
// generation << 16 | file index. An op therefore has 31 bits.
constexpr uint64_t kPollToken = uint64_t{1} << 63;
constexpr uint64_t kIgnoredToken = ~uint64_t{0};
constexpr uint32_t kMaxOp = 0x7fff'ffff;

// Completions dispatched before the lock is given up; the rest is the next batch.
constexpr uint32_t kMaxBatch = 512;

constexpr uint8_t kAllowedOperations[] = {IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL,
                                          IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC};

uint64_t poll_token(uint16_t index, uint16_t generation) {
  return kPollToken | uint64_t{generation} << 16 | index;
}

}  // namespace

Loop::Loop() = default;

Loop::~Loop() {
  if (ring_) io_uring_queue_exit(ring_.get());
}

Result<std::unique_ptr<Loop>> Loop::create(const Limits& limits) {
  std::unique_ptr<Loop> loop(new Loop());
  loop->wake_event_ = TRY(Fd::event());
  auto ring = std::make_unique<io_uring>();
  std::memset(ring.get(), 0, sizeof(*ring));
  io_uring_params params;
  std::memset(&params, 0, sizeof(params));
  // Completions run only when the loop asks for them: no interruption of the loop thread, and fewer
  // wake-ups. Linux before 6.1 lacks the flags.
  params.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
  int status = io_uring_queue_init_params(limits.ring_entries, ring.get(), &params);
  if (status == -EINVAL) {
    std::memset(&params, 0, sizeof(params));
    params.flags = IORING_SETUP_R_DISABLED;
    status = io_uring_queue_init_params(limits.ring_entries, ring.get(), &params);
  }
  if (status < 0) {
    return fail_errno({Code::kResourceExhausted, "IO_URING"}, -status, "io_uring of %u entries",
                      limits.ring_entries);
  }
  loop->ring_ = std::move(ring);
  loop->clients_.resize(limits.clients);
  loop->files_.resize(size_t{limits.files} + 1);  // and the wake event
  TRY(loop->restrict_and_enable(limits));
  const FileSlot wake_slot = TRY(loop->add_file(loop->wake_event_.ref()));
  TRY(loop->poll(ClientId{}, wake_slot, POLLIN, 0));
  return loop;
}

Result<> Loop::restrict_and_enable(const Limits& limits) {
  int status = io_uring_register_files_sparse(ring_.get(), static_cast<unsigned>(files_.size()));
  if (status < 0) {
    return fail_errno({Code::kResourceExhausted, "IO_URING"}, -status,
                      "io_uring: register a table of %u files", limits.files);
  }
  std::vector<io_uring_restriction> rules;
  for (const uint8_t op : kAllowedOperations) {
    rules.push_back({.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = op, .resv = 0, .resv2 = {}});
  }
  for (const uint16_t kind :
       {IORING_RESTRICTION_SQE_FLAGS_ALLOWED, IORING_RESTRICTION_SQE_FLAGS_REQUIRED}) {
    rules.push_back({.opcode = kind, .sqe_flags = IOSQE_FIXED_FILE, .resv = 0, .resv2 = {}});
  }
  rules.push_back({.opcode = IORING_RESTRICTION_REGISTER_OP,
                   .register_op = IORING_REGISTER_FILES_UPDATE,
                   .resv = 0,
                   .resv2 = {}});
  status = io_uring_register_restrictions(ring_.get(), rules.data(),
                                          static_cast<unsigned>(rules.size()));
  if (status == 0) status = io_uring_enable_rings(ring_.get());
  if (status < 0) {
    return fail_errno({Code::kFailedPrecondition, "IO_URING_RESTRICT"}, -status,
                      "io_uring: restrict and enable the ring");
  }
  return {};
}

LoopClient* Loop::find(ClientId id) const {
  if (id.slot >= clients_.size() || clients_[id.slot].generation != id.generation) return nullptr;
  return clients_[id.slot].client;
}

Result<ClientId> Loop::add_client(LoopClient& client) {
  for (size_t slot = 0; slot < clients_.size(); ++slot) {
    Client& entry = clients_[slot];
    if (entry.client != nullptr || entry.pending != 0) continue;
    entry.client = &client;
    return ClientId{static_cast<uint16_t>(slot), entry.generation};
  }
  return fail({Code::kResourceExhausted, "LOOP_CLIENTS"}, "event loop: all %zu clients are in use",
              clients_.size());
}

void Loop::remove_client(ClientId id) {
  if (find(id) == nullptr) return;
  clients_[id.slot].client = nullptr;
  clients_[id.slot].wants_turn = clients_[id.slot].takes_turn = false;
  ++clients_[id.slot].generation;
}

void Loop::request_turn(ClientId id) {
  CHECK(find(id) != nullptr);
  clients_[id.slot].wants_turn = true;
  turns_wanted_ = true;
}

uint32_t Loop::pending(ClientId id) const {
  return id.slot < clients_.size() ? clients_[id.slot].pending : 0;
}

Result<FileSlot> Loop::add_file(FdRef fd) {
  for (size_t index = 0; index < files_.size(); ++index) {
    if (files_[index].used) continue;
    int number = fd.number();
    const int status =
        io_uring_register_files_update(ring_.get(), static_cast<unsigned>(index), &number, 1);
    if (status < 0) {
      return fail_errno({Code::kInternal, "LOOP_FILE"}, -status,
                        "event loop: register descriptor %d", fd.number());
    }
    files_[index].used = true;
    return FileSlot{static_cast<uint16_t>(index)};
  }
  return fail({Code::kResourceExhausted, "LOOP_FILES"}, "event loop: all %zu files are in use",
              files_.size());
}

void Loop::remove_file(FileSlot slot) {
  CHECK(slot.index < files_.size() && files_[slot.index].used);
  File& file = files_[slot.index];
  if (file.polled) {
    // A full ring is submitted first, which empties it.
    io_uring_sqe* sqe = MUST(next_sqe(slot));
    // Not POLL_REMOVE: it refuses (EALREADY) a poll that has just been woken, which then would keep
    // the file open for ever.
    io_uring_prep_cancel64(sqe, poll_token(slot.index, file.poll_generation), 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    sqe->user_data = kIgnoredToken;
    io_uring_submit(ring_.get());
  }
  file.used = false;
  file.polled = false;
  ++file.poll_generation;
  int none = -1;
  io_uring_register_files_update(ring_.get(), slot.index, &none, 1);
}

Result<io_uring_sqe*> Loop::next_sqe(FileSlot file) {
  CHECK(file.index < files_.size() && files_[file.index].used);
  io_uring_sqe* sqe = io_uring_get_sqe(ring_.get());
  if (sqe == nullptr) {
    io_uring_submit(ring_.get());
    sqe = io_uring_get_sqe(ring_.get());
  }
  if (sqe == nullptr) {
    return fail({Code::kResourceExhausted, "LOOP_RING"}, "event loop: the ring is full");
  }
  return sqe;
}

void Loop::submit_transfer(io_uring_sqe* sqe, ClientId client, uint32_t op) {
  CHECK(find(client) != nullptr && op <= kMaxOp);
  sqe->flags |= IOSQE_FIXED_FILE;
  sqe->user_data = uint64_t{op} << 32 | uint64_t{client.generation} << 16 | client.slot;
  ++clients_[client.slot].pending;
}

Result<> Loop::poll(ClientId client, FileSlot file, uint32_t events, uint32_t op) {
  CHECK(file.index < files_.size() && !files_[file.index].polled);
  File& entry = files_[file.index];
  entry.polled = true;
  entry.poll_client = client;
  entry.poll_events = events;
  entry.poll_op = op;
  return submit_poll(file);
}

Result<FileSlot> Loop::watch(ClientId client, FdRef fd, uint32_t events, uint32_t op) {
  const FileSlot file = TRY(add_file(fd));
  Result<> polled = poll(client, file, events, op);
  if (polled) return file;
  remove_file(file);
  return std::unexpected(std::move(polled).error());
}

Result<> Loop::submit_poll(FileSlot file) {
  io_uring_sqe* sqe = TRY(next_sqe(file));
  const File& entry = files_[file.index];
  io_uring_prep_poll_multishot(sqe, file.index, entry.poll_events);
  sqe->flags |= IOSQE_FIXED_FILE;
  sqe->user_data = poll_token(file.index, entry.poll_generation);
  return {};
}

Result<> Loop::readv(ClientId client, FileSlot file, std::span<const iovec> buffers,
                     uint64_t offset, uint32_t op) {
  io_uring_sqe* sqe = TRY(next_sqe(file));
  io_uring_prep_readv(sqe, file.index, buffers.data(), static_cast<unsigned>(buffers.size()),
                      offset);
  submit_transfer(sqe, client, op);
  return {};
}

Result<> Loop::writev(ClientId client, FileSlot file, std::span<const iovec> buffers,
                      uint64_t offset, uint32_t op) {
  io_uring_sqe* sqe = TRY(next_sqe(file));
  io_uring_prep_writev(sqe, file.index, buffers.data(), static_cast<unsigned>(buffers.size()),
                       offset);
  submit_transfer(sqe, client, op);
  return {};
}

Result<> Loop::sync(ClientId client, FileSlot file, uint32_t op) {
  io_uring_sqe* sqe = TRY(next_sqe(file));
  io_uring_prep_fsync(sqe, file.index, IORING_FSYNC_DATASYNC);
  submit_transfer(sqe, client, op);
  return {};
}

Result<> Loop::check_wait(int status) const {
  if (status >= 0 || status == -EINTR || status == -EAGAIN || status == -EBUSY ||
      status == -ETIME) {
    return {};
  }
  return fail_errno({Code::kInternal, "IO_URING"}, -status, "io_uring: wait for completions");
}

// Turns that are asked for while a batch is dispatched, or taken, are the next batch's.
void Loop::begin_turns() {
  turns_wanted_ = false;
  for (Client& client : clients_) client.takes_turn = std::exchange(client.wants_turn, false);
}

void Loop::take_turns() {
  for (Client& client : clients_) {
    if (std::exchange(client.takes_turn, false)) client.client->on_turn();
  }
}

void Loop::dispatch() {
  const bool turns = turns_wanted_;
  if (turns) begin_turns();
  // Bounded, so that a guest which never stops kicking cannot keep requests from being served.
  io_uring_cqe* cqe = nullptr;
  for (uint32_t i = 0; i < kMaxBatch && io_uring_peek_cqe(ring_.get(), &cqe) == 0; ++i) {
    const uint64_t token = cqe->user_data;
    const int32_t result = cqe->res;
    const bool more = (cqe->flags & IORING_CQE_F_MORE) != 0;
    io_uring_cqe_seen(ring_.get(), cqe);
    if (token == kIgnoredToken) continue;
    if ((token & kPollToken) != 0) {
      dispatch_poll(token, result, more);
    } else {
      dispatch_transfer(token, result);
    }
  }
  if (turns) take_turns();
  ++batches_;
  batch_done_.notify_all();
}

void Loop::dispatch_poll(uint64_t token, int32_t result, bool more) {
  const FileSlot slot{static_cast<uint16_t>(token)};
  const File& file = files_[slot.index];
  const auto generation = static_cast<uint16_t>(token >> 16);
  if (!file.polled || file.poll_generation != generation) return;
  if (LoopClient* client = find(file.poll_client)) client->on_completion(file.poll_op, result);
  // The kernel ends a multishot poll when its completion queue was full. The handler may have
  // removed the file, or given its slot to another.
  if (!more && result >= 0 && file.polled && file.poll_generation == generation) {
    // As in remove_file().
    MUST(submit_poll(slot));
  }
}

void Loop::dispatch_transfer(uint64_t token, int32_t result) {
  const ClientId id{static_cast<uint16_t>(token), static_cast<uint16_t>(token >> 16)};
  CHECK(id.slot < clients_.size() && clients_[id.slot].pending > 0);
  --clients_[id.slot].pending;
  if (LoopClient* client = find(id)) {
    client->on_completion(static_cast<uint32_t>(token >> 32), result);
  }
}

Result<> Loop::run_once() {
  TRY(check_wait(turns_wanted_ ? io_uring_submit_and_get_events(ring_.get())
                               : io_uring_submit_and_wait(ring_.get(), 1)));
  const std::lock_guard<std::mutex> held(lock_);
  dispatch();
  return {};
}

Result<> Loop::run_once_for(uint64_t timeout_ns) {
  if (turns_wanted_) return run_once();
  constexpr uint64_t kNsPerSecond = 1'000'000'000;
  __kernel_timespec timeout = {
      .tv_sec = static_cast<int64_t>(timeout_ns / kNsPerSecond),
      .tv_nsec = static_cast<long long>(timeout_ns % kNsPerSecond),
  };
  io_uring_cqe* first = nullptr;
  TRY(check_wait(io_uring_submit_and_wait_timeout(ring_.get(), &first, 1, &timeout, nullptr)));
  const std::lock_guard<std::mutex> held(lock_);
  dispatch();
  return {};
}

void Loop::wake() { signal_event(wake_event_.ref()); }

void Loop::wait_for_batch(std::unique_lock<std::mutex>& held) {
  const uint64_t seen = batches_;
  batch_done_.wait(held, [&] { return batches_ != seen; });
}

}  // namespace mayfly
