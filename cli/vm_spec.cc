// SPDX-License-Identifier: Apache-2.0
#include "cli/vm_spec.h"

#include "cli/net_spec.h"

#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace mayfly::cli {

namespace {

constexpr size_t kMaxMetadataBytes = 256 << 10;

Result<std::string> default_file(const std::string& path, const char* flag, const char* script) {
  std::error_code error;
  if (std::filesystem::exists(path, error)) return path;
  return fail({Code::kNotFound, "GUEST_MISSING"},
              "%s: none was given and there is no %s; %s makes one", flag, path.c_str(), script);
}

/// "vda,read-bytes=N,write-ops=N": sets the limits of that disk of the spec.
Result<> add_disk_limit(const std::string& text, v1::VmSpec& spec) {
  std::istringstream words(text);
  std::string name;
  std::getline(words, name, ',');
  const int place = name.size() == 3 && name.starts_with("vd") ? name[2] - 'a' : -1;
  const int first_disk = spec.has_rootfs() ? 1 : 0;
  if (place < 0 || place >= first_disk + spec.disks_size()) {
    return fail({Code::kInvalidArgument, "DISK_LIMIT"},
                "--disk-limit: \"%s\" is none of this VM's %d disks (vda, vdb, ...)", name.c_str(),
                first_disk + spec.disks_size());
  }
  v1::DiskLimits* limits = place < first_disk
                               ? spec.mutable_rootfs()->mutable_limits()
                               : spec.mutable_disks(place - first_disk)->mutable_limits();
  for (std::string word; std::getline(words, word, ',');) {
    const size_t equals = word.find('=');
    const std::string key = word.substr(0, equals);
    const std::string digits = equals == std::string::npos ? "" : word.substr(equals + 1);
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    const bool number = error == std::errc() && end == digits.data() + digits.size();
    if (number && key == "read-bytes") {
      limits->set_read_bytes_per_s(value);
    } else if (number && key == "write-bytes") {
      limits->set_write_bytes_per_s(value);
    } else if (number && key == "read-ops") {
      limits->set_read_ops_per_s(value);
    } else if (number && key == "write-ops") {
      limits->set_write_ops_per_s(value);
    } else {
      return fail({Code::kInvalidArgument, "DISK_LIMIT"},
                  "--disk-limit: \"%s\" is not KEY=NUMBER with one of read-bytes, write-bytes, "
                  "read-ops, write-ops",
                  word.c_str());
    }
  }
  return {};
}

/// "256,deflate-on-oom,reporting,stats=10".
Result<v1::Balloon> make_balloon(const std::string& text) {
  const auto number = [](const std::string& digits, auto& value) {
    const char* const last = digits.data() + digits.size();
    const auto [end, error] = std::from_chars(digits.data(), last, value);
    return error == std::errc() && end == last;
  };
  v1::Balloon balloon;
  std::istringstream words(text);
  std::string word;
  std::getline(words, word, ',');
  uint64_t target_mib = 0;
  bool is_known = number(word, target_mib);
  balloon.set_target_mib(target_mib);
  while (is_known && std::getline(words, word, ',')) {
    uint32_t seconds = 0;
    if (word == "deflate-on-oom") {
      balloon.set_deflate_on_oom(true);
    } else if (word == "reporting") {
      balloon.set_free_page_reporting(true);
    } else if (word.starts_with("stats=") && number(word.substr(6), seconds)) {
      balloon.set_stats_interval_s(seconds);
    } else {
      is_known = false;
    }
  }
  if (is_known) return balloon;
  return fail({Code::kInvalidArgument, "BALLOON"},
              "--balloon: \"%s\" is not a number of MiB first, and then one of deflate-on-oom, "
              "reporting, stats=SECONDS",
              word.c_str());
}

}  // namespace

v1::ResourceLimits make_limits(const LimitFlags& flags) {
  v1::ResourceLimits limits;
  if (flags.cpus) {
    // What is no number of CPUs at all is for the daemon to refuse, with its bounds.
    const double milli = std::round(*flags.cpus * 1000);
    limits.set_cpu_milli(milli >= 0 && milli < UINT32_MAX ? static_cast<uint32_t>(milli) : 0);
  }
  if (flags.cpu_weight) limits.set_cpu_weight(*flags.cpu_weight);
  if (flags.memory_limit_mib) limits.set_memory_mib(*flags.memory_limit_mib);
  if (flags.pids_max) limits.set_pids_max(*flags.pids_max);
  return limits;
}

Result<std::string> read_metadata(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  // One byte more than the limit is for the daemon to refuse.
  std::string text(kMaxMetadataBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad()) {
    return fail({Code::kNotFound, "METADATA_FILE"}, "--metadata: cannot read %s", path.c_str());
  }
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

std::string absolute(const std::string& path) {
  std::error_code error;
  return path.empty() ? path : std::filesystem::absolute(path, error).string();
}

Result<v1::RestoreOverrides> make_overrides(const RestoreFlags& flags) {
  v1::RestoreOverrides overrides;
  uint32_t place = 0;
  for (const std::string& text : flags.disks) {
    // vdb=IMG, or the one that is next.
    const bool named = text.size() > 4 && text.starts_with("vd") && text[2] >= 'a' &&
                       text[2] <= 'z' && text[3] == '=';
    if (named) place = static_cast<uint32_t>(text[2] - 'a');
    v1::DiskOverride* disk = overrides.add_disks();
    disk->set_index(place++);
    disk->set_path(absolute(named ? text.substr(4) : text));
  }
  for (size_t i = 0; i < flags.nets.size(); ++i) {
    v1::NetOverride* net = overrides.add_nets();
    net->set_index(static_cast<uint32_t>(i));
    *net->mutable_net() = TRY(parse_net(flags.nets[i]));
  }
  if (!flags.metadata.empty()) overrides.set_metadata(TRY(read_metadata(flags.metadata)));
  if (flags.guest_cid) overrides.set_guest_cid(*flags.guest_cid);
  if (flags.memory_policy == "lazy") overrides.set_memory_policy(v1::MEMORY_POLICY_LAZY);
  if (flags.memory_policy == "balanced") overrides.set_memory_policy(v1::MEMORY_POLICY_BALANCED);
  if (flags.memory_policy == "latency") overrides.set_memory_policy(v1::MEMORY_POLICY_LATENCY);
  overrides.set_record_working_set(flags.record_working_set);
  *overrides.mutable_limits() = make_limits(flags.limits);
  overrides.set_allow_slow_kvm(flags.allow_slow_kvm);
  return overrides;
}

Result<v1::VmSpec> make_spec(const VmFlags& flags, const Installation& installation) {
  v1::VmSpec spec;
  if (flags.vcpus) spec.set_vcpus(*flags.vcpus);
  if (flags.memory_mib) spec.set_memory_mib(*flags.memory_mib);
  spec.set_kernel_path(flags.kernel.empty() ? TRY(default_file(installation.kernel, "--kernel",
                                                               "scripts/build_guest_kernel"))
                                            : absolute(flags.kernel));
  if (flags.kernel.empty() && !installation.kernel_initrd.empty()) {
    spec.add_initrd_paths(installation.kernel_initrd);
  }
  for (const std::string& path : flags.initrds) spec.add_initrd_paths(absolute(path));
  if (!flags.rootfs.empty() && flags.rootfs != "none") {
    spec.mutable_rootfs()->set_path(absolute(flags.rootfs));
    spec.mutable_rootfs()->set_read_only(flags.read_only);
  } else if (flags.rootfs.empty() && flags.initrds.empty()) {
    spec.mutable_rootfs()->set_path(
        TRY(default_file(installation.rootfs, "--rootfs", "scripts/build_rootfs")));
    spec.mutable_rootfs()->set_read_only(true);
  }
  for (const std::string& text : flags.disks) {
    v1::Disk* disk = spec.add_disks();
    const bool read_only = text.ends_with(":ro");
    disk->set_path(absolute(read_only ? text.substr(0, text.size() - 3) : text));
    disk->set_read_only(read_only);
  }
  for (const std::string& text : flags.nets) *spec.add_nets() = TRY(parse_net(text));
  if (!flags.metadata.empty()) spec.set_metadata(TRY(read_metadata(flags.metadata)));
  spec.set_cmdline(flags.cmdline);
  spec.set_replace_cmdline(flags.replace_cmdline);
  if (flags.no_agent) spec.set_agent(false);
  spec.set_allow_slow_kvm(flags.allow_slow_kvm);
  spec.set_debug_serial(flags.debug_serial);
  if (!flags.balloon.empty()) *spec.mutable_balloon() = TRY(make_balloon(flags.balloon));
  *spec.mutable_limits() = make_limits(flags.limits);
  for (const std::string& text : flags.disk_limits) TRY(add_disk_limit(text, spec));
  return spec;
}

}  // namespace mayfly::cli
