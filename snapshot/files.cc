// SPDX-License-Identifier: Apache-2.0
#include "snapshot/files.h"

#include <cerrno>
#include <memory>

#include <dirent.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::snapshot {
namespace {

// A pipe must not make open() wait, and a link must not lead anywhere.
constexpr int kReadFlags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
constexpr size_t kMaxStrayFiles = 64;

Code code_for(int os_errno) {
  switch (os_errno) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return Code::kResourceExhausted;
    case EACCES:
    case EPERM:
    case EROFS:
      return Code::kPermissionDenied;
    default:
      return Code::kUnavailable;
  }
}

const char* reason_for(int os_errno) {
  return code_for(os_errno) == Code::kResourceExhausted ? "NO_SPACE" : "SNAPSHOT_IO";
}

std::unexpected<Error> io_error(int os_errno, const char* what, const char* name) {
  return fail_errno({code_for(os_errno), reason_for(os_errno)}, os_errno, "%s %s", what, name);
}

struct OpenPart {
  Fd file;
  uint64_t size_bytes;
};

Result<OpenPart> open_regular(FdRef directory, const char* name) {
  Fd file(::openat(directory.number(), name, kReadFlags));
  if (!file.valid() && errno == ENOENT) {
    return fail({Code::kDataLoss, "PART_MISSING"}, "%s: there is no such file", name);
  }
  // ENXIO: a socket.
  if (!file.valid() && errno != ELOOP && errno != ENXIO) return io_error(errno, "open", name);
  struct stat info = {};
  if (file.valid() && ::fstat(file.number(), &info) != 0) return io_error(errno, "stat", name);
  if (!file.valid() || !S_ISREG(info.st_mode)) {
    return fail({Code::kDataLoss, "PART_UNEXPECTED"}, "%s: is not a regular file", name);
  }
  return OpenPart{std::move(file), static_cast<uint64_t>(info.st_size)};
}

}  // namespace

Result<Fd> open_directory_at(FdRef directory, const char* name) {
  Fd opened(::openat(directory.number(), name, kReadFlags | O_DIRECTORY));
  if (opened.valid()) return opened;
  if (errno == ENOENT) {
    return fail({Code::kNotFound, "SNAPSHOT_NOT_FOUND"}, "%s: there is no such snapshot", name);
  }
  if (errno == ENOTDIR || errno == ELOOP) {
    return fail({Code::kDataLoss, "NOT_A_SNAPSHOT"}, "%s: is not a directory", name);
  }
  return io_error(errno, "open", name);
}

Result<Fd> open_part_at(FdRef directory, const char* name, uint64_t size_bytes) {
  OpenPart part = TRY(open_regular(directory, name));
  if (part.size_bytes != size_bytes) {
    return fail({Code::kDataLoss, "PART_SIZE"}, "%s: %llu bytes, where %llu belong", name,
                static_cast<unsigned long long>(part.size_bytes),
                static_cast<unsigned long long>(size_bytes));
  }
  return std::move(part.file);
}

Result<std::vector<std::byte>> read_part_at(FdRef directory, const char* name, uint64_t max_bytes) {
  const OpenPart part = TRY(open_regular(directory, name));
  if (part.size_bytes > max_bytes) {
    return fail({Code::kDataLoss, "PART_SIZE"}, "%s: %llu bytes is above the limit of %llu", name,
                static_cast<unsigned long long>(part.size_bytes),
                static_cast<unsigned long long>(max_bytes));
  }
  std::vector<std::byte> bytes(part.size_bytes);
  if (Result<> read = pread_exact(part.file.ref(), bytes, 0); !read) {
    return fail({Code::kDataLoss, "PART_SIZE"}, "%s: %s", name, read.error().message().c_str());
  }
  return bytes;
}

Result<std::vector<std::string>> list_names(FdRef directory, size_t max) {
  // fdopendir() takes the descriptor, and a duplicate would share its position.
  Fd own(::openat(directory.number(), ".", kReadFlags | O_DIRECTORY));
  if (!own.valid()) return io_error(errno, "open", "directory");
  const auto close = [](DIR* stream) { ::closedir(stream); };
  const std::unique_ptr<DIR, decltype(close)> stream(::fdopendir(own.number()));
  if (stream == nullptr) return io_error(errno, "list", "directory");
  own.release();
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(stream.get())) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (names.size() == max) {
      return fail({Code::kDataLoss, "PART_UNEXPECTED"},
                  "the directory has more than the limit of %zu files", max);
    }
    names.push_back(name);
  }
  if (errno != 0) return io_error(errno, "list", "directory");
  return names;
}

Result<Fd> create_file_at(FdRef directory, const char* name) {
  Fd file(
      ::openat(directory.number(), name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.valid()) return io_error(errno, "create", name);
  return file;
}

Result<std::string> temporary_name(const std::string& name) {
  uint64_t number = 0;
  if (::getrandom(&number, sizeof(number), 0) != sizeof(number)) {
    return fail_errno({Code::kUnavailable, "SNAPSHOT_IO"}, errno, "getrandom");
  }
  return name + kTemporaryMark + format("%016llx", static_cast<unsigned long long>(number));
}

Result<> write_at(FdRef file, std::span<const std::byte> bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t n =
        ::pwrite(file.number(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(errno, "write", "a part");
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return {};
}

Result<> sync_file(FdRef file, const char* name) {
  if (::fsync(file.number()) != 0) return io_error(errno, "sync", name);
  return {};
}

Result<> remove_directory_at(FdRef parent, const char* name) {
  const Fd directory = TRY(open_directory_at(parent, name));
  for (const std::string& file : TRY(list_names(directory.ref(), kMaxStrayFiles))) {
    if (::unlinkat(directory.number(), file.c_str(), 0) != 0) {
      return io_error(errno, "remove", file.c_str());
    }
  }
  if (::unlinkat(parent.number(), name, AT_REMOVEDIR) != 0) return io_error(errno, "remove", name);
  return {};
}

}  // namespace mayfly::snapshot
