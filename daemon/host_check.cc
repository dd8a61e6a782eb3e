// SPDX-License-Identifier: Apache-2.0
#include "daemon/host_check.h"

#include "daemon/host_jail_check.h"
#include "daemon/host_probe_sys.h"
#include "daemon/huge_pages_sys.h"
#include "daemon/text.h"

#include <cstring>
#include <fstream>
#include <sstream>

#include <sys/resource.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

constexpr rlim_t kGoodOpenFiles = 65536;
constexpr uint64_t kGoodFreeMib = 512;

/// The file's first line, or empty.
std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return printable(line, 200);
}

/// "always [madvise] never" -> "madvise".
std::string chosen(const std::string& line) {
  const size_t open = line.find('[');
  const size_t close = line.find(']');
  return open == std::string::npos || close == std::string::npos || close < open
             ? line
             : line.substr(open + 1, close - open - 1);
}

HostCheck check_kvm(const KvmProbe& probe, const std::string& device) {
  HostCheck check{.name = "kvm", .status = CheckStatus::kOk, .detail = {}, .remedy = {}};
  if (!probe.opened) {
    check.status = CheckStatus::kMissing;
    check.detail = probe.failure;
    check.remedy =
        ::access(device.c_str(), F_OK) == 0
            ? format("sudo setfacl -m u:%d:rw %s", static_cast<int>(::getuid()), device.c_str())
            : "sudo modprobe kvm_intel || sudo modprobe kvm_amd";
    return check;
  }
  if (!probe.ns_per_instruction) {
    check.status = CheckStatus::kMissing;
    check.detail = probe.failure;
    check.remedy = "scripts/lab";
    return check;
  }
  check.detail = format("%s, API %d", device.c_str(), probe.api_version);
  return check;
}

HostCheck check_speed(const KvmProbe& probe) {
  HostCheck check{
      .name = "guest-kernel-speed", .status = CheckStatus::kMissing, .detail = {}, .remedy = {}};
  if (!probe.ns_per_instruction) {
    check.detail = "not measured: no VM could be run";
    check.remedy = "scripts/lab";
    return check;
  }
  const double ns = *probe.ns_per_instruction;
  if (probe.emulates_guest_kernel()) {
    check.detail = format(
        "emulated: %.0f ns per instruction of a guest's kernel; Linux does not boot in useful time",
        ns);
    check.remedy = "scripts/lab out/mayfly run -- COMMAND";
    return check;
  }
  check.status = CheckStatus::kOk;
  check.detail = ns < 0.1 ? "native: too fast to tell from entering the guest"
                          : format("native: %.1f ns per instruction of a guest's kernel", ns);
  return check;
}

HostCheck check_huge_pages() {
  HostCheck check{.name = "huge-pages", .status = CheckStatus::kOk, .detail = {}, .remedy = {}};
  const std::string total = first_line("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
  if (total.empty()) {
    check.status = CheckStatus::kWarning;
    check.detail = "this kernel has no 2 MiB huge pages";
  } else if (total == "0") {
    check.status = CheckStatus::kWarning;
    check.detail = "the pool of 2 MiB pages is empty";
    check.remedy = "sudo sysctl vm.nr_hugepages=512";
  } else {
    check.detail = total + " pages of 2 MiB in the pool";
  }
  return check;
}

HostCheck check_shmem_thp(const Result<PageCosts>& costs) {
  HostCheck check{
      .name = "memfd-huge-pages", .status = CheckStatus::kOk, .detail = {}, .remedy = {}};
  const std::string mode = chosen(first_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled"));
  check.detail =
      "transparent huge pages for memfd: " + (mode.empty() ? "not in this kernel" : mode);
  if (costs) {
    check.detail += costs->has_memfd_huge_pages ? "; a memfd that asks gets them"
                                                : "; a memfd that asks gets none";
  }
  if (costs ? !costs->has_memfd_huge_pages : mode == "never" || mode == "deny" || mode.empty()) {
    check.status = CheckStatus::kWarning;
    if (!mode.empty()) {
      check.remedy = "echo advise | sudo tee /sys/kernel/mm/transparent_hugepage/shmem_enabled";
    }
  }
  return check;
}

HostCheck check_page_costs(const Result<PageCosts>& costs) {
  HostCheck check{.name = "page-costs", .status = CheckStatus::kOk, .detail = {}, .remedy = {}};
  if (!costs) {
    check.status = CheckStatus::kWarning;
    check.detail = costs.error().message();
    return check;
  }
  check.detail = format(
      "a fault takes %.1f us, a copy of 2 MiB %.0f us: chunks are copied from %u pages on; own "
      "memory has %s pages",
      static_cast<double>(costs->fault_ns) / 1e3, static_cast<double>(costs->copy_ns) / 1e3,
      costs->faults_of_copy(), costs->has_anonymous_huge_pages ? "huge" : "small");
  if (!costs->has_anonymous_huge_pages) {
    check.status = CheckStatus::kWarning;
    check.remedy = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled";
  }
  return check;
}

HostCheck check_io_uring() {
  HostCheck check{
      .name = "io-uring", .status = CheckStatus::kOk, .detail = "allowed", .remedy = {}};
  const int error = try_io_uring();
  if (error == 0) return check;
  const std::string disabled = first_line("/proc/sys/kernel/io_uring_disabled");
  check.status = CheckStatus::kMissing;
  check.detail = format("refused: %s", std::strerror(error));
  if (!disabled.empty() && disabled != "0") {
    check.detail += ", kernel.io_uring_disabled is " + disabled;
    check.remedy = "sudo sysctl kernel.io_uring_disabled=0";
  } else if (error == ENOSYS) {
    check.remedy = "use a kernel with CONFIG_IO_URING";
  } else {
    check.remedy = "allow io_uring_setup in the container's seccomp profile";
  }
  return check;
}

HostCheck check_device(const char* name, const char* path, const char* use, const char* remedy) {
  if (::access(path, R_OK | W_OK) == 0) {
    return {.name = name, .status = CheckStatus::kOk, .detail = path, .remedy = {}};
  }
  return {.name = name,
          .status = CheckStatus::kWarning,
          .detail = format("%s: %s; %s", path, std::strerror(errno), use),
          .remedy = remedy};
}

HostCheck check_userfaultfd(const std::string& device) {
  const bool is_there = ::access(device.c_str(), F_OK) == 0;
  HostCheck check = check_device("userfaultfd", device.c_str(),
                                 "VMs cannot be restored before their memory is there", "");
  if (check.status == CheckStatus::kOk) return check;
  check.remedy =
      is_there ? format("sudo setfacl -m u:%d:rw %s", static_cast<int>(::getuid()), device.c_str())
               : "use a kernel of 6.1 or later with CONFIG_USERFAULTFD";
  return check;
}

HostCheck check_open_files() {
  rlimit limit = {};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const bool good = limit.rlim_cur >= kGoodOpenFiles;
  return {.name = "open-files",
          .status = good ? CheckStatus::kOk : CheckStatus::kWarning,
          .detail = format("RLIMIT_NOFILE is %llu of %llu",
                           static_cast<unsigned long long>(limit.rlim_cur),
                           static_cast<unsigned long long>(limit.rlim_max)),
          .remedy = good ? "" : "ulimit -n 65536, or LimitNOFILE=65536 in the daemon's unit"};
}

HostCheck check_memory() {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  uint64_t available = static_cast<uint64_t>(::sysconf(_SC_AVPHYS_PAGES)) * page >> 20;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);) {
    std::istringstream words(line);
    std::string name;
    uint64_t kib = 0;
    if (words >> name >> kib && name == "MemAvailable:") available = kib >> 10;
  }
  const bool good = available >= kGoodFreeMib;
  return {
      .name = "memory",
      .status = good ? CheckStatus::kOk : CheckStatus::kWarning,
      .detail = format("%llu MiB of %llu MiB available", static_cast<unsigned long long>(available),
                       static_cast<unsigned long long>(host_memory_mib())),
      .remedy = good ? "" : "end what uses memory, or run smaller VMs"};
}

HostReport make_report(const KvmProbe& probe, const HostDevices& devices, const JailHost& jails) {
  HostReport report;
  const auto costs = measure_page_costs();
  report.checks = {
      check_kvm(probe, devices.kvm),
      check_speed(probe),
      check_io_uring(),
      check_huge_pages(),
      check_shmem_thp(costs),
      check_page_costs(costs),
      check_device("tun", "/dev/net/tun", "guests' networks will need it", "sudo modprobe tun"),
      check_userfaultfd(devices.userfault),
      check_open_files(),
      check_memory(),
  };
  for (HostCheck& check : check_jail(jails)) report.checks.push_back(std::move(check));
  report.runs_linux_guests = probe.ns_per_instruction && !probe.emulates_guest_kernel() &&
                             report.checks[2].status == CheckStatus::kOk;
  return report;
}

}  // namespace

HostChecker::HostChecker(HostDevices devices, const JailHost& jails)
    : devices_(std::move(devices)), jails_(jails) {
  prober_ = std::thread([this] {
    KvmProbe probe = probe_kvm(devices_.kvm);
    {
      std::lock_guard lock(mutex_);
      probe_ = std::move(probe);
    }
    probed_.notify_all();
  });
}

HostChecker::~HostChecker() { prober_.join(); }

Result<KvmProbe> HostChecker::wait_probe(const Call& call) {
  std::unique_lock lock(mutex_);
  TRY(call.wait(lock, probed_, "probing KVM", [&] { return probe_.has_value(); }));
  return *probe_;
}

Result<HostReport> HostChecker::report(bool refresh, const Call& call) {
  KvmProbe probe = TRY(wait_probe(call));
  if (refresh && !probe.ns_per_instruction) probe = probe_kvm(devices_.kvm);
  std::lock_guard lock(mutex_);
  probe_ = probe;
  if (!report_ || refresh) report_ = make_report(probe, devices_, jails_);
  return *report_;
}

Result<> HostChecker::gate(const VmSpec& spec) {
  const KvmProbe probe = TRY(wait_probe(Call()));
  if (!probe.opened) {
    return fail(
        {Code::kFailedPrecondition, "KVM_MISSING"},
        "no VM runs here: %s (`mayfly doctor` says more; scripts/lab is a machine with KVM)",
        probe.failure.c_str());
  }
  if (probe.emulates_guest_kernel() && !spec.allow_slow_kvm) {
    return fail({Code::kFailedPrecondition, "KVM_EMULATES_GUEST_KERNEL"},
                "this host's KVM only emulates a guest's kernel (%.0f ns per instruction): Linux "
                "would not boot in "
                "useful time. Put scripts/lab before the command to run it on a machine with real "
                "KVM, or allow "
                "slow KVM to try all the same",
                *probe.ns_per_instruction);
  }
  return {};
}

}  // namespace mayfly::daemon
