// SPDX-License-Identifier: Apache-2.0
#include "image/store.h"

#include "image/copy_file_sys.h"
#include "image/spool.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <span>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::image {
namespace {

namespace fs = std::filesystem;

// No image's name begins with a dot.
constexpr char kDraftPrefix[] = ".draft-";
constexpr char kRootfs[] = "rootfs.ext4";
constexpr char kConfig[] = "config.json";
constexpr uint64_t kMaxConfigBytes = 4 << 20;
constexpr int kMaxDraftTries = 8;

Result<> sync_path(const std::string& path, int flags) {
  const Fd file(::open(path.c_str(), flags | O_CLOEXEC));
  if (!file.valid()) return io_error(errno, "open", path);
  if (::fsync(file.number()) != 0) return io_error(errno, "sync", path);
  return {};
}

Result<> write_file(const std::string& path, const std::string& text) {
  const Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.valid()) return io_error(errno, "create", path);
  if (auto written = write_all(file.ref(), std::as_bytes(std::span(text))); !written) {
    return io_error(written.error().os_errno(), "write", path);
  }
  return {};
}

const char* variable(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr && value[0] == '/' ? value : nullptr;
}

// Whether nobody holds it: then it is ours.
Fd lock_draft(const std::string& path) {
  Fd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (directory.valid() && ::flock(directory.number(), LOCK_EX | LOCK_NB) != 0) directory.reset();
  return directory;
}

}  // namespace

Result<std::string> default_store_directory() {
  if (const char* own = std::getenv("MAYFLY_IMAGE_DIR"); own != nullptr && own[0] != '\0') {
    if (own[0] == '/') return std::string(own);
    return fail({Code::kInvalidArgument, "IMAGE_DIR"},
                "$MAYFLY_IMAGE_DIR: \"%.200s\" is not an absolute path", own);
  }
  if (::geteuid() == 0) return "/var/lib/mayfly/images";
  if (const char* data = variable("XDG_DATA_HOME")) return std::string(data) + "/mayfly/images";
  if (const char* home = variable("HOME")) return std::string(home) + "/.local/share/mayfly/images";
  return fail({Code::kFailedPrecondition, "IMAGE_DIR"},
              "no directory for images: none of $MAYFLY_IMAGE_DIR, $XDG_DATA_HOME and $HOME is an "
              "absolute path");
}

bool is_image_name(const std::string& name) {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !name.empty() && name.size() <= 63 && plain(name[0]) &&
         std::ranges::all_of(name,
                             [&](char c) { return plain(c) || c == '-' || c == '_' || c == '.'; });
}

Draft::Draft(Draft&& other) noexcept
    : path_(std::exchange(other.path_, {})), lock_(std::move(other.lock_)) {}

Draft::~Draft() {
  std::error_code error;
  if (!path_.empty()) fs::remove_all(path_, error);
}

Result<Draft> Store::draft() const {
  TRY(make_directory());
  remove_leftovers();
  for (int tries = 0; tries < kMaxDraftTries; ++tries) {
    std::string path = directory_ + "/" + kDraftPrefix + "XXXXXX";
    if (::mkdtemp(path.data()) == nullptr)
      return io_error(errno, "make a directory in", directory_);
    // Somebody who looks for leftovers may be quicker than our lock: then it is gone.
    Fd lock = lock_draft(path);
    struct stat info = {};
    if (lock.valid() && ::stat(path.c_str(), &info) == 0) return Draft(path, std::move(lock));
  }
  return fail({Code::kUnavailable, "IMAGE_IO"}, "%s: others remove what we make",
              directory_.c_str());
}

Result<> Store::publish(Draft draft, const std::string& name, const ImageRecord& record) const {
  TRY(write_file(draft.path() + "/" + kConfig, write_record(record)));
  TRY(sync_path(draft.path() + "/" + kConfig, O_RDONLY));
  TRY(sync_path(draft.path() + "/" + kRootfs, O_RDONLY));
  TRY(sync_path(draft.path(), O_RDONLY | O_DIRECTORY));
  const std::string place = directory_ + "/" + name;
  if (::renameat2(AT_FDCWD, draft.path().c_str(), AT_FDCWD, place.c_str(), RENAME_NOREPLACE) == 0) {
    draft.path_.clear();
  } else if (errno != EEXIST || ::renameat2(AT_FDCWD, draft.path().c_str(), AT_FDCWD, place.c_str(),
                                            RENAME_EXCHANGE) != 0) {
    return io_error(errno, "rename to", place);
  }
  // After an exchange the draft's name is the old image's, which goes with it.
  return sync_path(directory_, O_RDONLY | O_DIRECTORY);
}

Result<ImageRecord> Store::get(const std::string& name) const {
  TRY(exists(name));
  const std::string path = directory_ + "/" + name + "/" + kConfig;
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  if (!file.valid()) return io_error(errno, "open", path);
  const uint64_t size = TRY(file_size(file.ref()));
  if (size > kMaxConfigBytes) {
    return fail({Code::kDataLoss, "IMAGE_JSON"}, "%s: %llu bytes are above the limit of %llu",
                path.c_str(), static_cast<unsigned long long>(size),
                static_cast<unsigned long long>(kMaxConfigBytes));
  }
  std::string text(size, '\0');
  TRY(pread_exact(file.ref(), std::as_writable_bytes(std::span(text)), 0));
  auto record = parse_record(text);
  if (!record) return std::unexpected(std::move(record).error().with_context(path));
  return record;
}

std::string Store::rootfs_path(const std::string& name) const {
  return directory_ + "/" + name + "/" + kRootfs;
}

Result<std::vector<std::string>> Store::list() const {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(directory_, error), end; !error && it != end;
       it.increment(error)) {
    std::string name = it->path().filename().string();
    if (is_image_name(name)) names.push_back(std::move(name));
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return io_error(error.value(), "list", directory_);
  }
  std::ranges::sort(names);
  return names;
}

Result<> Store::remove(const std::string& name) const {
  TRY(exists(name));
  // It is gone at once or not at all.
  const Draft bin = TRY(draft());
  const std::string place = directory_ + "/" + name;
  if (::rename(place.c_str(), (bin.path() + "/image").c_str()) != 0) {
    return io_error(errno, "remove", place);
  }
  return sync_path(directory_, O_RDONLY | O_DIRECTORY);
}

Result<Draft> Store::copy_rootfs(const std::string& name) const {
  TRY(exists(name));
  const Fd from = TRY(Fd::open(rootfs_path(name).c_str(), O_RDONLY | O_NOFOLLOW));
  Draft made = TRY(draft());
  const std::string path = made.path() + "/" + kRootfs;
  const Fd to(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!to.valid()) return io_error(errno, "create", path);
  TRY(copy_sparse(from.ref(), to.ref()));
  return made;
}

Result<> Store::make_directory() const {
  std::error_code error;
  fs::create_directories(directory_, error);
  if (error) return io_error(error.value(), "make", directory_);
  return {};
}

void Store::remove_leftovers() const {
  std::error_code error;
  for (fs::directory_iterator it(directory_, error), end; !error && it != end;
       it.increment(error)) {
    if (!it->path().filename().string().starts_with(kDraftPrefix)) continue;
    const Fd ours = lock_draft(it->path());
    std::error_code ignored;
    if (ours.valid()) fs::remove_all(it->path(), ignored);
  }
}

Result<> Store::exists(const std::string& name) const {
  if (!is_image_name(name)) {
    return fail({Code::kInvalidArgument, "IMAGE_NAME"},
                "image: \"%.100s\" is no name: [a-z0-9][a-z0-9-_.]{0,62}", name.c_str());
  }
  struct stat info = {};
  if (::lstat((directory_ + "/" + name).c_str(), &info) == 0) return {};
  return fail({Code::kNotFound, "IMAGE_NOT_FOUND"},
              "image: there is no \"%s\" in %s; `mayfly image import` makes one", name.c_str(),
              directory_.c_str());
}

}  // namespace mayfly::image
