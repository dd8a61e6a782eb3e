// SPDX-License-Identifier: Apache-2.0
#include "proto/control.pb.h"
#include "vmm/control/request.h"

#include <utility>

namespace mayfly::vmm {
namespace {

namespace wire = ::mayfly::control;

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

Result<std::vector<DiskConfig>> take_disks(const wire::Configure& message, Descriptors& fds) {
  std::vector<DiskConfig> disks;
  for (const wire::Disk& disk : message.disks()) {
    disks.push_back({
        .file = TRY(fds.take(disk.fd(), "disks.fd")),
        .access = disk.read_only() ? DiskAccess::kReadOnly : DiskAccess::kReadWrite,
        .serial = disk.serial(),
    });
  }
  return disks;
}

Result<VsockConfig> take_vsock(const wire::Vsock& message, Descriptors& fds) {
  VsockConfig vsock;
  vsock.guest_cid = message.guest_cid();
  for (const wire::VsockPort& port : message.host_ports()) {
    vsock.host_ports.push_back({port.port(), TRY(fds.take(port.fd(), "vsock.host_ports.fd"))});
  }
  return vsock;
}

Result<ConsoleConfig> take_console(const wire::Console& message, Descriptors& fds) {
  ConsoleConfig console;
  console.ring = TRY(fds.take(message.ring_fd(), "console.ring_fd"));
  console.output_event = TRY(fds.take(message.output_event_fd(), "console.output_event_fd"));
  console.input = TRY(fds.take(message.input_fd(), "console.input_fd"));
  return console;
}

Result<Configure> take_configure(const wire::Configure& message, Descriptors fds) {
  Configure configure;
  MachineConfig& machine = configure.machine;
  machine.vcpu_count = message.vcpu_count();
  machine.memory_bytes = message.memory_bytes();
  machine.command_line = message.cmdline();
  machine.kvm = TRY(fds.take(message.kvm_fd(), "kvm_fd"));
  machine.memory = TRY(fds.take(message.memory_fd(), "memory_fd"));
  machine.kernel = TRY(fds.take(message.kernel_fd(), "kernel_fd"));
  machine.exit_report = TRY(fds.take(message.exit_report_fd(), "exit_report_fd"));
  for (const uint32_t fd : message.initrd_fds()) {
    machine.initrds.push_back(TRY(fds.take(fd, "initrd_fds")));
  }
  machine.disks = TRY(take_disks(message, fds));
  machine.console = TRY(take_console(message.console(), fds));
  if (message.has_vsock()) machine.vsock = TRY(take_vsock(message.vsock(), fds));
  machine.has_rng = !message.no_rng();
  machine.has_debug_serial = message.debug_serial();
  machine.start = message.start() ? StartMode::kRunning : StartMode::kStopped;
  machine.end_on_disconnect = message.end_on_disconnect();
  TRY(validate(machine));
  return configure;
}

using Call = decltype(Request::call);

Result<Call> take_call(const wire::Request& message, Descriptors fds) {
  switch (message.call_case()) {
    case wire::Request::kConfigure:
      return Call(TRY(take_configure(message.configure(), std::move(fds))));
    case wire::Request::kStart:
      return Call(Start{});
    case wire::Request::kPause:
      return Call(Pause{});
    case wire::Request::kResume:
      return Call(Resume{});
    case wire::Request::kStop:
      return Call(Stop{});
    case wire::Request::kVsockConnect: {
      const wire::VsockConnect& connect = message.vsock_connect();
      return Call(VsockConnect{connect.port(), TRY(fds.take(connect.fd(), "vsock_connect.fd"))});
    }
    case wire::Request::kGetStats:
      return Call(GetStats{});
    case wire::Request::CALL_NOT_SET:
      break;
  }
  return fail({Code::kUnimplemented, "UNKNOWN_CALL"}, "request %llu has no call this monitor knows",
              static_cast<unsigned long long>(message.id()));
}

void put_phases(const Phases& from, wire::Phases& to) {
  to.set_main_ns(from.main_ns);
  to.set_received_ns(from.received_ns);
  to.set_memory_ns(from.memory_ns);
  to.set_vm_ns(from.vm_ns);
  to.set_kernel_ns(from.kernel_ns);
  to.set_devices_ns(from.devices_ns);
  to.set_vcpus_ns(from.vcpus_ns);
  to.set_running_ns(from.running_ns);
}

void put_stats(const MachineStats& from, wire::Stats& to) {
  to.set_exits_io(from.exits_io);
  to.set_exits_mmio(from.exits_mmio);
  to.set_exits_halt(from.exits_halt);
  to.set_exits_other(from.exits_other);
  to.set_interrupts(from.interrupts);
  to.set_disk_reads(from.disk_reads);
  to.set_disk_read_bytes(from.disk_read_bytes);
  to.set_disk_writes(from.disk_writes);
  to.set_disk_written_bytes(from.disk_written_bytes);
  to.set_disk_flushes(from.disk_flushes);
  to.set_disk_errors(from.disk_errors);
  to.set_vsock_rx_bytes(from.vsock_rx_bytes);
  to.set_vsock_tx_bytes(from.vsock_tx_bytes);
  to.set_console_bytes(from.console_bytes);
}

}  // namespace

std::expected<Request, Refusal> parse_request(std::span<const std::byte> packet,
                                              std::vector<Fd> descriptors) {
  wire::Request message;
  if (!message.ParseFromArray(packet.data(), static_cast<int>(packet.size()))) {
    return std::unexpected(
        Refusal{0, Error({Code::kInvalidArgument, "MALFORMED"}, "the packet is not a request")});
  }
  Result<Call> call = take_call(message, Descriptors(std::move(descriptors)));
  if (!call) return std::unexpected(Refusal{message.id(), std::move(call).error()});
  return Request{message.id(), *std::move(call)};
}

std::string make_reply(uint64_t id, const Result<Answer>& result) {
  wire::Reply reply;
  reply.set_id(id);
  if (!result) {
    reply.mutable_status()->set_code(static_cast<uint32_t>(result.error().code()));
    reply.mutable_status()->set_reason(result.error().reason());
    reply.mutable_status()->set_message(result.error().message());
  } else if (const auto* phases = std::get_if<Phases>(&*result)) {
    put_phases(*phases, *reply.mutable_phases());
  } else if (const auto* stats = std::get_if<MachineStats>(&*result)) {
    put_stats(*stats, *reply.mutable_stats());
  }
  return reply.SerializeAsString();
}

std::string make_exit_report(const ExitReport& report) {
  wire::ExitReport message;
  message.set_reason(static_cast<wire::ExitReason>(report.reason));
  message.set_detail(report.detail);
  put_stats(report.stats, *message.mutable_stats());
  put_phases(report.phases, *message.mutable_phases());
  message.set_ended_ns(report.ended_ns);
  return message.SerializeAsString();
}

}  // namespace mayfly::vmm
