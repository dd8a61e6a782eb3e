// SPDX-License-Identifier: Apache-2.0
#include "cli/memory_fetch_sys.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace mayfly::cli {
namespace {

constexpr size_t kHeaderBytes = 64;
constexpr size_t kMaxFiles = 3;
constexpr uint64_t kPageBytes = 4096;
constexpr size_t kCopyBytes = 1 << 20;

Result<Fd> connect_to(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return fail({Code::kInvalidArgument, "SOCKET_PATH"}, "%s: too long for a socket", path.c_str());
  }
  std::ranges::copy(path, address.sun_path);
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  // SAFETY: every address family is passed as a sockaddr, with its own size beside it.
  if (!socket.valid() || ::connect(socket.number(), reinterpret_cast<const sockaddr*>(&address),
                                   sizeof(address)) != 0) {
    return fail_errno({Code::kUnavailable, "EXPORT"}, errno, "connect to %s", path.c_str());
  }
  return socket;
}

Result<std::vector<Fd>> receive_files(FdRef socket) {
  std::array<char, kHeaderBytes> bytes;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFiles * sizeof(int))> ancillary = {};
  iovec part = {bytes.data(), bytes.size()};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = ancillary.data();
  message.msg_controllen = ancillary.size();
  // SAFETY: both buffers outlive the call and are as large as the header says.
  const ssize_t size = ::recvmsg(socket.number(), &message, MSG_CMSG_CLOEXEC);
  std::vector<Fd> files;
  const cmsghdr* header = size > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  for (size_t i = 0; header != nullptr && i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
    int fd = -1;
    // SAFETY: the kernel wrote that many descriptors behind the header.
    std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(fd));
    files.emplace_back(fd);
  }
  if (size == kHeaderBytes && (files.size() == 1 || files.size() == kMaxFiles)) return files;
  return fail({Code::kUnavailable, "EXPORT"}, "the export was not handed over");
}

Result<> copy(FdRef from, FdRef to, uint64_t begin, uint64_t end) {
  std::vector<std::byte> buffer(std::min<uint64_t>(kCopyBytes, end - begin));
  for (uint64_t at = begin; at < end;) {
    const auto part = std::span(buffer).first(std::min<uint64_t>(buffer.size(), end - at));
    TRY(pread_exact(from, part, at));
    for (size_t done = 0; done < part.size();) {
      const ssize_t n = ::pwrite(to.number(), part.data() + done, part.size() - done,
                                 static_cast<off_t>(at + done));
      if (n < 0 && errno != EINTR) {
        return fail_errno({Code::kResourceExhausted, "WRITE"}, errno, "write the memory");
      }
      if (n > 0) done += static_cast<size_t>(n);
    }
    at += part.size();
  }
  return {};
}

Result<> copy_data(FdRef from, FdRef to, uint64_t size) {
  for (off_t at = 0; static_cast<uint64_t>(at) < size;) {
    const off_t data = ::lseek(from.number(), at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {};
    const off_t hole = data < 0 ? data : ::lseek(from.number(), data, SEEK_HOLE);
    if (hole < 0) return fail_errno({Code::kUnavailable, "READ"}, errno, "read the memory");
    const uint64_t end = std::min(static_cast<uint64_t>(hole), size);
    if (static_cast<uint64_t>(data) < end) TRY(copy(from, to, static_cast<uint64_t>(data), end));
    at = std::max(hole, at + 1);
  }
  return {};
}

Result<> copy_layer(const FetchedMemory& memory, FdRef to, uint64_t size) {
  const uint64_t pages = size / kPageBytes;
  std::vector<std::byte> bits((pages + 7) / 8);
  TRY(pread_exact(memory.layer_pages.ref(), bits, 0));
  const auto has = [&](uint64_t page) {
    return (bits[page / 8] >> (page % 8) & std::byte{1}) != std::byte{};
  };
  for (uint64_t page = 0; page < pages; ++page) {
    if (!has(page)) continue;
    const uint64_t begin = page;
    while (page < pages && has(page)) ++page;
    TRY(copy(memory.layer.ref(), to, begin * kPageBytes, page * kPageBytes));
  }
  return {};
}

}  // namespace

Result<FetchedMemory> fetch_memory(const std::string& socket_path) {
  const Fd socket = TRY(connect_to(socket_path));
  std::vector<Fd> files = TRY(receive_files(socket.ref()));
  FetchedMemory memory{.memory = std::move(files[0]), .layer = {}, .layer_pages = {}};
  if (files.size() == kMaxFiles) {
    memory.layer = std::move(files[1]);
    memory.layer_pages = std::move(files[2]);
  }
  return memory;
}

Result<> write_memory(const FetchedMemory& memory, uint64_t size_bytes, const std::string& path) {
  const Fd to = TRY(Fd::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600));
  if (::ftruncate(to.number(), static_cast<off_t>(size_bytes)) != 0) {
    return fail_errno({Code::kResourceExhausted, "WRITE"}, errno, "make %s", path.c_str());
  }
  TRY(copy_data(memory.memory.ref(), to.ref(), size_bytes));
  return memory.layer.valid() ? copy_layer(memory, to.ref(), size_bytes) : Result<>();
}

}  // namespace mayfly::cli
