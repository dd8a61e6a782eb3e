// SPDX-License-Identifier: Apache-2.0
#include "image/source.h"

#include "image/stream.h"

#include <algorithm>
#include <cerrno>
#include <span>
#include <utility>
#include <vector>

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::image {
namespace {

constexpr int kMaxLinks = 8;

std::unexpected<Error> missing(const std::string& name) {
  return fail({Code::kNotFound, "IMAGE_PART"},
              "%.200s: there is no such file in the image's source", name.c_str());
}

// The parts of a path; `..` goes up, but not above the archive.
std::string normal(const std::string& path) {
  std::vector<std::string> names;
  for (size_t at = 0; at <= path.size();) {
    const size_t slash = std::min(path.find('/', at), path.size());
    const std::string name = path.substr(at, slash - at);
    at = slash + 1;
    if (name == ".." && !names.empty()) names.pop_back();
    if (!name.empty() && name != "." && name != "..") names.push_back(name);
  }
  std::string made;
  for (const std::string& name : names) made += made.empty() ? name : "/" + name;
  return made;
}

// A pipe must not make open() wait, and a link must not lead anywhere.
Result<Fd> open_regular(int directory, const std::string& name) {
  Fd file(
      ::openat(directory, name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW));
  if (!file.valid() && (errno == ENOENT || errno == ENOTDIR)) return missing(name);
  if (!file.valid() && errno == ELOOP) {
    return fail({Code::kDataLoss, "IMAGE_PART"}, "%.200s: is a link", name.c_str());
  }
  if (!file.valid()) return io_error(errno, "open", name);
  struct stat info = {};
  if (::fstat(file.number(), &info) != 0) return io_error(errno, "stat", name);
  if (!S_ISREG(info.st_mode)) {
    return fail({Code::kDataLoss, "IMAGE_PART"}, "%.200s: is not a regular file", name.c_str());
  }
  return file;
}

class DirectorySource : public Source {
 public:
  explicit DirectorySource(Fd directory) : directory_(std::move(directory)) {}

  Result<Part> open(const std::string& name) override {
    // The name may come from the source itself.
    file_ = TRY(open_regular(directory_.number(), normal(name)));
    return Part{file_.ref(), 0, TRY(file_size(file_.ref()))};
  }

 private:
  const Fd directory_;
  Fd file_;
};

class ArchiveSource : public Source {
 public:
  ArchiveSource(Spool spool, const Limits& limits) : spool_(std::move(spool)), limits_(limits) {}

  Result<> read(FdRef file) {
    PipeStream bytes(file);
    Decompressor plain(bytes, limits_.content_bytes);
    Archive archive(plain, Archive::Kind::kTar);
    TRY(archive.open());
    archive_entry* entry = nullptr;
    while (TRY(archive.check(archive_read_next_header(archive.get(), &entry)))) {
      TRY(take(archive, entry));
    }
    return {};
  }

  Result<Part> open(const std::string& name) override {
    std::string at = normal(name);
    for (int links = 0; links <= kMaxLinks; ++links) {
      const auto found = files_.find(at);
      if (found == files_.end()) return missing(name);
      if (found->second.link.empty()) {
        return Part{spool_.file(), found->second.offset, found->second.size};
      }
      at = found->second.link;
    }
    return fail({Code::kDataLoss, "IMAGE_PART"}, "%.200s: more than %d links", name.c_str(),
                kMaxLinks);
  }

 private:
  struct File {
    uint64_t offset = 0;
    uint64_t size = 0;
    // Another file's name, where this is a link to it.
    std::string link;
  };

  Result<> take(Archive& archive, archive_entry* entry) {
    const char* const name = archive_entry_pathname(entry);
    if (name == nullptr) return {};
    const std::string path = normal(name);
    if (files_.size() >= limits_.archive_files) {
      return fail({Code::kResourceExhausted, "IMAGE_LIMIT"},
                  "files in the archive: above the limit of %u", limits_.archive_files);
    }
    File file;
    if (const char* hard = archive_entry_hardlink(entry); hard != nullptr) {
      file.link = normal(hard);
    } else if (archive_entry_filetype(entry) == AE_IFLNK) {
      const char* const target = archive_entry_symlink(entry);
      file.link = normal(path + "/../" + (target == nullptr ? "" : target));
    } else if (archive_entry_filetype(entry) == AE_IFREG) {
      TRY(copy(archive, path, file));
    } else {
      return {};
    }
    files_.insert_or_assign(path, std::move(file));
    return {};
  }

  Result<> copy(Archive& archive, const std::string& path, File& file) {
    file.offset = spool_.size();
    for (Archive::Block block; TRY(archive.next_block(block));) {
      if (block.offset != file.size) {
        return fail({Code::kDataLoss, "IMAGE_PART"}, "%.200s: is a sparse file", path.c_str());
      }
      TRY(spool_.append(block.bytes));
      file.size += block.bytes.size();
    }
    return {};
  }

  Spool spool_;
  const Limits limits_;
  std::map<std::string, File> files_;
};

}  // namespace

Result<std::unique_ptr<Source>> open_source(const std::string& path,
                                            const std::string& spool_directory,
                                            const Limits& limits) {
  Fd file(path == "-" ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                      : ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!file.valid()) return io_error(errno, "open", path);
  struct stat info = {};
  if (::fstat(file.number(), &info) != 0) return io_error(errno, "stat", path);
  if (S_ISDIR(info.st_mode)) return std::make_unique<DirectorySource>(std::move(file));
  auto source = std::make_unique<ArchiveSource>(TRY(Spool::create(spool_directory)), limits);
  if (auto read = source->read(file.ref()); !read) {
    return std::unexpected(std::move(read).error().with_context(path));
  }
  return source;
}

Result<std::string> read_text(const Part& part, const std::string& name, const Limits& limits) {
  if (part.size > limits.json_bytes) {
    return fail({Code::kResourceExhausted, "IMAGE_LIMIT"},
                "%.200s: %llu bytes are above the limit of %llu", name.c_str(),
                static_cast<unsigned long long>(part.size),
                static_cast<unsigned long long>(limits.json_bytes));
  }
  std::string text(static_cast<size_t>(part.size), '\0');
  TRY(pread_exact(part.file, std::as_writable_bytes(std::span(text)), part.offset));
  return text;
}

}  // namespace mayfly::image
