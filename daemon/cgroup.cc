// SPDX-License-Identifier: Apache-2.0
#include "daemon/cgroup.h"

#include "base/log.h"
#include "daemon/text.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

using ull = unsigned long long;

constexpr const char* kDefaultParent = "/mayfly";
constexpr const char* kOurLeaf = "/mayflyd";
constexpr uint32_t kCpuPeriodUs = 100'000;
constexpr auto kRemovePatience = std::chrono::milliseconds(1000);
constexpr auto kRemoveRetry = std::chrono::milliseconds(2);
// A killed daemon's monitors see their connection closed and end by themselves.
constexpr auto kSweepPatience = std::chrono::milliseconds(3000);
constexpr size_t kMaxControlFileBytes = 64 * 1024;

/// 0, or an errno. Control files take a value in one write.
int write_file(const std::string& path, const std::string& text) {
  const Fd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.valid()) return errno;
  const ssize_t size = ::write(file.number(), text.data(), text.size());
  return size == static_cast<ssize_t>(text.size()) ? 0 : size < 0 ? errno : EIO;
}

/// Empty where it cannot be read.
std::string read_file(const std::string& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text(kMaxControlFileBytes, 0);
  const ssize_t size = file.valid() ? ::read(file.number(), text.data(), text.size()) : -1;
  text.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return text;
}

bool has_word(const std::string& text, const std::string& word) {
  std::istringstream words(text);
  for (std::string each; words >> each;) {
    if (each == word) return true;
  }
  return false;
}

/// 0 also where it is there already; `made` is set if it was not.
int make_dir_at(const std::string& path, bool& made) {
  made = ::mkdir(path.c_str(), 0755) == 0;
  return made || errno == EEXIST ? 0 : errno;
}

/// Only the root of all, which has no type, may have both processes and children with controllers.
bool holds_processes(const std::string& dir) {
  return ::access((dir + "/cgroup.type").c_str(), F_OK) == 0 &&
         !read_file(dir + "/cgroup.procs").empty();
}

/// Lets the children of a version 2 group have the controllers that it has: 0 or the last errno.
int enable_controllers(const std::string& dir) {
  // The kernel refuses this for some controllers only, and makes the group a threaded one by the
  // others.
  if (holds_processes(dir)) return EBUSY;
  const std::string present = read_file(dir + "/cgroup.controllers");
  const std::string enabled = read_file(dir + "/cgroup.subtree_control");
  int error = 0;
  for (const Controller controller : kControllers) {
    const char* name = controller_name(controller);
    if (!has_word(present, name) || has_word(enabled, name)) continue;
    if (const int failed = write_file(dir + "/cgroup.subtree_control", format("+%s", name));
        failed != 0) {
      error = failed;
    }
  }
  return error;
}

/// A version 2 group with processes of its own cannot have children with controllers. Where the
/// only process is this one, it makes room.
bool step_aside(const std::string& own_dir) {
  if (read_file(own_dir + "/cgroup.procs") != format("%d\n", ::getpid())) return false;
  bool made = false;
  const std::string leaf = own_dir + kOurLeaf;
  if (make_dir_at(leaf, made) != 0) return false;
  return write_file(leaf + "/cgroup.procs", "0") == 0;
}

/// Everyone in a group that is ours alone.
void kill_group(const std::string& dir) {
  if (write_file(dir + "/cgroup.kill", "1") == 0) return;
  std::istringstream pids(read_file(dir + "/cgroup.procs"));
  for (pid_t pid = 0; pids >> pid;) ::kill(pid, SIGKILL);
}

std::string device_text(const DeviceLimits& device) {
  return format("%u:%u", device.major, device.minor);
}

}  // namespace

// ---- One VM's group ----

VmCgroup::~VmCgroup() {
  const auto deadline = std::chrono::steady_clock::now() + kRemovePatience;
  while (!try_remove()) {
    if (std::chrono::steady_clock::now() >= deadline) {
      log(LogLevel::kWarning, "cgroup %s stays: errno %d", paths_.back().c_str(), errno);
      return;
    }
    for (const std::string& path : paths_) kill_group(path);
    std::this_thread::sleep_for(kRemoveRetry);
  }
}

void VmCgroup::close_descriptors() {
  directory_.reset();
  procs_.clear();
}

bool VmCgroup::try_remove() {
  close_descriptors();
  while (!paths_.empty()) {
    if (::rmdir(paths_.back().c_str()) != 0 && errno != ENOENT) return false;
    paths_.pop_back();
  }
  return true;
}

std::vector<FdRef> VmCgroup::procs() const {
  std::vector<FdRef> files;
  for (const Fd& file : procs_) files.push_back(file.ref());
  return files;
}

void VmCgroup::raise_memory(uint64_t mib) {
  if (!limits_.memory_mib) return;
  const auto bytes = static_cast<ull>((*limits_.memory_mib + mib) << 20);
  if (const int error = write_file(memory_limit_, format("%llu", bytes)); error != 0) {
    log(LogLevel::kWarning, "%s: cannot be raised to %llu: %s", memory_limit_.c_str(), bytes,
        std::strerror(error));
  }
}

bool VmCgroup::killed_for_memory() const {
  // "... oom_kill N ..." in both versions' files.
  std::istringstream words(memory_events_.empty() ? "" : read_file(memory_events_));
  uint64_t count = 0;
  for (std::string name; words >> name;) {
    if (name == "oom_kill" && words >> count && count > 0) return true;
  }
  return false;
}

Result<> VmCgroup::make_directory(const std::string& base, const std::string& name, int version) {
  const std::string path = base + "/" + name;
  if (::mkdir(path.c_str(), 0755) != 0) {
    return fail_errno({Code::kFailedPrecondition, "CGROUP"}, errno, "make cgroup %s", path.c_str());
  }
  paths_.push_back(path);
  if (version == 2) {
    directory_ = TRY(Fd::open(path.c_str(), O_RDONLY | O_DIRECTORY));
  } else {
    procs_.push_back(TRY(Fd::open((path + "/cgroup.procs").c_str(), O_WRONLY)));
  }
  return {};
}

Result<> VmCgroup::make(const CgroupParent& parent, const std::string& name) {
  name_ = name;
  for (const CgroupParent::Base* base : parent.bases())
    TRY(make_directory(base->dir, name, base->version));
  return {};
}

Result<> VmCgroup::set(const CgroupParent& parent, Controller controller, const char* v2_file,
                       const char* v1_file, const std::string& v2_text,
                       const std::string& v1_text) {
  const CgroupParent::Base& base = parent.base_of(controller);
  if (base.version == 0) {
    return fail({Code::kFailedPrecondition, "NO_CONTROLLER"},
                "limits: this host gives the daemon no %s controller (%s); `mayfly doctor` says "
                "what mends it",
                controller_name(controller), base.problem.c_str());
  }
  const bool v2 = base.version == 2;
  const std::string path = base.dir + "/" + name_ + "/" + (v2 ? v2_file : v1_file);
  const std::string& text = v2 ? v2_text : v1_text;
  if (const int error = write_file(path, text); error != 0) {
    return fail_errno({Code::kFailedPrecondition, "CGROUP_VALUE"}, error, "write \"%s\" to %s",
                      text.c_str(), path.c_str());
  }
  return {};
}

Result<> VmCgroup::set_device(const CgroupParent& parent, const DeviceLimits& device) {
  struct Key {
    const std::optional<uint64_t>& value;
    const char* v2;
    const char* v1_file;
  };
  const DiskLimits& limits = device.limits;
  for (const Key& key :
       {Key{limits.read_bytes_per_s, "rbps", "blkio.throttle.read_bps_device"},
        Key{limits.write_bytes_per_s, "wbps", "blkio.throttle.write_bps_device"},
        Key{limits.read_ops_per_s, "riops", "blkio.throttle.read_iops_device"},
        Key{limits.write_ops_per_s, "wiops", "blkio.throttle.write_iops_device"}}) {
    if (!key.value) continue;
    const auto number = static_cast<ull>(*key.value);
    const std::string name = device_text(device);
    TRY(set(parent, Controller::kIo, "io.max", key.v1_file,
            format("%s %s=%llu", name.c_str(), key.v2, number),
            format("%s %llu", name.c_str(), number)));
  }
  return {};
}

Result<> VmCgroup::set_limits(const CgroupParent& parent, const GroupLimits& limits) {
  limits_ = limits.asked;
  if (!limits_.memory_mib && parent.version(Controller::kMemory) != 0)
    limits_.memory_mib = limits.default_memory_mib;
  if (!limits_.pids_max && parent.version(Controller::kPids) != 0)
    limits_.pids_max = limits.default_pids;
  if (limits_.memory_mib) {
    const std::string bytes = format("%llu", static_cast<ull>(*limits_.memory_mib << 20));
    TRY(set(parent, Controller::kMemory, "memory.max", "memory.limit_in_bytes", bytes, bytes));
  }
  if (limits_.pids_max) {
    const std::string count = format("%u", *limits_.pids_max);
    TRY(set(parent, Controller::kPids, "pids.max", "pids.max", count, count));
  }
  if (limits_.cpu_milli) {
    const uint32_t quota_us = *limits_.cpu_milli * (kCpuPeriodUs / 1000);
    const std::string quota = format("%u", quota_us);
    TRY(set(parent, Controller::kCpu, "cpu.max", "cpu.cfs_quota_us",
            format("%u %u", quota_us, kCpuPeriodUs), quota));
  }
  if (limits_.cpu_weight) {
    // 100 is the default of version 2, 1024 that of version 1, whose least is 2.
    const uint32_t weight = *limits_.cpu_weight;
    TRY(set(parent, Controller::kCpu, "cpu.weight", "cpu.shares", format("%u", weight),
            format("%llu", std::max<ull>(2, ull{weight} * 1024 / 100))));
  }
  for (const DeviceLimits& device : limits.devices) TRY(set_device(parent, device));
  const CgroupParent::Base& memory = parent.base_of(Controller::kMemory);
  if (memory.version != 0) {
    memory_events_ =
        memory.dir + "/" + name_ + (memory.version == 2 ? "/memory.events" : "/memory.oom_control");
    memory_limit_ =
        memory.dir + "/" + name_ + (memory.version == 2 ? "/memory.max" : "/memory.limit_in_bytes");
  }
  return {};
}

// ---- Their parent ----

Result<std::unique_ptr<CgroupParent>> CgroupParent::open(const CgroupLayout& layout,
                                                         const std::string& path,
                                                         const std::string& tag) {
  if (!path.empty() && (path[0] != '/' || path.size() > 1024 || path.ends_with('/') ||
                        (path + "/").find("/../") != std::string::npos)) {
    return fail(
        {Code::kInvalidArgument, "CGROUP_PARENT"},
        "--cgroup-parent: \"%s\" is not an absolute path like /mayfly, from the root of the "
        "cgroup tree",
        printable(path, 200).c_str());
  }
  std::unique_ptr<CgroupParent> parent(new CgroupParent(layout, path, tag));
  parent->prepare_unified();
  for (const Controller controller : kControllers) parent->prepare_v1(controller);
  for (const Base* base : parent->bases()) parent->sweep(*base);
  return parent;
}

CgroupParent::~CgroupParent() {
  for (; !ours_.empty(); ours_.pop_back()) ::rmdir(ours_.back().c_str());
}

std::string CgroupParent::base_path(const CgroupTree& tree) const {
  return path_.empty() ? tree.own_dir() + kDefaultParent : tree.mount_point + path_;
}

std::vector<const CgroupParent::Base*> CgroupParent::bases() const {
  std::vector<const Base*> different;
  for (const Base& base : bases_) {
    const bool known = std::any_of(different.begin(), different.end(),
                                   [&](const Base* other) { return other->dir == base.dir; });
    if (base.version != 0 && !known) different.push_back(&base);
  }
  return different;
}

bool CgroupParent::joins_by_move() const {
  return std::any_of(bases_.begin(), bases_.end(),
                     [](const Base& base) { return base.version == 1; });
}

void CgroupParent::prepare_unified() {
  const CgroupTree& tree = layout_.unified;
  const auto all_lack = [&](const std::string& problem) {
    for (Base& base : bases_) base.problem = problem;
  };
  if (tree.version == 0) return all_lack("no cgroup tree is mounted that we are in");
  const std::string base = base_path(tree);
  // One with nothing for us, beside version 1, is left alone.
  const std::string present = read_file(tree.own_dir() + "/cgroup.controllers");
  if (std::none_of(kControllers.begin(), kControllers.end(), [&](Controller controller) {
        return has_word(present, controller_name(controller));
      })) {
    return all_lack(format("%s has no controllers for us", tree.own_dir().c_str()));
  }
  const size_t start = path_.empty() ? tree.own_dir().size() : tree.mount_point.size();
  for (size_t end = start; end < base.size();) {
    const std::string outer = base.substr(0, end);
    end = std::min(base.find('/', end + 1), base.size());
    const std::string dir = base.substr(0, end);
    bool made = false;
    if (const int error = make_dir_at(dir, made); error != 0)
      return all_lack(format("make %s: %s", dir.c_str(), std::strerror(error)));
    if (made || path_.empty()) ours_.push_back(dir);
    // A group of someone else's is not told what to give to its children.
    if (!made && !path_.empty()) continue;
    int error = enable_controllers(outer);
    if (error == EBUSY && path_.empty() && step_aside(outer)) error = enable_controllers(outer);
    if (error != 0) {
      all_lack(format("%s/cgroup.subtree_control: %s", outer.c_str(),
                      error == EBUSY ? "the group holds processes" : std::strerror(error)));
    }
  }
  const int error = enable_controllers(base);
  const std::string enabled = read_file(base + "/cgroup.subtree_control");
  for (const Controller controller : kControllers) {
    Base& mine = bases_[static_cast<size_t>(controller)];
    if (has_word(enabled, controller_name(controller))) {
      mine = {.version = 2, .dir = base, .problem = {}};
    } else if (error != 0) {
      mine.problem = format("%s/cgroup.subtree_control: %s", base.c_str(),
                            error == EBUSY ? "the group holds processes" : std::strerror(error));
    } else if (mine.problem.empty()) {
      mine.problem = format("it is not in %s/cgroup.controllers", base.c_str());
    }
  }
}

void CgroupParent::prepare_v1(Controller controller) {
  Base& mine = bases_[static_cast<size_t>(controller)];
  const CgroupTree& tree = layout_.v1_of(controller);
  if (mine.version != 0 || tree.version == 0) return;
  const std::string base = base_path(tree);
  for (size_t end = tree.mount_point.size(); end < base.size();) {
    end = std::min(base.find('/', end + 1), base.size());
    const std::string dir = base.substr(0, end);
    bool made = false;
    if (const int error = make_dir_at(dir, made); error != 0) {
      mine.problem = format("make %s: %s", dir.c_str(), std::strerror(error));
      return;
    }
    if (made || path_.empty()) ours_.push_back(dir);
  }
  if (::access(base.c_str(), W_OK) != 0) {
    mine.problem = format("%s: %s", base.c_str(), std::strerror(errno));
    return;
  }
  mine = {.version = 1, .dir = base, .problem = {}};
}

void CgroupParent::sweep(const Base& base) const {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(base.dir, error)) {
    if (!entry.path().filename().string().starts_with(tag_ + "-")) continue;
    const auto deadline = std::chrono::steady_clock::now() + kSweepPatience;
    while (::rmdir(entry.path().c_str()) != 0 && errno == EBUSY) {
      if (std::chrono::steady_clock::now() >= deadline) {
        log(LogLevel::kWarning, "cgroup %s stays: it holds processes", entry.path().c_str());
        break;
      }
      kill_group(entry.path());
      std::this_thread::sleep_for(kRemoveRetry);
    }
  }
}

Result<std::unique_ptr<VmCgroup>> CgroupParent::create(const std::string& vm_id,
                                                       const GroupLimits& limits) const {
  const std::string name = tag_ + "-" + vm_id;
  for (int attempt = 0;; ++attempt) {
    std::unique_ptr<VmCgroup> group(new VmCgroup());
    auto made = group->make(*this, name);
    if (made) {
      TRY(group->set_limits(*this, limits));
      return group;
    }
    // Another daemon with the same parent found it empty and took it away as it ended.
    if (made.error().os_errno() != ENOENT || attempt > 0)
      return std::unexpected(std::move(made).error());
    for (const Base* base : bases()) {
      bool ignored = false;
      (void)make_dir_at(base->dir, ignored);
      if (base->version == 2) (void)enable_controllers(base->dir);
    }
  }
}

}  // namespace mayfly::daemon
