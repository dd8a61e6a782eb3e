// SPDX-License-Identifier: Apache-2.0
#include "daemon/convert.h"

#include "base/seccomp/syscall_name.h"
#include "daemon/convert_net.h"
#include "daemon/rpc.h"

#include <google/protobuf/unknown_field_set.h>

#include <iterator>
#include <tuple>

namespace mayfly::daemon {

namespace {

DiskSpec from_proto(const v1::Disk& in) {
  return {.path = in.path(),
          .read_only = in.read_only(),
          .serial = in.serial(),
          .limits = daemon::from_proto(in.limits())};
}

void to_proto(const ResourceLimits& in, v1::ResourceLimits* out) {
  if (in.cpu_milli) out->set_cpu_milli(*in.cpu_milli);
  if (in.cpu_weight) out->set_cpu_weight(*in.cpu_weight);
  if (in.memory_mib) out->set_memory_mib(*in.memory_mib);
  if (in.pids_max) out->set_pids_max(*in.pids_max);
}

void to_proto(const DiskSpec& in, v1::Disk* out) {
  out->set_path(in.path);
  out->set_read_only(in.read_only);
  out->set_serial(in.serial);
  if (!in.limits.any()) return;
  v1::DiskLimits* limits = out->mutable_limits();
  if (in.limits.read_bytes_per_s) limits->set_read_bytes_per_s(*in.limits.read_bytes_per_s);
  if (in.limits.write_bytes_per_s) limits->set_write_bytes_per_s(*in.limits.write_bytes_per_s);
  if (in.limits.read_ops_per_s) limits->set_read_ops_per_s(*in.limits.read_ops_per_s);
  if (in.limits.write_ops_per_s) limits->set_write_ops_per_s(*in.limits.write_ops_per_s);
}

BalloonSpec from_proto(const v1::Balloon& in) {
  return {.target_mib = in.target_mib(),
          .options = {.deflate_on_oom = in.deflate_on_oom(),
                      .free_page_reporting = in.free_page_reporting(),
                      .stats_interval_s = in.stats_interval_s()}};
}

void to_proto(const BalloonSpec& in, v1::Balloon* out) {
  out->set_target_mib(in.target_mib);
  out->set_deflate_on_oom(in.options.deflate_on_oom);
  out->set_free_page_reporting(in.options.free_page_reporting);
  out->set_stats_interval_s(in.options.stats_interval_s);
}

void to_proto(const BalloonView::Stats& in, v1::BalloonStats* out) {
  using Setter = void (v1::BalloonStats::*)(uint64_t);
  // By tag.
  static constexpr Setter kSetters[] = {
      &v1::BalloonStats::set_swapped_in_bytes,     &v1::BalloonStats::set_swapped_out_bytes,
      &v1::BalloonStats::set_major_faults,         &v1::BalloonStats::set_minor_faults,
      &v1::BalloonStats::set_free_bytes,           &v1::BalloonStats::set_total_bytes,
      &v1::BalloonStats::set_available_bytes,      &v1::BalloonStats::set_cache_bytes,
      &v1::BalloonStats::set_huge_pages_allocated, &v1::BalloonStats::set_huge_pages_failed};
  static_assert(std::size(kSetters) == std::tuple_size_v<decltype(in.values)>);
  out->set_age_ms(in.age_ns / 1'000'000);
  for (size_t tag = 0; tag < in.values.size(); ++tag) {
    if (in.values[tag]) (out->*kSetters[tag])(*in.values[tag]);
  }
}

void to_proto(const BalloonView& in, v1::BalloonStatus* out) {
  out->set_target_mib(in.target_pages / kPagesOfMib);
  out->set_actual_mib(in.actual_pages / kPagesOfMib);
  out->set_inflated_bytes(in.inflated_pages * kBalloonPageBytes);
  out->set_reported_bytes(in.reported_pages * kBalloonPageBytes);
  if (in.stats) to_proto(*in.stats, out->mutable_stats());
}

VmSpec from_proto(const v1::VmSpec& in) {
  VmSpec spec;
  if (in.has_vcpus()) spec.vcpus = in.vcpus();
  if (in.has_memory_mib()) spec.memory_mib = in.memory_mib();
  spec.kernel_path = in.kernel_path();
  spec.initrd_paths.assign(in.initrd_paths().begin(), in.initrd_paths().end());
  if (in.has_rootfs()) spec.rootfs = from_proto(in.rootfs());
  for (const v1::Disk& disk : in.disks()) spec.disks.push_back(from_proto(disk));
  spec.cmdline = in.cmdline();
  spec.replace_cmdline = in.replace_cmdline();
  if (in.has_agent()) spec.agent = in.agent();
  if (in.has_console_kib()) spec.console_kib = in.console_kib();
  spec.allow_slow_kvm = in.allow_slow_kvm();
  spec.debug_serial = in.debug_serial();
  spec.limits = daemon::from_proto(in.limits());
  if (in.has_balloon()) spec.balloon = from_proto(in.balloon());
  return spec;
}

void to_proto(const VmSpec& in, v1::VmSpec* out) {
  out->set_vcpus(in.vcpus);
  out->set_memory_mib(in.memory_mib);
  out->set_kernel_path(in.kernel_path);
  for (const std::string& path : in.initrd_paths) out->add_initrd_paths(path);
  if (in.rootfs) to_proto(*in.rootfs, out->mutable_rootfs());
  for (const DiskSpec& disk : in.disks) to_proto(disk, out->add_disks());
  out->set_cmdline(in.cmdline);
  out->set_replace_cmdline(in.replace_cmdline);
  out->set_agent(in.agent);
  out->set_console_kib(in.console_kib);
  out->set_allow_slow_kvm(in.allow_slow_kvm);
  out->set_debug_serial(in.debug_serial);
  if (in.balloon) to_proto(*in.balloon, out->mutable_balloon());
}

void to_proto(const GuestInfo& in, v1::GuestInfo* out) {
  out->set_agent_version(in.agent_version);
  out->set_kernel_release(in.kernel_release);
  out->set_cpu_count(in.cpu_count);
  out->set_init_us(in.init_us);
  out->set_ready_us(in.ready_us);
  out->set_start_to_ready_us(in.start_to_ready_us);
  out->set_failure(in.failure);
}

void to_proto(const MonitorStats& in, v1::MonitorStats* out) {
  out->set_exits_io(in.exits_io);
  out->set_exits_mmio(in.exits_mmio);
  out->set_exits_halt(in.exits_halt);
  out->set_exits_other(in.exits_other);
  out->set_interrupts(in.interrupts);
  out->set_disk_reads(in.disk_reads);
  out->set_disk_read_bytes(in.disk_read_bytes);
  out->set_disk_writes(in.disk_writes);
  out->set_disk_written_bytes(in.disk_written_bytes);
  out->set_disk_flushes(in.disk_flushes);
  out->set_disk_errors(in.disk_errors);
  out->set_vsock_rx_bytes(in.vsock_rx_bytes);
  out->set_vsock_tx_bytes(in.vsock_tx_bytes);
  out->set_console_bytes(in.console_bytes);
  out->set_net_rx_frames(in.net_rx_frames);
  out->set_net_rx_bytes(in.net_rx_bytes);
  out->set_net_tx_frames(in.net_tx_frames);
  out->set_net_tx_bytes(in.net_tx_bytes);
  out->set_net_dropped(in.net_dropped);
}

void to_proto(const DeniedSyscall& in, v1::DeniedSyscall* out) {
  out->set_thread(in.thread);
  out->set_number(in.number);
  out->set_name(seccomp::syscall_name(in.number));
}

void to_proto(const LazyMemoryView& in, v1::LazyMemory* out) {
  out->set_complete(in.is_complete);
  out->set_filled_bytes(in.progress.filled_bytes);
  out->set_source_bytes(in.progress.source_bytes);
  out->set_faults(in.progress.fault_count);
  out->set_filled_for_faults(in.progress.filled_for_fault_count);
}

void to_proto(const JailView& in, v1::Jail* out) {
  out->set_mode(daemon::to_proto(in.mode));
  out->set_uid(in.uid);
  out->set_gid(in.gid);
  for (const std::string& path : in.cgroups) out->add_cgroups(path);
}

void to_proto(const VmExit& in, v1::VmExit* out) {
  out->set_reason(static_cast<v1::ExitReason>(in.reason));
  out->set_detail(in.detail);
  out->set_signal(in.signal);
  out->set_exit_status(in.exit_status);
  out->set_stderr_tail(in.stderr_tail);
  if (in.stats) to_proto(*in.stats, out->mutable_stats());
  if (in.denied_syscall) to_proto(*in.denied_syscall, out->mutable_denied_syscall());
  set_time(in.unix_us, out->mutable_exit_time());
}

v1::VmState to_proto(VmState state) { return static_cast<v1::VmState>(state); }

Result<> refuse_unknown_in(const google::protobuf::Message& message, int depth) {
  const auto* reflection = message.GetReflection();
  const auto& unknown = reflection->GetUnknownFields(message);
  if (!unknown.empty()) {
    return fail({Code::kInvalidArgument, "UNKNOWN_FIELD"},
                "%s: field number %d is not known to this daemon",
                message.GetDescriptor()->full_name().c_str(), unknown.field(0).number());
  }
  if (depth == 0) return {};
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const auto* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (!field->is_repeated()) {
      TRY(refuse_unknown_in(reflection->GetMessage(message, field), depth - 1));
      continue;
    }
    for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
      TRY(refuse_unknown_in(reflection->GetRepeatedMessage(message, field, i), depth - 1));
    }
  }
  return {};
}

}  // namespace

void set_time(int64_t unix_us, google::protobuf::Timestamp* out) {
  out->set_seconds(unix_us / 1'000'000);
  out->set_nanos(static_cast<int32_t>(unix_us % 1'000'000 * 1000));
}

DiskLimits from_proto(const v1::DiskLimits& in) {
  DiskLimits limits;
  if (in.has_read_bytes_per_s()) limits.read_bytes_per_s = in.read_bytes_per_s();
  if (in.has_write_bytes_per_s()) limits.write_bytes_per_s = in.write_bytes_per_s();
  if (in.has_read_ops_per_s()) limits.read_ops_per_s = in.read_ops_per_s();
  if (in.has_write_ops_per_s()) limits.write_ops_per_s = in.write_ops_per_s();
  return limits;
}

ResourceLimits from_proto(const v1::ResourceLimits& in) {
  ResourceLimits limits;
  if (in.has_cpu_milli()) limits.cpu_milli = in.cpu_milli();
  if (in.has_cpu_weight()) limits.cpu_weight = in.cpu_weight();
  if (in.has_memory_mib()) limits.memory_mib = in.memory_mib();
  if (in.has_pids_max()) limits.pids_max = in.pids_max();
  return limits;
}

v1::JailMode to_proto(JailMode mode) {
  switch (mode) {
    case JailMode::kRoot:
      return v1::JAIL_MODE_ROOT;
    case JailMode::kUser:
      return v1::JAIL_MODE_USER;
    case JailMode::kOff:
      return v1::JAIL_MODE_OFF;
  }
  return v1::JAIL_MODE_UNSPECIFIED;
}

Result<> refuse_unknown_fields(const google::protobuf::Message& message) {
  return refuse_unknown_in(message, 8);  // Deeper than any request of ours.
}

Result<CreateRequest> from_proto(const v1::CreateVmRequest& in) {
  CreateRequest request{.vm_id = in.vm_id(),
                        .spec = from_proto(in.spec()),
                        .start = in.start(),
                        .request_id = in.request_id()};
  for (int i = 0; i < in.spec().nets_size(); ++i) {
    request.spec.nets.push_back(
        TRY(daemon::from_proto(net_field(static_cast<size_t>(i)), in.spec().nets(i))));
  }
  if (in.spec().has_metadata()) {
    request.spec.metadata = TRY(MetadataDocument::parse("metadata", in.spec().metadata()));
  }
  return request;
}

Result<WaitGoal> from_proto(const v1::WaitVmRequest& in) {
  WaitGoal goal{.states = {}, .guest_ready = in.guest_ready()};
  for (const int state : in.states()) {
    if (state == v1::VM_STATE_UNSPECIFIED || !v1::VmState_IsValid(state)) {
      return fail({Code::kInvalidArgument, "WAIT_GOAL"}, "states: %d is not a state of a VM",
                  state);
    }
    goal.states.push_back(static_cast<VmState>(state));
  }
  return goal;
}

WindowSize from_proto(const v1::WindowSize& in) {
  return {.rows = in.rows(), .columns = in.columns()};
}

ExecStart from_proto(const v1::ExecStart& in) {
  ExecStart start{
      .argv = {in.argv().begin(), in.argv().end()},
      .env = {in.env().begin(), in.env().end()},
      .working_directory = in.working_directory(),
      .terminal = in.terminal(),
      .window_size = std::nullopt,
      .user = std::nullopt,
  };
  if (in.has_user()) {
    start.user = ExecUser{.uid = in.user().uid(),
                          .gid = in.user().gid(),
                          .groups = {in.user().groups().begin(), in.user().groups().end()}};
  }
  if (in.has_window_size()) start.window_size = from_proto(in.window_size());
  return start;
}

void to_proto(const VmView& in, v1::Vm* out) {
  out->set_vm_id(in.id);
  out->set_incarnation(in.incarnation);
  out->set_state(to_proto(in.state));
  to_proto(in.spec, out->mutable_spec());
  for (const NetView& net : in.nets) to_proto(net, out->mutable_spec()->add_nets());
  set_time(in.create_unix_us, out->mutable_create_time());
  out->set_monitor_pid(in.monitor_pid);
  out->set_cmdline(in.cmdline);
  out->set_restored_from(in.restored_from);
  out->set_reseeded(in.reseeded);
  out->set_template_id(in.template_id);
  if (!in.restored_from.empty()) {
    out->mutable_memory()->set_policy(static_cast<v1::MemoryPolicy>(in.spec.memory_policy));
    out->mutable_memory()->set_copied_bytes(in.copied_bytes);
    out->mutable_memory()->set_records_working_set(in.spec.record_working_set);
  }
  out->set_from_shell(in.from_shell);
  out->set_guest_cid(in.spec.agent ? in.spec.guest_cid : 0);
  if (in.guest) to_proto(*in.guest, out->mutable_guest());
  if (in.exit) to_proto(*in.exit, out->mutable_exit());
  if (in.balloon) to_proto(*in.balloon, out->mutable_balloon());
  if (in.lazy_memory) to_proto(*in.lazy_memory, out->mutable_lazy_memory());
  if (in.metadata) {
    out->mutable_metadata()->set_version(in.metadata->version);
    out->mutable_metadata()->set_size_bytes(in.metadata->size_bytes);
  }
  if (in.jail) {
    to_proto(*in.jail, out->mutable_jail());
    to_proto(in.jail->limits, out->mutable_spec()->mutable_limits());
  }
}

void to_proto(const PhaseTimes& in, v1::PhaseTimes* out) {
  for (const Phase& phase : in.phases) {
    v1::Phase* added = out->add_phases();
    added->set_name(phase.name);
    added->set_duration_us(phase.duration_us);
  }
  out->set_total_us(in.total_us);
}

void to_proto(const ConsoleChunk& in, v1::ConsoleChunk* out) {
  out->set_offset(in.offset);
  out->set_data(in.data);
  out->set_lost_bytes(in.lost);
}

namespace {

void to_proto(const SnapshotProgress& in, v1::SnapshotProgress* out) {
  out->set_snapshot_id(in.snapshot_id);
  out->set_phase(static_cast<v1::SnapshotPhase>(in.phase));
  out->set_done_bytes(in.done_bytes);
  out->set_total_bytes(in.total_bytes);
  if (in.error) *out->mutable_error() = daemon::to_proto(*in.error);
}

}  // namespace

void to_proto(const Event& in, const EventLog& log, v1::Event* out) {
  out->set_epoch(log.epoch());
  out->set_sequence(in.sequence);
  out->set_resume_token(log.token_after(in.sequence));
  set_time(in.unix_us, out->mutable_time());
  out->set_vm_id(in.vm_id);
  out->set_incarnation(in.incarnation);
  if (const auto* changed = std::get_if<StateChanged>(&in.what)) {
    out->mutable_state_changed()->set_from(to_proto(changed->from));
    out->mutable_state_changed()->set_to(to_proto(changed->to));
  } else if (const auto* guest = std::get_if<GuestInfo>(&in.what)) {
    to_proto(*guest, out->mutable_guest_ready());
  } else if (const auto* exit = std::get_if<VmExit>(&in.what)) {
    to_proto(*exit, out->mutable_exited());
  } else if (const auto* denied = std::get_if<SyscallDenied>(&in.what)) {
    v1::Event::SyscallDenied* what = out->mutable_syscall_denied();
    if (denied->told) to_proto(denied->syscall, what->mutable_denied());
  } else if (const auto* progress = std::get_if<SnapshotProgress>(&in.what)) {
    to_proto(*progress, out->mutable_snapshot_progress());
  } else if (const auto* failed = std::get_if<ShellFailed>(&in.what)) {
    v1::Event::ShellFailed* what = out->mutable_shell_failed();
    what->set_template_id(failed->template_id);
    what->set_reason(failed->reason);
    what->set_message(failed->message);
  } else if (const auto* gap = std::get_if<EventGap>(&in.what)) {
    out->mutable_gap()->set_lost_events(gap->lost);
  } else {
    out->mutable_deleted();
  }
}

void to_proto(const HostReport& in, v1::CheckHostResponse* out) {
  for (const HostCheck& check : in.checks) {
    v1::HostCheck* added = out->add_checks();
    added->set_name(check.name);
    added->set_status(static_cast<v1::CheckStatus>(check.status));
    added->set_detail(check.detail);
    added->set_remedy(check.remedy);
  }
  out->set_runs_linux_guests(in.runs_linux_guests);
}

}  // namespace mayfly::daemon
