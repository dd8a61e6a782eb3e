// SPDX-License-Identifier: Apache-2.0
//
// A VmManager and its SnapshotManager over the fake monitor, in a directory of its own; and a count
// of what a process holds, to show that nothing is left behind.
#pragma once

#include "daemon/call.h"
#include "daemon/jail.h"
#include "daemon/memory_manager.h"
#include "daemon/reactor.h"
#include "daemon/snapshot_manager.h"
#include "daemon/vm_manager.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <unistd.h>

namespace mayfly::daemon::testing {

/// A file of this workspace that the test has among its data.
inline std::string runfile(const std::string& path) {
  return std::string(std::getenv("TEST_SRCDIR")) + "/" + std::getenv("TEST_WORKSPACE") + "/" + path;
}

inline size_t count_entries(const std::string& directory) {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory)) ++count;
  return count;
}

inline size_t open_descriptors() { return count_entries("/proc/self/fd"); }

/// Our children, the ones that have ended and were not reaped included.
inline std::vector<pid_t> children() {
  std::vector<pid_t> pids;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(thread.path() / "children");
    for (pid_t pid = 0; file >> pid;) pids.push_back(pid);
  }
  return pids;
}

inline size_t child_processes() { return children().size(); }

/// For a call that is answered, however busy this machine is.
inline Call soon() { return Call::within(std::chrono::seconds(20)); }

class Rig {
 public:
  Rig() {
    std::string name = (std::filesystem::temp_directory_path() / "rig.XXXXXX").string();
    root_ = ::mkdtemp(name.data());
    std::filesystem::create_directory(root_ / "vms");
    write("kernel", 4096);
    write("agent", 512);
    write("disk", 4096);
    auto reactor = Reactor::create();
    reactor_ = *std::move(reactor);
    // The fake monitor is linked with shared libraries and runs commands on this host: no jail for
    // it. tests/control has the real ones.
    auto jails = JailHost::open({.mode = "off",
                                 .jailer_path = runfile("jailer/mayfly-jailer"),
                                 .vmm_path = runfile("daemon/testing/fake_vmm"),
                                 .state_dir = root_});
    jails_ = *std::move(jails);
    environment_ = std::unique_ptr<VmEnvironment>(new VmEnvironment{
        .reactor = *reactor_,
        .events = events,
        .vms_dir = vms_dir(),
        .jails = *jails_,
        .agent_initrd = root_ / "agent",
        .kvm_path = "/dev/null",
    });
    shells = std::make_unique<ShellPool>(*environment_);
    templates = std::make_unique<TemplateStore>(*shells);
    manager = std::make_unique<VmManager>(*environment_, [](const VmSpec&) { return Result<>(); });
    exports = std::make_unique<MemoryExports>(*reactor_, exports_dir());
    memory = std::make_unique<MemoryManager>(*manager, *exports);
    auto store = SnapshotStore::open(root_ / "snapshots");
    store_ = *std::move(store);
    snapshots = std::make_unique<SnapshotManager>(
        *manager, *store_, MemoryPlaces{*templates, lazy_}, events,
        [this] { return Result<snapshot::HostDescription>(host); });
  }
  ~Rig() {
    snapshots.reset();
    memory.reset();
    exports.reset();
    templates.reset();
    shells.reset();
    manager.reset();
    reactor_.reset();
    std::filesystem::remove_all(root_);
  }

  std::string vms_dir() const { return root_ / "vms"; }
  std::string exports_dir() const { return root_ / "exports"; }
  std::string store_dir() const { return root_ / "snapshots"; }
  std::string path(const char* name) const { return root_ / name; }
  void write(const char* name, size_t bytes) {
    std::ofstream(root_ / name) << std::string(bytes, 'x');
  }

  CreateRequest request(const std::string& id, const std::string& words = "",
                        bool start = true) const {
    CreateRequest request;
    request.vm_id = id;
    request.start = start;
    request.spec.memory_mib = 16;
    request.spec.kernel_path = path("kernel");
    request.spec.cmdline = words;
    return request;
  }

  EventLog events{"epoch"};
  // Looked at once. The fake's vCPUs need nothing of a host.
  snapshot::HostDescription host{.cpu_vendor = std::string(12, '?'),
                                 .cpuid = {},
                                 .msrs = {},
                                 .xsave_features = 0,
                                 .page_bytes = snapshot::kPageBytes,
                                 .tsc_khz = 1000,
                                 .can_scale_tsc = false,
                                 .kvm_clock = false};
  std::unique_ptr<VmManager> manager;
  std::unique_ptr<MemoryExports> exports;
  std::unique_ptr<MemoryManager> memory;
  std::unique_ptr<ShellPool> shells;
  std::unique_ptr<TemplateStore> templates;
  std::unique_ptr<SnapshotManager> snapshots;

 private:
  std::filesystem::path root_;
  std::unique_ptr<Reactor> reactor_;
  std::unique_ptr<JailHost> jails_;
  std::unique_ptr<VmEnvironment> environment_;
  std::unique_ptr<SnapshotStore> store_;
  LazyServer lazy_{2};
};

/// All that the VM has printed.
inline std::string console_of(Rig& rig, const std::string& vm_id) {
  auto vm = rig.manager->find(vm_id);
  return (*(*vm)->console(soon()))->read(0).data;
}

}  // namespace mayfly::daemon::testing
