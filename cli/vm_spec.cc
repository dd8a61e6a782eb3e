// SPDX-License-Identifier: Apache-2.0
#include "cli/vm_spec.h"

#include <filesystem>

namespace mayfly::cli {

namespace {

std::string absolute(const std::string& path) {
  std::error_code error;
  return path.empty() ? path : std::filesystem::absolute(path, error).string();
}

Result<std::string> default_file(const std::string& path, const char* flag, const char* script) {
  std::error_code error;
  if (std::filesystem::exists(path, error)) return path;
  return fail({Code::kNotFound, "GUEST_MISSING"},
              "%s: none was given and there is no %s; %s makes one", flag, path.c_str(), script);
}

}  // namespace

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
  spec.set_cmdline(flags.cmdline);
  spec.set_replace_cmdline(flags.replace_cmdline);
  if (flags.no_agent) spec.set_agent(false);
  spec.set_allow_slow_kvm(flags.allow_slow_kvm);
  spec.set_debug_serial(flags.debug_serial);
  return spec;
}

}  // namespace mayfly::cli
