// SPDX-License-Identifier: Apache-2.0
#include "daemon/memory_exports.h"

#include "base/log.h"
#include "base/memory/guest_memory.h"
#include "daemon/random.h"
#include "daemon/unix_socket_sys.h"
#include "snapshot/manifest.h"

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <span>
#include <utility>

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

constexpr size_t kHeaderBytes = 64;
constexpr char kMagic[] = "MAYFLYME";
constexpr uint16_t kVersion = 1;
constexpr uint16_t kLive = 1 << 0;
constexpr uint16_t kLayer = 1 << 1;
constexpr size_t kNameLetters = 16;

void put(std::string& out, size_t at, size_t bytes, uint64_t value) {
  for (size_t i = 0; i < bytes; ++i) out[at + i] = static_cast<char>(value >> 8 * i & 0xff);
}

Result<Fd> timer_of(std::chrono::seconds timeout) {
  Fd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  itimerspec when = {};
  when.it_value.tv_sec = timeout.count();
  if (!timer.valid() || ::timerfd_settime(timer.number(), 0, &when, nullptr) != 0) {
    return fail_errno({Code::kResourceExhausted, "TIMER"}, errno, "make a timer");
  }
  return timer;
}

}  // namespace

/// From when it is watched the reactor's thread alone uses it, but for `is_over` and the watches.
struct MemoryExports::Offer {
  std::string path;
  std::string header;
  std::vector<Fd> files;
  Fd listener;
  Fd timer;
  std::atomic<bool> is_over = false;
  // Last: destroyed first.
  Watch listener_watch;
  Watch timer_watch;
};

std::string encode_export_header(const ExportHeader& header) {
  std::string out(kHeaderBytes, '\0');
  out.replace(0, sizeof(kMagic) - 1, kMagic);
  put(out, 8, 2, kVersion);
  put(out, 10, 2, (header.is_live ? kLive : 0) | (header.has_layer ? kLayer : 0));
  put(out, 12, 4, snapshot::kPageBytes);
  put(out, 16, 8, header.memory_bytes);
  put(out, 24, 8, header.layer_page_count);
  put(out, 32, 8, kLowRamEnd.value);
  put(out, 40, 8, kHighRamStart.value);
  return out;
}

MemoryExports::MemoryExports(Reactor& reactor, std::string directory)
    : reactor_(reactor), directory_(std::move(directory)) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory_, error)) {
    if (entry.is_socket(error)) ::unlink(entry.path().c_str());
  }
}

MemoryExports::~MemoryExports() {
  for (const auto& offer : offers_) {
    offer->listener_watch.reset();
    offer->timer_watch.reset();
    end(*offer);
  }
  ::rmdir(directory_.c_str());
}

Result<std::string> MemoryExports::offer(const ExportHeader& header, std::vector<Fd> files,
                                         std::chrono::seconds timeout) {
  std::vector<std::unique_ptr<Offer>> over;  // Ends after the lock, which its watches never take.
  std::lock_guard lock(mutex_);
  for (auto& each : offers_) {
    if (each->is_over) over.push_back(std::move(each));
  }
  std::erase(offers_, nullptr);
  if (offers_.size() >= kMaxExports) {
    return fail({Code::kResourceExhausted, "TOO_MANY_EXPORTS"},
                "%zu exports wait to be fetched, which is the limit", offers_.size());
  }
  offers_.push_back(TRY(make(header, std::move(files), timeout)));
  return offers_.back()->path;
}

Result<std::unique_ptr<MemoryExports::Offer>> MemoryExports::make(const ExportHeader& header,
                                                                  std::vector<Fd> files,
                                                                  std::chrono::seconds timeout) {
  auto offer = std::make_unique<Offer>();
  offer->path = directory_ + "/" + random_token().substr(0, kNameLetters);
  TRY(check_socket_path("the export's socket, in the state directory", offer->path));
  if (::mkdir(directory_.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail_errno({Code::kFailedPrecondition, "STATE_DIR"}, errno, "make %s",
                      directory_.c_str());
  }
  offer->header = encode_export_header(header);
  offer->files = std::move(files);
  offer->timer = TRY(timer_of(timeout));
  offer->listener = TRY(listen_unix(offer->path, SOCK_SEQPACKET | SOCK_NONBLOCK, 4));
  const auto watch = [&]() -> Result<> {
    if (::chmod(offer->path.c_str(), 0600) != 0) {
      return fail_errno({Code::kFailedPrecondition, "SOCKET_MODE"}, errno, "chmod %s",
                        offer->path.c_str());
    }
    offer->timer_watch =
        TRY(reactor_.watch(offer->timer.ref(), EPOLLIN, [raw = offer.get()](uint32_t) {
          end(*raw);
          return WatchVerdict::kEnd;
        }));
    offer->listener_watch =
        TRY(reactor_.watch(offer->listener.ref(), EPOLLIN,
                           [raw = offer.get()](uint32_t) { return on_connect(*raw); }));
    return {};
  };
  if (Result<> watched = watch(); !watched) {
    offer->timer_watch.reset();
    end(*offer);
    return std::unexpected(std::move(watched).error());
  }
  return offer;
}

WatchVerdict MemoryExports::on_connect(Offer& offer) {
  if (offer.is_over) return WatchVerdict::kEnd;
  const Fd connection(
      ::accept4(offer.listener.number(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!connection.valid()) return WatchVerdict::kKeep;
  const auto uid = peer_uid(connection.ref());
  if (!uid || (*uid != ::geteuid() && *uid != 0)) {
    log(LogLevel::kWarning, "refused an export to user %u", uid ? *uid : 0u);
    return WatchVerdict::kKeep;
  }
  // Before its client can go on: who has been given the memory finds no socket any more.
  ::unlink(offer.path.c_str());
  std::vector<FdRef> files;
  for (const Fd& file : offer.files) files.push_back(file.ref());
  // One packet into an empty socket: it fits, or its reader has gone, and then the offer has too.
  if (auto sent = send_packet(connection.ref(), std::as_bytes(std::span(offer.header)), files);
      !sent) {
    log(LogLevel::kWarning, "an export was not taken: %s", sent.error().message().c_str());
  }
  end(offer);
  return WatchVerdict::kEnd;
}

void MemoryExports::end(Offer& offer) {
  if (offer.is_over) return;
  ::unlink(offer.path.c_str());
  // Who else waits is not served.
  while (Fd(::accept4(offer.listener.number(), nullptr, nullptr, SOCK_CLOEXEC)).valid()) {
  }
  // Memory that the VM has left goes with its last holder.
  offer.files.clear();
  offer.is_over = true;
}

}  // namespace mayfly::daemon
