// SPDX-License-Identifier: Apache-2.0
#include "daemon/spec.h"

#include "daemon/text.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <thread>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

using ull = unsigned long long;

constexpr auto kLockPatience = std::chrono::milliseconds(1000);
constexpr auto kLockRetry = std::chrono::milliseconds(2);

bool is_id_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
}

Result<> validate_path(const char* field, const std::string& path) {
  if (path.empty())
    return fail({Code::kInvalidArgument, "PATH_MISSING"}, "%s: no path was given", field);
  if (path.size() > 4095) {
    return fail({Code::kInvalidArgument, "PATH_TOO_LONG"},
                "%s: %zu bytes are above the limit of 4095", field, path.size());
  }
  if (path.find('\0') != std::string::npos) {
    return fail({Code::kInvalidArgument, "PATH_BAD"}, "%s: holds a zero byte", field);
  }
  if (path[0] != '/') {
    return fail({Code::kInvalidArgument, "PATH_NOT_ABSOLUTE"}, "%s: %s is not an absolute path",
                field, printable(path, 200).c_str());
  }
  return {};
}

Result<> validate_disk(const char* field, const DiskSpec& disk) {
  if (!disk.own) TRY(validate_path(format("%s.path", field).c_str(), disk.path));
  if (disk.serial.size() > kMaxSerialBytes) {
    return fail({Code::kInvalidArgument, "DISK_SERIAL"},
                "%s.serial: %zu bytes are above the limit of %zu", field, disk.serial.size(),
                kMaxSerialBytes);
  }
  for (const char c : disk.serial) {
    if (c < 0x20 || c > 0x7e) {
      return fail({Code::kInvalidArgument, "DISK_SERIAL"},
                  "%s.serial: byte 0x%02x is not printable ASCII", field,
                  static_cast<unsigned>(static_cast<unsigned char>(c)));
    }
  }
  return validate(disk.limits, field);
}

Result<> validate_cmdline(const VmSpec& spec) {
  for (const char c : spec.cmdline) {
    if (static_cast<unsigned char>(c) < 0x20) {
      return fail({Code::kInvalidArgument, "CMDLINE_BAD"},
                  "cmdline: holds control character 0x%02x",
                  static_cast<unsigned>(static_cast<unsigned char>(c)));
    }
  }
  const size_t size = compose_cmdline(spec).size();
  if (size > kMaxCmdlineBytes) {
    return fail({Code::kInvalidArgument, "CMDLINE_TOO_LONG"},
                "cmdline: %zu bytes, %zu with the daemon's own words, are above the limit of %zu",
                spec.cmdline.size(), size, kMaxCmdlineBytes);
  }
  return {};
}

Result<> validate_sizes(const VmSpec& spec, uint64_t host_memory) {
  if (spec.vcpus < 1 || spec.vcpus > kMaxVcpus) {
    return fail({Code::kInvalidArgument, "VCPU_COUNT"}, "vcpus: %u is not within 1 to %u",
                spec.vcpus, kMaxVcpus);
  }
  if (spec.memory_mib < kMinMemoryMib) {
    return fail({Code::kInvalidArgument, "MEMORY_SIZE"},
                "memory_mib: %llu is below the minimum of %llu", static_cast<ull>(spec.memory_mib),
                static_cast<ull>(kMinMemoryMib));
  }
  if (spec.memory_mib > host_memory) {
    return fail({Code::kInvalidArgument, "MEMORY_SIZE"},
                "memory_mib: %llu is above the host's memory of %llu",
                static_cast<ull>(spec.memory_mib), static_cast<ull>(host_memory));
  }
  if (spec.console_kib < kMinConsoleKib || spec.console_kib > kMaxConsoleKib ||
      !std::has_single_bit(spec.console_kib)) {
    return fail({Code::kInvalidArgument, "CONSOLE_SIZE"},
                "console_kib: %u is not a power of two from %u to %u", spec.console_kib,
                kMinConsoleKib, kMaxConsoleKib);
  }
  return {};
}

Result<> validate_balloon(const BalloonSpec& balloon, uint64_t memory_mib) {
  TRY(validate_target(balloon.target_mib, memory_mib));
  if (balloon.options.stats_interval_s <= kMaxStatsIntervalS) return {};
  return fail({Code::kInvalidArgument, "BALLOON_STATS"},
              "balloon.stats_interval_s: %u is above the limit of %u",
              balloon.options.stats_interval_s, kMaxStatsIntervalS);
}

/// Opens without ever blocking (a FIFO would), and says what kind of file it is.
Result<Fd> open_checked(const char* field, const std::string& path, bool writable,
                        struct stat& status) {
  Fd fd(::open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.valid()) {
    const int os_errno = errno;
    if (os_errno == EISDIR) {
      return fail({Code::kInvalidArgument, "NOT_A_FILE"}, "%s: %s is a directory", field,
                  path.c_str());
    }
    const char* advice = writable && (os_errno == EACCES || os_errno == EROFS)
                             ? " for writing; attach it read-only"
                             : "";
    const Code code = os_errno == ENOENT || os_errno == ENOTDIR ? Code::kNotFound
                      : os_errno == EACCES || os_errno == EPERM ? Code::kPermissionDenied
                                                                : Code::kFailedPrecondition;
    const char* reason = code == Code::kNotFound ? "FILE_NOT_FOUND" : "FILE_NOT_OPENED";
    return fail_errno({code, reason}, os_errno, "%s: cannot open %s%s", field, path.c_str(),
                      advice);
  }
  if (::fstat(fd.number(), &status) != 0) {
    return fail_errno({Code::kInternal, "FSTAT"}, errno, "%s: fstat %s", field, path.c_str());
  }
  if (S_ISDIR(status.st_mode)) {
    return fail({Code::kInvalidArgument, "NOT_A_FILE"}, "%s: %s is a directory", field,
                path.c_str());
  }
  TRY(set_nonblocking(fd.ref(), false));
  return fd;
}

/// A kernel or initrd: a regular file with something in it.
Result<Fd> open_image(const char* field, const std::string& path) {
  struct stat status;
  Fd fd = TRY(open_checked(field, path, false, status));
  if (!S_ISREG(status.st_mode)) {
    return fail({Code::kInvalidArgument, "NOT_A_FILE"}, "%s: %s is not a regular file", field,
                path.c_str());
  }
  if (status.st_size == 0) {
    return fail({Code::kInvalidArgument, "FILE_EMPTY"}, "%s: %s is empty", field, path.c_str());
  }
  return fd;
}

/// The kernel takes an io_uring apart a little after its process has ended, and only then lets go
/// of the files in it: the disk of a VM that has just stopped stays locked for some milliseconds.
Result<> lock_disk(const char* field, const DiskSpec& disk, FdRef fd) {
  const auto deadline = std::chrono::steady_clock::now() + kLockPatience;
  while (::flock(fd.number(), (disk.read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      return fail_errno({Code::kFailedPrecondition, "DISK_LOCK"}, errno, "%s: lock %s", field,
                        disk.path.c_str());
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      return fail({Code::kFailedPrecondition, "DISK_IN_USE"}, "%s: %s is in use by another VM%s",
                  field, disk.path.c_str(), disk.read_only ? " that writes to it" : "");
    }
    std::this_thread::sleep_for(kLockRetry);
  }
  return {};
}

Result<Fd> open_disk(const char* field, const DiskSpec& disk) {
  struct stat status;
  Fd fd = TRY(open_checked(field, disk.path, !disk.read_only, status));
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
    return fail({Code::kInvalidArgument, "NOT_A_FILE"},
                "%s: %s is neither a regular file nor a block device", field, disk.path.c_str());
  }
  // Root may write to anything; an owner who took the write permission away meant it.
  if (!disk.read_only && (status.st_mode & 0222) == 0) {
    return fail({Code::kPermissionDenied, "DISK_READ_ONLY"},
                "%s: %s is read-only (mode %04o); make it writable or attach it read-only", field,
                disk.path.c_str(), status.st_mode & 07777u);
  }
  const uint64_t size = TRY(file_size(fd.ref()));
  if (size == 0 || size % kSectorBytes != 0) {
    return fail({Code::kInvalidArgument, "DISK_SIZE"},
                "%s: %s has %llu bytes, which is not a positive multiple of %llu", field,
                disk.path.c_str(), static_cast<ull>(size), static_cast<ull>(kSectorBytes));
  }
  if (disk.size_bytes && size != *disk.size_bytes) {
    return fail({Code::kFailedPrecondition, "DISK_MISMATCH"},
                "%s: %s has %llu bytes, the saved VM's disk has %llu", field, disk.path.c_str(),
                static_cast<ull>(size), static_cast<ull>(*disk.size_bytes));
  }
  TRY(lock_disk(field, disk, fd.ref()));
  return fd;
}

}  // namespace

Result<> validate_id(const char* field, const std::string& id) {
  if (id.empty()) return fail({Code::kInvalidArgument, "ID_MISSING"}, "%s: is empty", field);
  if (id.size() > kMaxIdBytes) {
    return fail({Code::kInvalidArgument, "ID_TOO_LONG"}, "%s: %zu bytes are above the limit of %zu",
                field, id.size(), kMaxIdBytes);
  }
  if (!std::all_of(id.begin(), id.end(), is_id_char) || id[0] == '-' || id[0] == '_' ||
      id[0] == '.') {
    return fail({Code::kInvalidArgument, "ID_BAD"},
                "%s: \"%s\" is not of the form [a-z0-9][a-z0-9-_.]{0,62}", field,
                printable(id, kMaxIdBytes).c_str());
  }
  return {};
}

std::vector<const DiskSpec*> all_disks(const VmSpec& spec) {
  std::vector<const DiskSpec*> disks;
  if (spec.rootfs) disks.push_back(&*spec.rootfs);
  for (const DiskSpec& disk : spec.disks) disks.push_back(&disk);
  return disks;
}

std::string disk_field(const VmSpec& spec, size_t place) {
  if (!spec.rootfs) return format("disks[%zu]", place);
  return place == 0 ? "rootfs" : format("disks[%zu]", place - 1);
}

Result<> validate_target(uint64_t target_mib, uint64_t memory_mib) {
  if (target_mib <= memory_mib) return {};
  return fail({Code::kInvalidArgument, "BALLOON_TARGET"},
              "balloon.target_mib: %llu is above the VM's memory of %llu",
              static_cast<ull>(target_mib), static_cast<ull>(memory_mib));
}

Result<> validate_machine(const VmSpec& spec, uint64_t host_memory) {
  if (auto ok = validate_sizes(spec, host_memory); !ok) return ok;
  if (spec.balloon) TRY(validate_balloon(*spec.balloon, spec.memory_mib));
  if (auto ok = validate(spec.limits, spec.vcpus, spec.memory_mib, spec.console_kib); !ok)
    return ok;
  if (spec.guest_cid < kMinGuestCid || spec.guest_cid > kMaxGuestCid) {
    return fail({Code::kInvalidArgument, "GUEST_CID"}, "guest_cid: %llu is not within %llu to %llu",
                static_cast<ull>(spec.guest_cid), static_cast<ull>(kMinGuestCid),
                static_cast<ull>(kMaxGuestCid));
  }
  const std::vector<const DiskSpec*> disks = all_disks(spec);
  if (disks.size() > kMaxDisks) {
    return fail({Code::kInvalidArgument, "DISK_COUNT"},
                "disks: %zu with the rootfs are above the limit of %zu", disks.size(), kMaxDisks);
  }
  for (size_t i = 0; i < disks.size(); ++i) {
    if (auto ok = validate_disk(disk_field(spec, i).c_str(), *disks[i]); !ok) return ok;
  }
  if (spec.metadata && !spec.agent) {
    return fail({Code::kInvalidArgument, "NO_AGENT"},
                "metadata: needs the agent, which serves it in the guest");
  }
  return validate(spec.nets, spec.agent);
}

Result<> validate(const VmSpec& spec, uint64_t host_memory) {
  if (auto ok = validate_machine(spec, host_memory); !ok) return ok;
  if (auto ok = validate_path("kernel_path", spec.kernel_path); !ok) return ok;
  if (spec.initrd_paths.size() > kMaxInitrds) {
    return fail({Code::kInvalidArgument, "INITRD_COUNT"},
                "initrd_paths: %zu are above the limit of %zu", spec.initrd_paths.size(),
                kMaxInitrds);
  }
  for (size_t i = 0; i < spec.initrd_paths.size(); ++i) {
    const std::string field = format("initrd_paths[%zu]", i);
    if (auto ok = validate_path(field.c_str(), spec.initrd_paths[i]); !ok) return ok;
  }
  return validate_cmdline(spec);
}

std::string compose_cmdline(const VmSpec& spec) {
  if (spec.replace_cmdline) return spec.cmdline;
  // Panic and reboot end the VM: -1 reboots at once, and reboot=a writes the ACPI reset register.
  std::string line = "console=hvc0 panic=-1 reboot=a";
  line += spec.debug_serial ? " earlyprintk=ttyS0,115200" : " quiet loglevel=3";
  if (spec.rootfs) {
    line +=
        " root=/dev/vda";  // What kind of file system is on it, the agent or the kernel finds out.
    line += spec.rootfs->read_only ? " ro" : " rw";
  }
  if (spec.agent) line += " rdinit=/.mayfly/agent";
  if (!spec.cmdline.empty()) line += " " + spec.cmdline;
  return line;
}

Result<SpecFiles> open_files(const VmSpec& spec, const std::string& agent_initrd) {
  SpecFiles files = TRY(open_disks(spec));
  files.kernel = TRY(open_image("kernel_path", spec.kernel_path));
  for (size_t i = 0; i < spec.initrd_paths.size(); ++i) {
    files.initrds.push_back(
        TRY(open_image(format("initrd_paths[%zu]", i).c_str(), spec.initrd_paths[i])));
  }
  if (spec.agent) {
    if (agent_initrd.empty()) {
      return fail(
          {Code::kFailedPrecondition, "AGENT_MISSING"},
          "agent: the daemon was started without --agent-initrd; set agent to false or restart it");
    }
    files.initrds.push_back(TRY(open_image("agent initrd", agent_initrd)));
  }
  return files;
}

Result<SpecFiles> open_disks(const VmSpec& spec) {
  SpecFiles files;
  const std::vector<const DiskSpec*> disks = all_disks(spec);
  for (size_t i = 0; i < disks.size(); ++i) {
    files.disks.push_back(disks[i]->own ? Fd()
                                        : TRY(open_disk(disk_field(spec, i).c_str(), *disks[i])));
    if (disks[i]->read_only) continue;
    files.largest_writable_disk = std::max(
        files.largest_writable_disk, disks[i]->own ? disks[i]->size_bytes.value_or(0)
                                                   : TRY(file_size(files.disks.back().ref())));
  }
  return files;
}

Result<Fd> open_memory_file(const std::string& path, uint64_t size_bytes) {
  TRY(validate_path("memory_path", path));
  Fd file = TRY(open_image("memory_path", path));
  const uint64_t size = TRY(file_size(file.ref()));
  if (size == size_bytes) return file;
  return fail({Code::kFailedPrecondition, "MEMORY_MISMATCH"},
              "memory_path: %s has %llu bytes, the saved VM's memory has %llu", path.c_str(),
              static_cast<ull>(size), static_cast<ull>(size_bytes));
}

uint64_t host_memory_mib() {
  const auto pages = static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES));
  const auto page_bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  return pages * page_bytes >> 20;
}

}  // namespace mayfly::daemon
