// SPDX-License-Identifier: Apache-2.0
#include "image/testing/image_files.h"

#include "base/error.h"
#include "image/sha256.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <span>

#include <archive.h>
#include <archive_entry.h>
#include <sys/wait.h>

namespace mayfly::image {
namespace {

namespace fs = std::filesystem;

void set_type(archive_entry* entry, const Entry& made) {
  switch (made.type) {
    case 'd':
      archive_entry_set_filetype(entry, AE_IFDIR);
      break;
    case 'l':
      archive_entry_set_filetype(entry, AE_IFLNK);
      archive_entry_set_symlink(entry, made.text.c_str());
      break;
    case 'h':
      archive_entry_set_filetype(entry, AE_IFREG);
      archive_entry_set_hardlink(entry, made.text.c_str());
      break;
    case 'c':
    case 'b':
      archive_entry_set_filetype(entry, made.type == 'c' ? AE_IFCHR : AE_IFBLK);
      archive_entry_set_rdevmajor(entry, made.major);
      archive_entry_set_rdevminor(entry, made.minor);
      break;
    case 'p':
      archive_entry_set_filetype(entry, AE_IFIFO);
      break;
    default:
      archive_entry_set_filetype(entry, AE_IFREG);
  }
}

void write_entry(struct archive* archive, const Entry& made) {
  archive_entry* const entry = archive_entry_new();
  archive_entry_set_pathname(entry, made.path.c_str());
  set_type(entry, made);
  archive_entry_set_perm(entry, static_cast<mode_t>(made.mode));
  archive_entry_set_uid(entry, made.uid);
  archive_entry_set_gid(entry, made.gid);
  archive_entry_set_mtime(entry, made.mtime_s, 5'000'000);
  for (const auto& [name, value] : made.xattrs) {
    archive_entry_xattr_add_entry(entry, name.c_str(), value.data(), value.size());
  }
  std::string bytes = made.type == 'f' ? made.text : "";
  if (made.sparse_size != 0) bytes.insert(0, made.sparse_size - bytes.size(), '\0');
  archive_entry_set_size(entry, static_cast<la_int64_t>(bytes.size()));
  if (made.sparse_size != 0) {
    archive_entry_sparse_add_entry(entry,
                                   static_cast<la_int64_t>(made.sparse_size - made.text.size()),
                                   static_cast<la_int64_t>(made.text.size()));
  }
  CHECK(archive_write_header(archive, entry) >= ARCHIVE_WARN);
  if (!bytes.empty()) CHECK(archive_write_data(archive, bytes.data(), bytes.size()) >= 0);
  archive_entry_free(entry);
}

}  // namespace

std::string make_tar(const std::vector<Entry>& entries, Packing packing) {
  size_t size = 1 << 20;
  for (const Entry& entry : entries) {
    size += entry.text.size() + entry.sparse_size + entry.path.size() + 8192;
  }
  std::string bytes(size, '\0');
  size_t used = 0;
  struct archive* const archive = archive_write_new();
  archive_write_set_format_pax(archive);
  if (packing == Packing::kGzip) archive_write_add_filter_gzip(archive);
  if (packing == Packing::kZstd) archive_write_add_filter_zstd(archive);
  CHECK(archive_write_open_memory(archive, bytes.data(), bytes.size(), &used) == ARCHIVE_OK);
  for (const Entry& entry : entries) write_entry(archive, entry);
  CHECK(archive_write_close(archive) == ARCHIVE_OK);
  archive_write_free(archive);
  bytes.resize(used);
  return bytes;
}

std::string sha256_of(const std::string& bytes) {
  Sha256 sha;
  sha.add(std::as_bytes(std::span(bytes)));
  return sha.finish();
}

Directory::Directory() {
  std::string name = (fs::temp_directory_path() / "image_test.XXXXXX").string();
  CHECK(::mkdtemp(name.data()) != nullptr);
  root_ = name;
}

Directory::~Directory() {
  std::error_code error;
  fs::remove_all(root_, error);
}

void Directory::write(const std::string& name, const std::string& bytes) const {
  fs::create_directories((root_ / name).parent_path());
  std::ofstream file(root_ / name, std::ios::binary);
  file << bytes;
  CHECK(file.good());
}

std::vector<std::string> Directory::names() const {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(root_)) {
    names.push_back(entry.path().lexically_relative(root_).string());
  }
  std::ranges::sort(names);
  return names;
}

void Layout::add(const std::vector<Entry>& entries, Packing packing) {
  const std::string tar = make_tar(entries);
  const std::string type = "application/vnd.oci.image.layer.v1.tar";
  const char* const suffix[] = {"", "+gzip", "+zstd"};
  layers.push_back({packing == Packing::kPlain ? tar : make_tar(entries, packing),
                    type + suffix[static_cast<int>(packing)], "sha256:" + sha256_of(tar)});
}

std::string Layout::config() const {
  std::string ids;
  for (const Layer& layer : layers) ids += (ids.empty() ? "\"" : ",\"") + layer.diff_id + "\"";
  return R"({"os":"linux","architecture":")" + architecture + R"(","config":)" + execution +
         R"(,"rootfs":{"type":"layers","diff_ids":[)" + ids + "]}}";
}

std::string Layout::write_blobs(const Directory& directory) const {
  const auto blob = [&](const std::string& bytes, const std::string& type,
                        const std::string& more = "") {
    const std::string digest = sha256_of(bytes);
    directory.write("blobs/sha256/" + digest, bytes);
    return R"({"mediaType":")" + type + R"(","digest":"sha256:)" + digest + R"(","size":)" +
           std::to_string(bytes.size()) + more + "}";
  };
  std::string descriptors;
  for (const Layer& layer : layers) {
    descriptors += (descriptors.empty() ? "" : ",") + blob(layer.bytes, layer.media_type);
  }
  const std::string manifest = R"({"schemaVersion":2,"config":)" +
                               blob(config(), "application/vnd.oci.image.config.v1+json") +
                               R"(,"layers":[)" + descriptors + "]}";
  const std::string ref =
      ref_name.empty()
          ? ""
          : R"(,"annotations":{"org.opencontainers.image.ref.name":")" + ref_name + "\"}";
  return blob(manifest, "application/vnd.oci.image.manifest.v1+json", ref);
}

void Layout::finish(const Directory& directory) const {
  directory.write("oci-layout", R"({"imageLayoutVersion":"1.0.0"})");
  directory.write("index.json",
                  R"({"schemaVersion":2,"manifests":[)" + write_blobs(directory) + "]}");
}

std::string run(const std::string& command) {
  FILE* const pipe = ::popen(("exec 2>&1; " + command).c_str(), "r");
  CHECK(pipe != nullptr);
  std::string text;
  char piece[4096];
  for (size_t n; (n = std::fread(piece, 1, sizeof(piece), pipe)) > 0;) text.append(piece, n);
  (void)::pclose(pipe);
  return text;
}

std::string debugfs(const std::string& image, const std::string& command) {
  return run("PATH=$PATH:/sbin:/usr/sbin debugfs -R '" + command + "' " + image);
}

bool is_clean(const std::string& image) {
  const std::string text =
      run("PATH=$PATH:/sbin:/usr/sbin e2fsck -fn " + image + "; echo \"e2fsck: $?\"");
  const bool clean = text.find("e2fsck: 0\n") != text.npos && text.find("Fix") == text.npos &&
                     text.find("Create") == text.npos;
  if (!clean) std::fprintf(stderr, "%s", text.c_str());
  return clean;
}

}  // namespace mayfly::image
