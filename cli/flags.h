// SPDX-License-Identifier: Apache-2.0
//
// What the command line says; filled by the parser, read by the commands.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::cli {

struct GlobalFlags {
  std::string socket;
  bool json = false;
  // Seconds; 0: none.
  double timeout_s = 0;
};

struct LimitFlags {
  std::optional<double> cpus;
  std::optional<uint32_t> cpu_weight;
  std::optional<uint64_t> memory_limit_mib;
  std::optional<uint32_t> pids_max;
};

struct VmFlags {
  std::string kernel;
  std::string rootfs;
  bool read_only = false;
  std::vector<std::string> disks;
  std::vector<std::string> initrds;
  std::optional<uint32_t> vcpus;
  std::optional<uint64_t> memory_mib;
  std::string cmdline;
  bool replace_cmdline = false;
  bool no_agent = false;
  bool allow_slow_kvm = false;
  bool debug_serial = false;
  // Empty: no balloon.
  std::string balloon;
  LimitFlags limits;
  std::vector<std::string> disk_limits;
  std::vector<std::string> nets;
  // A file. Empty: none.
  std::string metadata;
};

/// Who runs a command in a guest, by numbers.
struct UserFlags {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> groups;
};

struct CommandFlags {
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::string workdir;
  bool terminal = false;
  bool no_stdin = false;
  // As given; and as it is meant, once it is known. Neither: root.
  std::string user;
  std::optional<UserFlags> ids;
};

struct RunFlags {
  VmFlags vm;
  // Of the store; empty: vm.rootfs counts.
  std::string image;
  bool writable = false;
  // Of the daemon that `run` starts for itself; empty: its default.
  std::string jail;
  CommandFlags command;
  bool timing = false;
  bool console = false;
};

struct CreateFlags {
  std::string vm_id;
  VmFlags vm;
  bool start = false;
  std::string request_id;
};

struct ConsoleFlags {
  std::string vm_id;
  uint64_t offset = 0;
  bool follow = false;
  bool attach = false;
};

struct WaitFlags {
  std::string vm_id;
  std::vector<std::string> states;
  bool ready = false;
};

struct EventFlags {
  std::string vm_id;
  std::string resume_token;
  bool from_oldest = false;
};

struct StopFlags {
  std::string vm_id;
  std::optional<double> grace_s;
};

struct UpdateFlags {
  std::string vm_id;
  std::optional<uint64_t> balloon_target_mib;
  // A file. Empty: it stays as it is.
  std::string metadata;
  bool no_metadata = false;
};

struct RemoveFlags {
  std::vector<std::string> vm_ids;
  bool force = false;
};

struct SnapshotFlags {
  std::string vm_id;
  std::string snapshot_id;
  bool diff = false;
  bool state_only = false;
  bool stay_paused = false;
  bool caller_keeps_disks = false;
  bool compress = false;
};

struct TemplateFlags {
  std::string template_id;
  std::string snapshot_id;
  uint32_t shells = 0;
};

struct RebaseFlags {
  std::string snapshot_id;
  std::string onto_id;
  bool full = false;
  std::string new_snapshot_id;
};

/// Of VMs that go on from a snapshot, a template or a VM.
struct RestoreFlags {
  // Of /dev/vda, /dev/vdb, ... or with that name and a `=` before it.
  std::vector<std::string> disks;
  std::vector<std::string> nets;
  std::optional<uint64_t> guest_cid;
  bool paused = false;
  bool wait_reseeded = false;
  std::optional<double> reseed_timeout_s;
  bool allow_slow_kvm = false;
  // Empty, or lazy, balanced or latency.
  std::string memory_policy;
  bool record_working_set = false;
  LimitFlags limits;
  // As in VmFlags.
  std::string metadata;
  // Empty: not from a template.
  std::string template_id;
  // `restore` alone. The snapshot's, unless there is a template_id, and the VM's.
  std::vector<std::string> restore_ids;
  std::string memory;
  bool verify_memory = false;
  bool lazy_memory = false;
  std::string memory_handler;
  std::string request_id;
  // `clone` alone: one of snapshot_id, template_id and source_vm_id.
  std::string snapshot_id;
  std::string source_vm_id;
  std::vector<std::string> clone_ids;
  bool caller_keeps_disks = false;
};

struct ImageFlags {
  std::string source;
  std::string name;
  std::string ref;
  uint64_t size_mib = 0;
  // `inspect` and `rm`.
  std::vector<std::string> names;
};

struct MemoryFlags {
  std::string vm_id;
  // `describe` alone.
  bool count_pages = false;
  // `query` alone.
  uint64_t first_page = 0;
  uint64_t page_count = 0;
  std::vector<std::string> kinds;
  // `export` alone.
  bool frozen = false;
  std::string file;
};

}  // namespace mayfly::cli
