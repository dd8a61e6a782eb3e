// SPDX-License-Identifier: Apache-2.0
#include "daemon/console.h"

#include <cerrno>
#include <chrono>

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {
constexpr size_t kMaxChunkBytes = 64 * 1024;
}  // namespace

Result<std::unique_ptr<Console>> Console::create(Reactor& reactor, const std::string& path,
                                                 uint32_t kib) {
  Fd ring = TRY(Fd::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
  const uint64_t size = kConsoleRingHeaderSize + uint64_t{kib} * 1024;
  if (::ftruncate(ring.number(), static_cast<off_t>(size)) != 0) {
    return fail_errno({Code::kResourceExhausted, "CONSOLE_RING"}, errno, "make %s", path.c_str());
  }
  ConsoleRingReader reader = TRY(ConsoleRingReader::create(ring.ref()));
  Fd event = TRY(Fd::event());
  auto [input_read, input_write] = TRY(Fd::pipe());
  TRY(set_nonblocking(input_write.ref(), true));
  std::unique_ptr<Console> console(new Console(std::move(ring), std::move(reader), std::move(event),
                                               std::move(input_read), std::move(input_write)));
  console->watch_ =
      TRY(reactor.watch(console->event_.ref(), EPOLLIN, [raw = console.get()](uint32_t) {
        raw->on_output();
        return WatchVerdict::kKeep;
      }));
  return console;
}

void Console::on_output() {
  clear_event(event_.ref());
  // The lock orders this with a waiter between its look at the ring and its sleep.
  {
    std::lock_guard lock(mutex_);
  }
  changed_.notify_all();
}

ConsoleChunk Console::read(uint64_t offset) const {
  ConsoleChunk chunk;
  chunk.data.resize(kMaxChunkBytes);
  const ConsoleRead got = reader_.read(offset, std::as_writable_bytes(std::span(chunk.data)));
  chunk.data.resize(got.bytes);
  chunk.offset = got.next_offset - got.bytes;
  chunk.lost = got.lost;
  return chunk;
}

Result<bool> Console::wait_beyond(uint64_t offset, const Call& call) const {
  std::unique_lock lock(mutex_);
  TRY(call.wait(lock, changed_, "waiting for console output",
                [&] { return closed_ || reader_.written() > offset; }));
  return reader_.written() > offset;
}

Result<> Console::write_input(std::span<const std::byte> bytes, const Call& call) {
  while (!bytes.empty()) {
    std::unique_lock lock(mutex_);
    if (closed_)
      return fail({Code::kFailedPrecondition, "VM_STOPPED"}, "console: the VM has stopped");
    const ssize_t size = ::write(input_write_.number(), bytes.data(), bytes.size());
    if (size >= 0) {
      bytes = bytes.subspan(static_cast<size_t>(size));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN)
      return fail_errno({Code::kUnavailable, "CONSOLE_INPUT"}, errno, "console: write");
    // Full: the guest does not read. Looked at again soon, or when the VM ends.
    TRY(call.check("waiting for the guest to read its console"));
    changed_.wait_for(lock, std::chrono::milliseconds(20));
  }
  return {};
}

void Console::close() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    input_write_.reset();
  }
  changed_.notify_all();
}

}  // namespace mayfly::daemon
