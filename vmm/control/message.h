// SPDX-License-Identifier: Apache-2.0
//
// The requests of proto/control.proto as they came: plain values whose names are the fields', not
// yet looked at (convert.cc does that). Descriptors are places in the packet's list. What a message
// does not say is 0, as in proto3; a field that comes twice counts as it came last.
#pragma once

#include "base/error.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace mayfly::vmm::message {

struct Disk {
  uint32_t fd = 0;
  bool read_only = false;
  std::string serial;
};

struct Net {
  uint32_t tap_fd = 0;
  /// Instead of tap_fd.
  std::optional<uint32_t> stream_fd;
  std::string mac;
  uint32_t mtu = 0;
};

struct Console {
  uint32_t ring_fd = 0;
  uint32_t output_event_fd = 0;
  uint32_t input_fd = 0;
};

/// VsockPort, and VsockConnect, which has the same fields.
struct VsockPort {
  uint32_t port = 0;
  uint32_t fd = 0;
};

struct Vsock {
  uint64_t guest_cid = 0;
  std::vector<VsockPort> host_ports;
};

struct Layer {
  uint32_t memory_fd = 0;
  uint32_t pages_fd = 0;
};

struct ChunkRun {
  uint32_t first = 0;
  uint32_t count = 0;
};

struct RecordTouched {
  bool has_userfault_device = false;
  uint32_t userfault_device_fd = 0;
};

struct Restore {
  uint32_t state_fd = 0;
  bool private_memory = false;
  std::vector<Layer> layers;
  std::string generation_id;
  bool park = false;
  std::vector<ChunkRun> copied_chunks;
  std::optional<RecordTouched> record_touched;
  bool mapped_memory = false;
};

struct Claim {
  std::string generation_id;
  std::optional<Vsock> vsock;
  std::vector<Disk> disks;
  bool start = false;
  std::vector<Net> nets;
};

struct MapMemory {
  uint32_t memory_fd = 0;
  uint64_t memory_bytes = 0;
  uint32_t userfault_device_fd = 0;
  uint32_t guard_fd = 0;
};

struct Balloon {
  uint64_t target_pages = 0;
  bool deflate_on_oom = false;
  bool free_page_reporting = false;
  uint32_t stats_interval_s = 0;
};

struct SetBalloon {
  uint64_t target_pages = 0;
};

struct Configure {
  uint32_t vcpu_count = 0;
  uint64_t memory_bytes = 0;
  std::string cmdline;
  uint32_t kvm_fd = 0;
  uint32_t memory_fd = 0;
  uint32_t kernel_fd = 0;
  std::vector<uint32_t> initrd_fds;
  std::vector<Disk> disks;
  Console console;
  std::optional<Vsock> vsock;
  bool no_rng = false;
  uint32_t exit_report_fd = 0;
  bool start = false;
  bool end_on_disconnect = false;
  bool debug_serial = false;
  std::optional<Restore> restore;
  std::optional<Balloon> balloon;
  std::vector<Net> nets;
};

struct ChangedPages {
  Layer layer;
};

struct Save {
  uint32_t state_fd = 0;
  /// Of the three that came last.
  bool leave_memory = false;
  bool state_only = false;
  std::optional<ChangedPages> changed_pages;
};

struct GetTouchedPages {
  uint32_t touched_fd = 0;
  uint32_t written_fd = 0;
};

struct GetPages {
  uint64_t first_page = 0;
  uint32_t page_count = 0;
  bool find_zero = false;
};

/// The calls without fields, by their number in Request.
enum class Plain : uint32_t {
  kStart = 3,
  kPause = 4,
  kResume = 5,
  kStop = 6,
  kGetStats = 8,
  kGetMemory = 10,
  kGetBalloon = 18,
};

struct Request {
  uint64_t id = 0;
  /// monostate: none that is known.
  std::variant<std::monostate, Configure, Plain, VsockPort, Save, Claim, GetTouchedPages, GetPages,
               MapMemory, SetBalloon>
      call;
};

/// Hostile bytes. What they hold is bounded by their own size.
Result<Request> parse(std::span<const std::byte> packet);

}  // namespace mayfly::vmm::message
