// SPDX-License-Identifier: Apache-2.0
#include "cli/images.h"

#include "cli/interrupts.h"
#include "cli/output.h"
#include "image/import.h"

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include <unistd.h>

namespace mayfly::cli {

namespace {

constexpr size_t kShortDigest = 19;  // "sha256:" and twelve digits.

Result<image::Store> open_store() { return image::Store(TRY(image::default_store_directory())); }

/// The name of a source's file without what says that it is an archive; empty: no name of an image.
std::string default_name(const std::string& source) {
  std::string name = std::filesystem::path(source).lexically_normal().filename();
  if (name.empty()) name = std::filesystem::path(source).parent_path().filename();
  for (const char* suffix : {".gz", ".tgz", ".zst", ".tar", ".oci"}) {
    if (name.ends_with(suffix)) name.resize(name.size() - std::string(suffix).size());
  }
  return image::is_image_name(name) ? name : "";
}

std::string mib(uint64_t bytes) {
  return format("%llu", static_cast<unsigned long long>((bytes + (1 << 20) - 1) >> 20));
}

/// What the import works on, while it does so: what it makes meanwhile goes in the next round, and
/// then there is no place to make anything.
void discard(const std::string& path) {
  std::error_code error;
  for (int rounds = 0; rounds < 100 && std::filesystem::exists(path, error); ++rounds) {
    std::filesystem::remove_all(path, error);
  }
}

Result<int> import_into_store(const GlobalFlags& global, const ImageFlags& flags) {
  const image::Store store = TRY(open_store());
  const std::string name = flags.name.empty() ? default_name(flags.source) : flags.name;
  if (name.empty()) {
    return fail({Code::kInvalidArgument, "IMAGE_NAME"},
                "--name: none was given, and \"%s\" gives none ([a-z0-9][a-z0-9-_.]{0,62})",
                flags.source.c_str());
  }
  image::Draft draft = TRY(store.draft());
  const Interrupts interrupts([path = draft.path()](int signal) {
    if (signal == SIGWINCH) return;
    discard(path);
    ::_exit(128 + signal);
  });
  const image::Imported made = TRY(image::import_image(
      store, std::move(draft),
      {.source = flags.source, .name = name, .ref = flags.ref, .size_mib = flags.size_mib},
      image::Limits{}));
  if (made.attributes_left_out > 0) {
    std::fprintf(stderr,
                 "mayfly: %llu extended attributes other than user, trusted and security "
                 "were left out\n",
                 static_cast<unsigned long long>(made.attributes_left_out));
  }
  if (global.json) {
    std::fputs(image::write_record(made.record).c_str(), stdout);
  } else {
    std::printf("%s %s, %llu files, %s MiB\n", name.c_str(),
                made.record.digest.substr(0, kShortDigest).c_str(),
                static_cast<unsigned long long>(made.record.files),
                mib(made.record.content_bytes).c_str());
  }
  return 0;
}

Result<int> print_list(const GlobalFlags& global) {
  const image::Store store = TRY(open_store());
  std::vector<std::vector<std::string>> rows = {
      {"NAME", "DIGEST", "ARCHITECTURE", "FILES", "CONTENT MIB", "SIZE MIB"}};
  std::string json;
  for (const std::string& name : TRY(store.list())) {
    const auto record = store.get(name);
    if (global.json) {
      if (record)
        json += (json.empty() ? "\"" : ",\"") + name + "\": " + image::write_record(*record);
    } else if (record) {
      rows.push_back({name, record->digest.substr(0, kShortDigest), record->architecture,
                      std::to_string(record->files), mib(record->content_bytes),
                      mib(record->size_bytes)});
    }
    if (!record) std::fprintf(stderr, "mayfly: %s\n", record.error().message().c_str());
  }
  if (global.json) {
    std::printf("{%s}\n", json.c_str());
  } else {
    std::fputs(table(rows).c_str(), stdout);
  }
  return 0;
}

int code_of(const GlobalFlags& global, const Result<int>& result) {
  return result ? *result : report_error(global, result.error());
}

}  // namespace

int import_image(const GlobalFlags& global, const ImageFlags& flags) {
  return code_of(global, import_into_store(global, flags));
}

int list_images(const GlobalFlags& global) { return code_of(global, print_list(global)); }

int inspect_image(const GlobalFlags& global, const ImageFlags& flags) {
  const auto store = open_store();
  if (!store) return report_error(global, store.error());
  for (const std::string& name : flags.names) {
    const auto record = store->get(name);
    if (!record) return report_error(global, record.error());
    std::fputs(image::write_record(*record).c_str(), stdout);
  }
  return 0;
}

int remove_images(const GlobalFlags& global, const ImageFlags& flags) {
  const auto store = open_store();
  if (!store) return report_error(global, store.error());
  int code = 0;
  for (const std::string& name : flags.names) {
    const auto removed = store->remove(name);
    if (!removed) {
      code = report_error(global, removed.error());
    } else {
      std::printf("%s deleted\n", name.c_str());
    }
  }
  return code;
}

Result<ImageForRun> ImageForRun::open(const std::string& name, bool writable) {
  const image::Store store = TRY(open_store());
  image::ImageRecord record = TRY(store.get(name));
  if (!writable) return ImageForRun(name, std::move(record), store.rootfs_path(name), std::nullopt);
  image::Draft copy = TRY(store.copy_rootfs(name));
  std::string rootfs = copy.path() + "/rootfs.ext4";
  return ImageForRun(name, std::move(record), std::move(rootfs), std::move(copy));
}

Result<> ImageForRun::complete(CommandFlags& command) const {
  const image::Execution& execution = record_.execution;
  if (command.argv.empty()) {
    command.argv = execution.entrypoint;
    command.argv.insert(command.argv.end(), execution.cmd.begin(), execution.cmd.end());
  }
  if (command.argv.empty()) {
    return fail({Code::kInvalidArgument, "IMAGE_COMMAND"},
                "image %s: has no command of its own; give one after --", name_.c_str());
  }
  // What comes later in a list counts: the command line's.
  std::vector<std::string> env;
  if (!command.ids) {
    if (!record_.home.empty()) env.push_back("HOME=" + record_.home);
    if (record_.uid != 0 || record_.gid != 0 || !record_.groups.empty()) {
      command.ids = {.uid = record_.uid, .gid = record_.gid, .groups = record_.groups};
    }
  }
  env.insert(env.end(), execution.env.begin(), execution.env.end());
  env.insert(env.end(), command.env.begin(), command.env.end());
  command.env = std::move(env);
  if (command.workdir.empty()) command.workdir = execution.working_dir;
  return {};
}

}  // namespace mayfly::cli
