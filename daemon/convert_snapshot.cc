// SPDX-License-Identifier: Apache-2.0
#include "daemon/convert_snapshot.h"

#include "daemon/convert_net.h"
#include "daemon/text.h"

#include <algorithm>

namespace mayfly::daemon {

namespace {

constexpr size_t kMaxCmdlineShown = 64 << 10;

MemoryPolicy from_proto(v1::MemoryPolicy in) {
  if (in == v1::MEMORY_POLICY_UNSPECIFIED) return MemoryPolicy::kBalanced;
  return v1::MemoryPolicy_IsValid(in) ? static_cast<MemoryPolicy>(in) : MemoryPolicy::kUnknown;
}

Result<RestoreOverrides> from_proto(const v1::RestoreOverrides& in) {
  RestoreOverrides overrides{.disks = {},
                             .guest_cid = std::nullopt,
                             .console_kib = std::nullopt,
                             .limits = daemon::from_proto(in.limits()),
                             .allow_slow_kvm = in.allow_slow_kvm(),
                             .memory_policy = from_proto(in.memory_policy()),
                             .record_working_set = in.record_working_set()};
  for (const v1::DiskOverride& disk : in.disks()) {
    overrides.disks.push_back(
        {.index = disk.index(), .path = disk.path(), .limits = daemon::from_proto(disk.limits())});
  }
  for (const v1::NetOverride& net : in.nets()) {
    overrides.nets.push_back(
        {.index = net.index(),
         .net = TRY(daemon::from_proto(format("overrides.nets[%u]", net.index()), net.net()))});
  }
  if (in.has_metadata()) {
    overrides.metadata = TRY(MetadataDocument::parse("overrides.metadata", in.metadata()));
  }
  if (in.has_guest_cid()) overrides.guest_cid = in.guest_cid();
  if (in.has_console_kib()) overrides.console_kib = in.console_kib();
  return overrides;
}

v1::SnapshotKind to_proto(snapshot::Kind kind) {
  switch (kind) {
    case snapshot::Kind::kFull:
      return v1::SNAPSHOT_KIND_FULL;
    case snapshot::Kind::kDiff:
      return v1::SNAPSHOT_KIND_DIFF;
    case snapshot::Kind::kStateOnly:
      return v1::SNAPSHOT_KIND_STATE_ONLY;
    case snapshot::Kind::kUnspecified:
      break;
  }
  return v1::SNAPSHOT_KIND_UNSPECIFIED;
}

/// What a manifest says was anybody's to write.
void to_proto(const snapshot::Manifest& in, v1::Snapshot* out) {
  out->set_kind(to_proto(in.kind));
  if (in.parent) out->set_parent_id(in.parent->id);
  set_time(static_cast<int64_t>(in.created_ns / 1000), out->mutable_create_time());
  out->set_vcpus(in.machine.vcpu_count);
  out->set_memory_mib(in.machine.memory_bytes >> 20);
  out->set_cmdline(printable(in.machine.command_line, kMaxCmdlineShown));
  out->set_agent(in.machine.has_agent);
  for (const snapshot::DiskInfo& disk : in.machine.disks) {
    v1::SnapshotDisk* added = out->add_disks();
    added->set_size_bytes(disk.size_bytes);
    added->set_read_only(disk.read_only);
    added->set_serial(printable(disk.serial, kMaxSerialBytes));
    added->set_captured(disk.captured);
  }
  for (const snapshot::NetInfo& net : in.machine.nets) out->add_nets()->set_mtu(net.mtu);
  out->set_has_working_set(std::ranges::any_of(
      in.parts, [](const snapshot::Part& part) { return part.name == snapshot::kWorkingSetName; }));
  if (in.find(snapshot::kCompressedMemoryName) != nullptr) {
    out->set_compression(v1::SNAPSHOT_COMPRESSION_ZSTD);
  }
  v1::SnapshotHost* host = out->mutable_host();
  host->set_cpu_vendor(printable(in.host.cpu_vendor, snapshot::kVendorSize));
  host->set_cpu_family(in.host.cpu_family);
  host->set_cpu_model(in.host.cpu_model);
  host->set_cpu_stepping(in.host.cpu_stepping);
  host->set_tsc_khz(in.host.tsc_khz);
}

template <typename Request>
ReseedWait reseed_wait(const Request& in) {
  ReseedWait wait{.wanted = in.wait_reseeded(), .timeout_ms = std::nullopt};
  if (in.has_reseed_timeout_ms()) wait.timeout_ms = in.reseed_timeout_ms();
  return wait;
}

}  // namespace

Result<SnapshotRequest> from_proto(const v1::CreateSnapshotRequest& in) {
  if (!v1::SnapshotKind_IsValid(in.kind())) {
    return fail({Code::kInvalidArgument, "SNAPSHOT_KIND"},
                "kind: %d is none of FULL, DIFF, STATE_ONLY", static_cast<int>(in.kind()));
  }
  if (!v1::SnapshotCompression_IsValid(in.compression())) {
    return fail({Code::kInvalidArgument, "SNAPSHOT_COMPRESSION"}, "compression: %d is unknown",
                static_cast<int>(in.compression()));
  }
  return SnapshotRequest{.vm_id = in.vm_id(),
                         .snapshot_id = in.snapshot_id(),
                         .is_diff = in.kind() == v1::SNAPSHOT_KIND_DIFF,
                         .is_state_only = in.kind() == v1::SNAPSHOT_KIND_STATE_ONLY,
                         .stay_paused = in.stay_paused(),
                         .caller_keeps_disks = in.caller_keeps_disks(),
                         .is_compressed = in.compression() == v1::SNAPSHOT_COMPRESSION_ZSTD};
}

Result<RestoreVmPlan> from_proto(const v1::RestoreVmRequest& in) {
  return RestoreVmPlan{.snapshot_id = in.snapshot_id(),
                       .template_id = in.template_id(),
                       .vm_id = in.vm_id(),
                       .overrides = TRY(from_proto(in.overrides())),
                       .start = in.start(),
                       .verify_memory = in.verify_memory(),
                       .request_id = in.request_id(),
                       .lazy_memory = in.lazy_memory(),
                       .memory_handler = in.memory_source().handler_socket(),
                       .memory_path = in.memory_path(),
                       .reseed = reseed_wait(in)};
}

RebasePlan from_proto(const v1::RebaseSnapshotRequest& in) {
  return {.snapshot_id = in.snapshot_id(),
          .onto_id = in.onto_id(),
          .new_snapshot_id = in.new_snapshot_id()};
}

Result<ClonePlan> from_proto(const v1::CloneVmRequest& in) {
  ClonePlan plan{.snapshot_id = in.snapshot_id(),
                 .source_vm_id = in.source_vm_id(),
                 .template_id = in.template_id(),
                 .targets = {},
                 .start = in.start(),
                 .caller_keeps_disks = in.caller_keeps_disks(),
                 .reseed = reseed_wait(in)};
  for (const v1::Clone& clone : in.clones()) {
    plan.targets.push_back(
        {.vm_id = clone.vm_id(),
         .overrides = TRY(from_proto(clone.has_overrides() ? clone.overrides() : in.overrides()))});
  }
  return plan;
}

void to_proto(const SnapshotView& in, v1::Snapshot* out) {
  out->set_snapshot_id(in.id);
  out->set_damage(in.damage);
  if (!in.manifest) return;
  to_proto(*in.manifest, out);
  out->set_stored_bytes(in.stored_bytes);
}

void to_proto(const RecordOutcome& in, v1::RecordWorkingSetResponse* out) {
  out->set_snapshot_id(in.snapshot_id);
  for (const std::string& id : in.template_ids) out->add_template_ids(id);
  out->set_touched_bytes(in.touched_bytes);
  out->set_written_bytes(in.written_bytes);
  out->set_exact(in.is_exact);
  to_proto(in.times, out->mutable_times());
}

TemplateRequest from_proto(const v1::PrepareTemplateRequest& in) {
  return {.template_id = in.template_id(), .snapshot_id = in.snapshot_id(), .shells = in.shells()};
}

void to_proto(const TemplateView& in, v1::Template* out) {
  out->set_template_id(in.id);
  out->set_snapshot_id(in.snapshot_id);
  set_time(in.create_unix_us, out->mutable_create_time());
  out->set_vcpus(in.spec.vcpus);
  out->set_memory_mib(in.spec.memory_mib);
  for (const DiskSpec* disk : all_disks(in.spec)) {
    v1::SnapshotDisk* added = out->add_disks();
    added->set_size_bytes(disk->size_bytes.value_or(0));
    added->set_read_only(disk->read_only);
    added->set_serial(printable(disk->serial, kMaxSerialBytes));
  }
  out->set_agent(in.spec.agent);
  out->set_resident_bytes(in.resident_bytes);
  out->set_huge_bytes(in.huge_bytes);
  out->set_has_working_set(in.has_working_set);
  if (!in.shells) return;
  v1::Shells* shells = out->mutable_shells();
  shells->set_wanted(in.shells->wanted);
  shells->set_ready(in.shells->ready);
  shells->set_starting(in.shells->starting);
  shells->set_claimed(in.shells->claimed);
  shells->set_failed(in.shells->failed);
  shells->set_last_failure(in.shells->last_failure);
}

}  // namespace mayfly::daemon
