// SPDX-License-Identifier: Apache-2.0
#include "daemon/control_codec.h"

#include "daemon/text.h"
#include "proto/control.pb.h"

#include <algorithm>

namespace mayfly::daemon {

namespace {

constexpr size_t kMaxTextBytes = 2048;

/// Adds a descriptor to the packet's list and gives its place there.
uint32_t place(ControlPacket& packet, FdRef fd) {
  packet.fds.push_back(fd);
  return static_cast<uint32_t>(packet.fds.size() - 1);
}

void place(ControlPacket& packet, const LayerParams& layer, control::Layer& out) {
  out.set_memory_fd(place(packet, layer.memory));
  out.set_pages_fd(place(packet, layer.pages));
}

void place(ControlPacket& packet, const std::vector<ConfigureDisk>& disks,
           google::protobuf::RepeatedPtrField<control::Disk>& out) {
  for (const ConfigureDisk& disk : disks) {
    control::Disk& added = *out.Add();
    added.set_fd(place(packet, disk.fd));
    added.set_read_only(disk.read_only);
    added.set_serial(disk.serial);
  }
}

void place(ControlPacket& packet, const std::vector<ConfigureNet>& nets,
           google::protobuf::RepeatedPtrField<control::Net>& out) {
  for (const ConfigureNet& net : nets) {
    control::Net& added = *out.Add();
    if (net.tap.valid()) added.set_tap_fd(place(packet, net.tap));
    if (net.stream.valid()) added.set_stream_fd(place(packet, net.stream));
    added.set_mac(net.mac.data(), net.mac.size());
    added.set_mtu(net.mtu);
  }
}

void place(ControlPacket& packet, uint64_t guest_cid, const std::vector<HostPort>& ports,
           control::Vsock& out) {
  out.set_guest_cid(guest_cid);
  for (const HostPort& port : ports) {
    control::VsockPort& added = *out.add_host_ports();
    added.set_port(port.port);
    added.set_fd(place(packet, port.fd));
  }
}

MonitorPhases from_proto(const control::Phases& in) {
  return {in.main_ns(),   in.received_ns(),      in.memory_ns(),     in.vm_ns(),
          in.kernel_ns(), in.devices_ns(),       in.vcpus_ns(),      in.running_ns(),
          in.claim_ns(),  in.claim_devices_ns(), in.claim_vcpus_ns()};
}

MonitorStats from_proto(const control::Stats& in) {
  return {
      .exits_io = in.exits_io(),
      .exits_mmio = in.exits_mmio(),
      .exits_halt = in.exits_halt(),
      .exits_other = in.exits_other(),
      .interrupts = in.interrupts(),
      .disk_reads = in.disk_reads(),
      .disk_read_bytes = in.disk_read_bytes(),
      .disk_writes = in.disk_writes(),
      .disk_written_bytes = in.disk_written_bytes(),
      .disk_flushes = in.disk_flushes(),
      .disk_errors = in.disk_errors(),
      .vsock_rx_bytes = in.vsock_rx_bytes(),
      .vsock_tx_bytes = in.vsock_tx_bytes(),
      .console_bytes = in.console_bytes(),
      .net_rx_frames = in.net_rx_frames(),
      .net_rx_bytes = in.net_rx_bytes(),
      .net_tx_frames = in.net_tx_frames(),
      .net_tx_bytes = in.net_tx_bytes(),
      .net_dropped = in.net_dropped(),
  };
}

MonitorBalloon from_proto(const control::BalloonState& in) {
  MonitorBalloon balloon{.target_pages = in.target_pages(),
                         .actual_pages = in.actual_pages(),
                         .inflated_pages = in.inflated_pages(),
                         .reported_pages = in.reported_pages(),
                         .stats = std::nullopt};
  if (!in.has_stats()) return balloon;
  balloon.stats.emplace().age_ns = in.stats_age_ns();
  for (const control::BalloonStat& stat : in.stats()) {
    if (stat.tag() < balloon.stats->values.size()) balloon.stats->values[stat.tag()] = stat.value();
  }
  return balloon;
}

/// The monitor's name for one of its threads, as one printable word.
std::string word(std::string_view text) {
  std::string out = printable(text, kMaxThreadNameBytes);
  std::replace_if(out.begin(), out.end(), [](char c) { return c <= ' '; }, '?');
  return out;
}

}  // namespace

ControlPacket encode_configure(uint64_t id, const ConfigureParams& params) {
  ControlPacket packet;
  control::Request request;
  request.set_id(id);
  control::Configure& out = *request.mutable_configure();
  out.set_vcpu_count(params.vcpus);
  out.set_memory_bytes(params.memory_bytes);
  out.set_cmdline(params.cmdline);
  out.set_kvm_fd(place(packet, params.kvm));
  const bool is_mapped = params.restore && params.restore->is_mapped;
  if (!is_mapped) out.set_memory_fd(place(packet, params.memory));
  if (!params.restore) out.set_kernel_fd(place(packet, params.kernel));
  for (const FdRef initrd : params.initrds) out.add_initrd_fds(place(packet, initrd));
  place(packet, params.disks, *out.mutable_disks());
  place(packet, params.nets, *out.mutable_nets());
  out.mutable_console()->set_ring_fd(place(packet, params.console_ring));
  out.mutable_console()->set_output_event_fd(place(packet, params.console_event));
  out.mutable_console()->set_input_fd(place(packet, params.console_input));
  if (params.guest_cid != 0) {
    place(packet, params.guest_cid, params.host_ports, *out.mutable_vsock());
  }
  out.set_exit_report_fd(place(packet, params.exit_report));
  out.set_start(params.start);
  out.set_end_on_disconnect(params.end_on_disconnect);
  out.set_debug_serial(params.debug_serial);
  if (params.balloon) {
    control::Balloon& balloon = *out.mutable_balloon();
    balloon.set_target_pages(params.balloon->target_pages);
    balloon.set_deflate_on_oom(params.balloon->options.deflate_on_oom);
    balloon.set_free_page_reporting(params.balloon->options.free_page_reporting);
    balloon.set_stats_interval_s(params.balloon->options.stats_interval_s);
  }
  if (params.restore) {
    control::Restore& restore = *out.mutable_restore();
    restore.set_state_fd(place(packet, params.restore->state));
    restore.set_private_memory(!is_mapped);
    restore.set_mapped_memory(is_mapped);
    for (const LayerParams& layer : params.restore->layers) {
      place(packet, layer, *restore.add_layers());
    }
    restore.set_generation_id(params.restore->generation_id);
    for (const ChunkRun& run : params.restore->copied_chunks) {
      control::ChunkRun& added = *restore.add_copied_chunks();
      added.set_first(run.first);
      added.set_count(run.count);
    }
    if (params.restore->record_touched) {
      control::RecordTouched& record = *restore.mutable_record_touched();
      record.set_has_userfault_device(params.restore->userfault_device.valid());
      if (params.restore->userfault_device.valid()) {
        record.set_userfault_device_fd(place(packet, params.restore->userfault_device));
      }
    }
    restore.set_park(params.restore->parks);
  }
  packet.bytes = request.SerializeAsString();
  return packet;
}

ControlPacket encode_claim(uint64_t id, const ClaimParams& params) {
  ControlPacket packet;
  control::Request request;
  request.set_id(id);
  control::Claim& out = *request.mutable_claim();
  out.set_generation_id(params.generation_id);
  if (params.guest_cid != 0) {
    place(packet, params.guest_cid, params.host_ports, *out.mutable_vsock());
  }
  place(packet, params.disks, *out.mutable_disks());
  place(packet, params.nets, *out.mutable_nets());
  out.set_start(params.start);
  packet.bytes = request.SerializeAsString();
  return packet;
}

ControlPacket encode_save(uint64_t id, const SaveParams& params) {
  ControlPacket packet;
  control::Request request;
  request.set_id(id);
  control::Save& out = *request.mutable_save();
  out.set_state_fd(place(packet, params.state));
  if (params.state_only) {
    out.set_state_only(true);
  } else if (params.changed_pages) {
    place(packet, *params.changed_pages, *out.mutable_changed_pages()->mutable_layer());
  } else {
    out.set_leave_memory(true);
  }
  packet.bytes = request.SerializeAsString();
  return packet;
}

ControlPacket encode_get_touched_pages(uint64_t id, FdRef touched, FdRef written) {
  ControlPacket packet;
  control::Request request;
  request.set_id(id);
  control::GetTouchedPages& out = *request.mutable_get_touched_pages();
  out.set_touched_fd(place(packet, touched));
  out.set_written_fd(place(packet, written));
  packet.bytes = request.SerializeAsString();
  return packet;
}

ControlPacket encode_map_memory(uint64_t id, const MapMemoryParams& params) {
  ControlPacket packet;
  control::Request request;
  request.set_id(id);
  control::MapMemory& out = *request.mutable_map_memory();
  out.set_memory_fd(place(packet, params.memory));
  out.set_memory_bytes(params.memory_bytes);
  out.set_userfault_device_fd(place(packet, params.userfault_device));
  out.set_guard_fd(place(packet, params.guard));
  packet.bytes = request.SerializeAsString();
  return packet;
}

ControlPacket encode_get_pages(uint64_t id, const PageQuery& query) {
  control::Request request;
  request.set_id(id);
  control::GetPages& out = *request.mutable_get_pages();
  out.set_first_page(query.first_page);
  out.set_page_count(query.page_count);
  out.set_find_zero(query.find_zero);
  return {.bytes = request.SerializeAsString(), .fds = {}};
}

ControlPacket encode_command(uint64_t id, Command command) {
  control::Request request;
  request.set_id(id);
  switch (command) {
    case Command::kStart:
      request.mutable_start();
      break;
    case Command::kPause:
      request.mutable_pause();
      break;
    case Command::kResume:
      request.mutable_resume();
      break;
    case Command::kStop:
      request.mutable_stop();
      break;
  }
  return {.bytes = request.SerializeAsString(), .fds = {}};
}

ControlPacket encode_set_balloon(uint64_t id, uint64_t target_pages) {
  control::Request request;
  request.set_id(id);
  request.mutable_set_balloon()->set_target_pages(target_pages);
  return {.bytes = request.SerializeAsString(), .fds = {}};
}

ControlPacket encode_get_balloon(uint64_t id) {
  control::Request request;
  request.set_id(id);
  request.mutable_get_balloon();
  return {.bytes = request.SerializeAsString(), .fds = {}};
}

ControlPacket encode_vsock_connect(uint64_t id, uint32_t port, FdRef fd) {
  ControlPacket packet;
  control::Request request;
  request.set_id(id);
  request.mutable_vsock_connect()->set_port(port);
  request.mutable_vsock_connect()->set_fd(place(packet, fd));
  packet.bytes = request.SerializeAsString();
  return packet;
}

Result<ControlReply> parse_reply(std::span<const std::byte> packet) {
  control::Reply in;
  if (packet.size() > kMaxControlBytes ||
      !in.ParseFromArray(packet.data(), static_cast<int>(packet.size()))) {
    return fail({Code::kUnavailable, "MONITOR_REPLY"},
                "the monitor sent a malformed reply of %zu bytes", packet.size());
  }
  ControlReply reply;
  reply.id = in.id();
  if (in.has_status() && in.status().code() != 0) {
    reply.error =
        Error::received(code_from_number(in.status().code()), printable(in.status().reason(), 64),
                        printable(in.status().message(), kMaxTextBytes));
  }
  if (in.has_phases()) reply.phases = from_proto(in.phases());
  if (in.has_saved()) {
    reply.saved =
        MonitorSaved{.tsc_khz = in.saved().tsc_khz(), .page_count = in.saved().page_count()};
  }
  if (in.has_touched_pages()) {
    reply.touched_pages = MonitorTouchedPages{.is_exact = in.touched_pages().is_exact()};
  }
  if (in.has_pages()) {
    reply.pages = MonitorPages{.resident = in.pages().resident(),
                               .own = in.pages().own(),
                               .swapped = in.pages().swapped(),
                               .zero = in.pages().zero()};
  }
  if (in.has_balloon()) reply.balloon = from_proto(in.balloon());
  if (in.mapped_memory().regions_size() > static_cast<int>(kMaxRegions)) {
    return fail({Code::kUnavailable, "MONITOR_REPLY"},
                "the monitor says that its memory is in %d pieces, the limit is %zu",
                in.mapped_memory().regions_size(), kMaxRegions);
  }
  for (const control::MemoryRegion& region : in.mapped_memory().regions()) {
    reply.regions.push_back({.guest_address = region.guest_address(),
                             .size_bytes = region.size_bytes(),
                             .file_offset = region.file_offset(),
                             .address = region.address()});
  }
  return reply;
}

const char* exit_reason_text(ExitReason reason) {
  switch (reason) {
    case ExitReason::kUnspecified:
      return "no reason given";
    case ExitReason::kGuestPoweroff:
      return "the guest powered off";
    case ExitReason::kGuestReboot:
      return "the guest rebooted";
    case ExitReason::kGuestPanic:
      return "the guest's kernel panicked";
    case ExitReason::kTripleFault:
      return "the guest triple-faulted";
    case ExitReason::kHostStop:
      return "stopped by the host";
    case ExitReason::kKvmError:
      return "KVM could not run the guest";
    case ExitReason::kMonitorError:
      return "the monitor failed";
    case ExitReason::kMonitorKilled:
      return "the monitor was killed";
    case ExitReason::kSyscallDenied:
      return "the monitor made a system call that is denied to it";
    case ExitReason::kMemoryLost:
      return "its memory could not be provided";
  }
  return "unknown";
}

Result<ExitReport> parse_exit_report(std::span<const std::byte> bytes) {
  control::ExitReport in;
  if (bytes.empty() || bytes.size() > kMaxExitReportBytes ||
      !in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return fail({Code::kUnavailable, "EXIT_REPORT"}, "no readable exit report in %zu bytes",
                bytes.size());
  }
  ExitReport report;
  // A number that this daemon does not know, or that only the daemon may give, is no reason.
  const int reason = in.reason();
  const bool known = reason >= 1 && reason <= static_cast<int>(ExitReason::kMonitorError);
  report.reason = known ? static_cast<ExitReason>(reason) : ExitReason::kUnspecified;
  if (reason == control::EXIT_REASON_SYSCALL_DENIED) {
    report.reason = ExitReason::kSyscallDenied;
    if (in.has_denied_syscall()) {
      report.denied_syscall = DeniedSyscall{.thread = word(in.denied_syscall().thread()),
                                            .number = in.denied_syscall().number()};
    }
  }
  report.detail = printable(in.detail(), kMaxTextBytes);
  report.stats = from_proto(in.stats());
  return report;
}

}  // namespace mayfly::daemon
