// SPDX-License-Identifier: Apache-2.0
#include "base/wire.h"
#include "vmm/control/message.h"
#include "vmm/control/request.h"

#include <algorithm>
#include <utility>

namespace mayfly::vmm {
namespace {

// Descriptors by their place in the packet; each may be named once.
class Descriptors {
 public:
  explicit Descriptors(std::vector<Fd> fds) : fds_(std::move(fds)) {}

  Result<Fd> take(uint32_t index, const char* field) {
    if (index >= fds_.size()) {
      return fail({Code::kInvalidArgument, "DESCRIPTOR_INDEX"},
                  "%s: descriptor %u is named, %zu came with the call", field, index, fds_.size());
    }
    if (!fds_[index].valid()) {
      return fail({Code::kInvalidArgument, "DESCRIPTOR_TWICE"}, "%s: descriptor %u is named twice",
                  field, index);
    }
    return std::move(fds_[index]);
  }

 private:
  std::vector<Fd> fds_;
};

Result<std::vector<DiskConfig>> take_disks(const std::vector<message::Disk>& messages,
                                           Descriptors& fds) {
  std::vector<DiskConfig> disks;
  for (const message::Disk& disk : messages) {
    disks.push_back({
        .file = TRY(fds.take(disk.fd, "disks.fd")),
        .access = disk.read_only ? DiskAccess::kReadOnly : DiskAccess::kReadWrite,
        .serial = disk.serial,
    });
  }
  return disks;
}

Result<std::vector<NetConfig>> take_nets(const std::vector<message::Net>& messages,
                                         Descriptors& fds) {
  std::vector<NetConfig> nets;
  for (const message::Net& message : messages) {
    NetConfig& net = nets.emplace_back();
    if (message.stream_fd) {
      net.stream = TRY(fds.take(*message.stream_fd, "nets.stream_fd"));
    } else {
      net.tap = TRY(fds.take(message.tap_fd, "nets.tap_fd"));
    }
    if (message.mac.size() != net.mac.size()) {
      return fail({Code::kInvalidArgument, "NET_MAC"}, "nets.mac: %zu bytes, where %zu belong",
                  message.mac.size(), net.mac.size());
    }
    std::ranges::copy(message.mac, net.mac.begin());
    if (message.mtu > virtio::net::kMaxMtu) {
      return fail({Code::kInvalidArgument, "NET_MTU"}, "nets.mtu: %u is above %u", message.mtu,
                  virtio::net::kMaxMtu);
    }
    net.mtu = static_cast<uint16_t>(message.mtu);
  }
  return nets;
}

Result<VsockConfig> take_vsock(const message::Vsock& message, Descriptors& fds) {
  VsockConfig vsock;
  vsock.guest_cid = message.guest_cid;
  for (const message::VsockPort& port : message.host_ports) {
    vsock.host_ports.push_back({port.port, TRY(fds.take(port.fd, "vsock.host_ports.fd"))});
  }
  return vsock;
}

Result<ConsoleConfig> take_console(const message::Console& message, Descriptors& fds) {
  ConsoleConfig console;
  console.ring = TRY(fds.take(message.ring_fd, "console.ring_fd"));
  console.output_event = TRY(fds.take(message.output_event_fd, "console.output_event_fd"));
  console.input = TRY(fds.take(message.input_fd, "console.input_fd"));
  return console;
}

Result<MemoryLayer> take_layer(const message::Layer& message, Descriptors& fds,
                               const std::string& field) {
  MemoryLayer layer;
  layer.memory = TRY(fds.take(message.memory_fd, (field + ".memory_fd").c_str()));
  layer.pages = TRY(fds.take(message.pages_fd, (field + ".pages_fd").c_str()));
  return layer;
}

Result<std::optional<boot::GenerationId>> take_generation_id(const std::string& bytes,
                                                             const char* field) {
  if (bytes.empty()) return std::nullopt;
  boot::GenerationId id;
  if (bytes.size() != id.size()) {
    return fail({Code::kInvalidArgument, "GENERATION_ID"},
                "%s: %zu bytes, where %zu or none belong", field, bytes.size(), id.size());
  }
  std::ranges::copy(std::as_bytes(std::span(bytes)), id.begin());
  return id;
}

Result<RestoreConfig> take_restore(const message::Restore& message, Descriptors& fds) {
  RestoreConfig restore;
  restore.state = TRY(fds.take(message.state_fd, "restore.state_fd"));
  restore.sharing = message.private_memory ? MemorySharing::kPrivate : MemorySharing::kShared;
  for (const message::Layer& layer : message.layers) {
    restore.layers.push_back(TRY(take_layer(layer, fds, "restore.layers")));
  }
  restore.generation_id = TRY(take_generation_id(message.generation_id, "restore.generation_id"));
  restore.parks = message.park;
  for (const message::ChunkRun& run : message.copied_chunks) {
    restore.copied_chunks.push_back({.first = run.first, .count = run.count});
  }
  if (message.record_touched) {
    restore.record.emplace();
    if (message.record_touched->has_userfault_device) {
      restore.record->userfault_device =
          TRY(fds.take(message.record_touched->userfault_device_fd,
                       "restore.record_touched.userfault_device_fd"));
    }
  }
  restore.is_mapped = message.mapped_memory;
  return restore;
}

Result<> take_kernel(const message::Configure& message, Descriptors& fds, MachineConfig& machine) {
  machine.command_line = message.cmdline;
  machine.kernel = TRY(fds.take(message.kernel_fd, "kernel_fd"));
  for (const uint32_t fd : message.initrd_fds) {
    machine.initrds.push_back(TRY(fds.take(fd, "initrd_fds")));
  }
  return {};
}

Result<Configure> take_configure(const message::Configure& message, Descriptors fds) {
  Configure configure;
  MachineConfig& machine = configure.machine;
  machine.vcpu_count = message.vcpu_count;
  machine.memory_bytes = message.memory_bytes;
  machine.kvm = TRY(fds.take(message.kvm_fd, "kvm_fd"));
  if (!message.restore || !message.restore->mapped_memory) {
    machine.memory = TRY(fds.take(message.memory_fd, "memory_fd"));
  }
  machine.exit_report = TRY(fds.take(message.exit_report_fd, "exit_report_fd"));
  if (message.restore) {
    machine.restore = TRY(take_restore(*message.restore, fds));
  } else {
    TRY(take_kernel(message, fds, machine));
  }
  machine.disks = TRY(take_disks(message.disks, fds));
  machine.nets = TRY(take_nets(message.nets, fds));
  machine.console = TRY(take_console(message.console, fds));
  if (message.vsock) machine.vsock = TRY(take_vsock(*message.vsock, fds));
  if (message.balloon) {
    machine.balloon =
        BalloonConfig{.target_pages = message.balloon->target_pages,
                      .options = {.deflate_on_oom = message.balloon->deflate_on_oom,
                                  .free_page_reporting = message.balloon->free_page_reporting,
                                  .stats_interval_s = message.balloon->stats_interval_s}};
  }
  machine.has_rng = !message.no_rng;
  machine.has_debug_serial = message.debug_serial;
  machine.start = message.start ? StartMode::kRunning : StartMode::kStopped;
  machine.end_on_disconnect = message.end_on_disconnect;
  TRY(validate(machine));
  return configure;
}

Result<Save> take_save(const message::Save& message, Descriptors& fds) {
  Save save;
  save.what.state = TRY(fds.take(message.state_fd, "save.state_fd"));
  if (message.leave_memory) return save;
  if (message.state_only) {
    save.what.memory = LeftAlone{};
    return save;
  }
  if (!message.changed_pages) {
    return fail({Code::kInvalidArgument, "SAVE_WHAT"},
                "save: none of leave_memory, changed_pages and state_only is said");
  }
  ChangedPages changed;
  changed.layer = TRY(take_layer(message.changed_pages->layer, fds, "save.changed_pages.layer"));
  save.what.memory = std::move(changed);
  return save;
}

Result<Claim> take_claim(const message::Claim& message, Descriptors& fds) {
  Claim claim;
  claim.what.generation_id = TRY(take_generation_id(message.generation_id, "claim.generation_id"));
  if (message.vsock) claim.what.vsock = TRY(take_vsock(*message.vsock, fds));
  claim.what.disks = TRY(take_disks(message.disks, fds));
  claim.what.nets = TRY(take_nets(message.nets, fds));
  claim.what.start = message.start ? StartMode::kRunning : StartMode::kStopped;
  TRY(validate(claim.what));
  return claim;
}

Result<MapMemory> take_map_memory(const message::MapMemory& message, Descriptors& fds) {
  MapMemory map;
  map.memory.size_bytes = message.memory_bytes;
  map.memory.file = TRY(fds.take(message.memory_fd, "map_memory.memory_fd"));
  map.memory.userfault_device =
      TRY(fds.take(message.userfault_device_fd, "map_memory.userfault_device_fd"));
  map.memory.guard = TRY(fds.take(message.guard_fd, "map_memory.guard_fd"));
  TRY(validate(map.memory));
  return map;
}

using Call = decltype(Request::call);

Call plain_call(message::Plain call) {
  switch (call) {
    case message::Plain::kStart:
      return Start{};
    case message::Plain::kPause:
      return Pause{};
    case message::Plain::kResume:
      return Resume{};
    case message::Plain::kStop:
      return Stop{};
    case message::Plain::kGetStats:
      return GetStats{};
    case message::Plain::kGetMemory:
      return GetMemory{};
    case message::Plain::kGetBalloon:
      return GetBalloon{};
  }
  CHECK(false);
}

Result<Call> take_call(const message::Request& request, Descriptors fds) {
  if (const auto* configure = std::get_if<message::Configure>(&request.call)) {
    return Call(TRY(take_configure(*configure, std::move(fds))));
  }
  if (const auto* connect = std::get_if<message::VsockPort>(&request.call)) {
    return Call(VsockConnect{connect->port, TRY(fds.take(connect->fd, "vsock_connect.fd"))});
  }
  if (const auto* save = std::get_if<message::Save>(&request.call)) {
    return Call(TRY(take_save(*save, fds)));
  }
  if (const auto* claim = std::get_if<message::Claim>(&request.call)) {
    return Call(TRY(take_claim(*claim, fds)));
  }
  if (const auto* get = std::get_if<message::GetTouchedPages>(&request.call)) {
    TouchedFiles files;
    files.touched = TRY(fds.take(get->touched_fd, "get_touched_pages.touched_fd"));
    files.written = TRY(fds.take(get->written_fd, "get_touched_pages.written_fd"));
    return Call(GetTouchedPages{std::move(files)});
  }
  if (const auto* get = std::get_if<message::GetPages>(&request.call)) {
    return Call(GetPages{{.first_page = get->first_page,
                          .page_count = get->page_count,
                          .find_zero = get->find_zero}});
  }
  if (const auto* map = std::get_if<message::MapMemory>(&request.call)) {
    return Call(TRY(take_map_memory(*map, fds)));
  }
  if (const auto* set = std::get_if<message::SetBalloon>(&request.call)) {
    return Call(SetBalloon{.target_pages = set->target_pages});
  }
  if (const auto* plain = std::get_if<message::Plain>(&request.call)) return plain_call(*plain);
  return fail({Code::kUnimplemented, "UNKNOWN_CALL"}, "request %llu has no call this monitor knows",
              static_cast<unsigned long long>(request.id));
}

// Phases, Stats and Saved are numbered from 1 in the order of their structs.
WireWriter encode(const Phases& phases) {
  const uint64_t fields[] = {
      phases.main_ns,   phases.received_ns,      phases.memory_ns,     phases.vm_ns,
      phases.kernel_ns, phases.devices_ns,       phases.vcpus_ns,      phases.running_ns,
      phases.claim_ns,  phases.claim_devices_ns, phases.claim_vcpus_ns};
  WireWriter message;
  message.numbers(fields);
  return message;
}

WireWriter encode(const MachineStats& stats) {
  const uint64_t fields[] = {
      stats.exits_io,           stats.exits_mmio,    stats.exits_halt,      stats.exits_other,
      stats.interrupts,         stats.disk_reads,    stats.disk_read_bytes, stats.disk_writes,
      stats.disk_written_bytes, stats.disk_flushes,  stats.disk_errors,     stats.vsock_rx_bytes,
      stats.vsock_tx_bytes,     stats.console_bytes, stats.net_rx_frames,   stats.net_rx_bytes,
      stats.net_tx_frames,      stats.net_tx_bytes,  stats.net_dropped};
  WireWriter message;
  message.numbers(fields);
  return message;
}

WireWriter encode(const Saved& saved) {
  const uint64_t fields[] = {saved.tsc_khz, saved.page_count, saved.state_ns, saved.memory_ns};
  WireWriter message;
  message.numbers(fields);
  return message;
}

WireWriter encode(const TouchedPages& pages) {
  const uint64_t fields[] = {pages.touched_count, pages.written_count, pages.is_exact ? 1u : 0u};
  WireWriter message;
  message.numbers(fields);
  return message;
}

WireWriter encode(const Memory& memory) {
  WireWriter message;
  message.number(1, memory.is_private ? 1 : 0);
  return message;
}

WireWriter encode(const PageReport& report) {
  WireWriter message;
  message.text(1, report.resident);
  message.text(2, report.own);
  message.text(3, report.swapped);
  message.text(4, report.zero);
  return message;
}

WireWriter encode(const MappedMemory& mapped) {
  WireWriter message;
  for (const GuestMemory::Region& each : mapped.regions) {
    const uint64_t fields[] = {each.start.value, each.size, each.file_offset, each.host_address};
    WireWriter region;
    region.numbers(fields);
    message.message(1, region);
  }
  return message;
}

WireWriter encode(const BalloonReport& report) {
  const bool has_stats = report.stats.at_ns != 0;
  const uint64_t fields[] = {report.target_pages,
                             report.actual_pages,
                             report.counters.inflated_pages,
                             report.counters.reported_pages,
                             report.counters.failures,
                             has_stats ? 1u : 0u,
                             report.stats_age_ns};
  WireWriter message;
  message.numbers(fields);
  for (uint32_t tag = 0; tag < report.stats.values.size(); ++tag) {
    if (!report.stats.values[tag]) continue;
    const uint64_t stat[] = {tag, *report.stats.values[tag]};
    WireWriter added;
    added.numbers(stat);
    message.message(8, added);
  }
  return message;
}

WireWriter encode(const Error& error) {
  WireWriter status;
  status.number(1, static_cast<uint64_t>(error.code()));
  status.text(2, error.reason());
  status.text(3, error.message());
  return status;
}

}  // namespace

std::expected<Request, Refusal> parse_request(std::span<const std::byte> packet,
                                              std::vector<Fd> descriptors) {
  Result<message::Request> message = message::parse(packet);
  if (!message) return std::unexpected(Refusal{0, std::move(message).error()});
  Result<Call> call = take_call(*message, Descriptors(std::move(descriptors)));
  if (!call) return std::unexpected(Refusal{message->id, std::move(call).error()});
  return Request{message->id, *std::move(call)};
}

std::string make_reply(uint64_t id, const Result<Answer>& result) {
  constexpr uint32_t kId = 1, kStatus = 2, kPhases = 3, kStats = 4, kSaved = 5, kMemory = 6,
                     kPages = 7, kMapped = 9, kTouchedPages = 11, kBalloon = 12;
  WireWriter reply;
  reply.number(kId, id);
  if (!result) {
    reply.message(kStatus, encode(result.error()));
  } else if (const auto* phases = std::get_if<Phases>(&*result)) {
    reply.message(kPhases, encode(*phases));
  } else if (const auto* stats = std::get_if<MachineStats>(&*result)) {
    reply.message(kStats, encode(*stats));
  } else if (const auto* saved = std::get_if<Saved>(&*result)) {
    reply.message(kSaved, encode(*saved));
  } else if (const auto* memory = std::get_if<Memory>(&*result)) {
    reply.message(kMemory, encode(*memory));
  } else if (const auto* touched = std::get_if<TouchedPages>(&*result)) {
    reply.message(kTouchedPages, encode(*touched));
  } else if (const auto* pages = std::get_if<PageReport>(&*result)) {
    reply.message(kPages, encode(*pages));
  } else if (const auto* mapped = std::get_if<MappedMemory>(&*result)) {
    reply.message(kMapped, encode(*mapped));
  } else if (const auto* balloon = std::get_if<BalloonReport>(&*result)) {
    reply.message(kBalloon, encode(*balloon));
  }
  return std::move(reply).take();
}

std::string make_exit_report(const ExitReport& report) {
  constexpr uint32_t kReason = 1, kDetail = 2, kStats = 3, kPhases = 4, kEndedNs = 5;
  WireWriter message;
  message.number(kReason, static_cast<uint64_t>(report.reason));
  message.text(kDetail, report.detail);
  message.message(kStats, encode(report.stats));
  message.message(kPhases, encode(report.phases));
  message.number(kEndedNs, report.ended_ns);
  return std::move(message).take();
}

}  // namespace mayfly::vmm
