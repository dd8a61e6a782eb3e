// SPDX-License-Identifier: Apache-2.0
#include "cli/snapshots.h"

#include "cli/daemon_call.h"
#include "cli/vm_spec.h"

#include <algorithm>
#include <cstdio>
#include <thread>

#include <unistd.h>

namespace mayfly::cli {

namespace {

/// While it lives, a line on a terminal's standard error says how far a CreateSnapshot is.
class ProgressLine {
 public:
  ProgressLine(Client& client, const SnapshotFlags& flags) {
    if (::isatty(STDERR_FILENO) == 0) return;
    v1::WatchEventsRequest request;
    request.set_vm_id(flags.vm_id);
    stream_ = client.watch_events(request);
    reader_ = std::thread([this, id = flags.snapshot_id] {
      for (v1::WatchEventsResponse response; stream_->read(response);) {
        const v1::Event& event = response.event();
        if (!event.has_snapshot_progress() || event.snapshot_progress().snapshot_id() != id)
          continue;
        std::fprintf(stderr, "\r\x1b[K%s", progress_text(event.snapshot_progress()).c_str());
      }
      (void)stream_->finish();
    });
  }
  ~ProgressLine() {
    if (!stream_) return;
    stream_->cancel();
    reader_.join();
    std::fputs("\r\x1b[K", stderr);
  }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

 private:
  std::unique_ptr<EventStream> stream_;
  std::thread reader_;
};

template <typename Request>
void set_reseed_wait(const RestoreFlags& flags, Request& request) {
  request.set_wait_reseeded(flags.wait_reseeded);
  if (flags.reseed_timeout_s) {
    request.set_reseed_timeout_ms(
        static_cast<uint32_t>(std::clamp(*flags.reseed_timeout_s, 0.0, 4e6) * 1000));
  }
}

}  // namespace

int create_snapshot(const GlobalFlags& global, const SnapshotFlags& flags) {
  v1::CreateSnapshotRequest request;
  request.set_vm_id(flags.vm_id);
  request.set_snapshot_id(flags.snapshot_id);
  request.set_kind(flags.diff         ? v1::SNAPSHOT_KIND_DIFF
                   : flags.state_only ? v1::SNAPSHOT_KIND_STATE_ONLY
                                      : v1::SNAPSHOT_KIND_FULL);
  request.set_stay_paused(flags.stay_paused);
  request.set_caller_keeps_disks(flags.caller_keeps_disks);
  if (flags.compress) request.set_compression(v1::SNAPSHOT_COMPRESSION_ZSTD);
  const auto client = connect(global);
  const auto response = [&] {
    const ProgressLine line(*client, flags);
    return client->call(request);
  }();
  if (!response) return failed(global, response.error());
  if (global.json) {
    print_json(*response);
    return 0;
  }
  std::printf("%s: %.1f MiB; %s %s, stood still for %.1f ms\n",
              response->snapshot().snapshot_id().c_str(),
              static_cast<double>(response->snapshot().stored_bytes()) / (1 << 20),
              response->vm().vm_id().c_str(), short_name(response->vm().state()).c_str(),
              static_cast<double>(response->stopped_us()) / 1e3);
  return 0;
}

int cancel_snapshot(const GlobalFlags& global, const SnapshotFlags& flags) {
  v1::CancelSnapshotRequest request;
  request.set_snapshot_id(flags.snapshot_id);
  request.set_vm_id(flags.vm_id);
  const auto response = connect(global)->call(request);
  if (!response) return failed(global, response.error());
  if (global.json) {
    print_json(*response);
  } else {
    for (const std::string& id : response->snapshot_ids())
      std::printf("%s cancelled\n", id.c_str());
  }
  return 0;
}

int list_snapshots(const GlobalFlags& global) {
  return list_all<v1::ListSnapshotsRequest>(global, &v1::ListSnapshotsResponse::mutable_snapshots,
                                            snapshot_table);
}

int inspect_snapshot(const GlobalFlags& global, const std::string& snapshot_id) {
  v1::GetSnapshotRequest request;
  request.set_snapshot_id(snapshot_id);
  const auto response = connect(global)->call(request);
  if (!response) return failed(global, response.error());
  print_json(response->snapshot());
  return 0;
}

int verify_snapshot(const GlobalFlags& global, const std::string& snapshot_id) {
  v1::VerifySnapshotRequest request;
  request.set_snapshot_id(snapshot_id);
  const auto response = connect(global)->call(request);
  if (!response) return failed(global, response.error());
  if (global.json) {
    print_json(*response);
  } else {
    for (const std::string& id : response->verified_ids()) std::printf("%s is whole\n", id.c_str());
  }
  return 0;
}

int rebase_snapshot(const GlobalFlags& global, const RebaseFlags& flags) {
  v1::RebaseSnapshotRequest request;
  request.set_snapshot_id(flags.snapshot_id);
  request.set_onto_id(flags.onto_id);
  request.set_new_snapshot_id(flags.new_snapshot_id);
  const auto response = connect(global)->call(request);
  if (!response) return failed(global, response.error());
  if (global.json) {
    print_json(*response);
    return 0;
  }
  const std::string& parent = response->snapshot().parent_id();
  std::printf("%s: %d snapshots merged, %.1f MiB, %s%s\n",
              response->snapshot().snapshot_id().c_str(), response->merged_ids_size(),
              static_cast<double>(response->snapshot().stored_bytes()) / (1 << 20),
              parent.empty() ? "a FULL" : "over ", parent.c_str());
  return 0;
}

int record_working_set(const GlobalFlags& global, const std::string& vm_id) {
  v1::RecordWorkingSetRequest request;
  request.set_vm_id(vm_id);
  const auto response = connect(global)->call(request);
  if (!response) return failed(global, response.error());
  if (global.json) {
    print_json(*response);
    return 0;
  }
  std::printf("%s: %.1f MiB touched, %.1f MiB of them written\n", vm_id.c_str(),
              static_cast<double>(response->touched_bytes()) / (1 << 20),
              static_cast<double>(response->written_bytes()) / (1 << 20));
  return 0;
}

int delete_snapshots(const GlobalFlags& global, const std::vector<std::string>& snapshot_ids) {
  return delete_each(global, snapshot_ids, [](const std::string& id) {
    v1::DeleteSnapshotRequest request;
    request.set_snapshot_id(id);
    return request;
  });
}

int restore(const GlobalFlags& global, const RestoreFlags& flags) {
  // Where a template is named, there is no snapshot before the VM's id.
  if (flags.restore_ids.size() != (flags.template_id.empty() ? 2 : 1)) {
    return report_error(global, fail({Code::kInvalidArgument, "USAGE"},
                                     "a snapshot, or --template ID, and then the new VM's id")
                                    .error());
  }
  v1::RestoreVmRequest request;
  if (flags.template_id.empty()) {
    request.set_snapshot_id(flags.restore_ids.front());
  } else {
    request.set_template_id(flags.template_id);
  }
  request.set_vm_id(flags.restore_ids.back());
  const auto overrides = make_overrides(flags);
  if (!overrides) return report_error(global, overrides.error());
  *request.mutable_overrides() = *overrides;
  request.set_start(!flags.paused);
  request.set_verify_memory(flags.verify_memory);
  if (!flags.memory.empty()) request.set_memory_path(absolute(flags.memory));
  request.set_lazy_memory(flags.lazy_memory);
  if (!flags.memory_handler.empty()) {
    request.mutable_memory_source()->set_handler_socket(flags.memory_handler);
  }
  request.set_request_id(flags.request_id);
  set_reseed_wait(flags, request);
  return answer(global, connect(global)->call(request));
}

int clone(const GlobalFlags& global, const RestoreFlags& flags) {
  const int sources =
      !flags.snapshot_id.empty() + !flags.template_id.empty() + !flags.source_vm_id.empty();
  if (sources != 1) {
    return report_error(global, fail({Code::kInvalidArgument, "USAGE"},
                                     "one of --snapshot, --template and --vm says what to clone")
                                    .error());
  }
  v1::CloneVmRequest request;
  if (!flags.source_vm_id.empty()) {
    request.set_source_vm_id(flags.source_vm_id);
  } else if (!flags.template_id.empty()) {
    request.set_template_id(flags.template_id);
  } else {
    request.set_snapshot_id(flags.snapshot_id);
  }
  for (const std::string& id : flags.clone_ids) request.add_clones()->set_vm_id(id);
  const auto overrides = make_overrides(flags);
  if (!overrides) return report_error(global, overrides.error());
  *request.mutable_overrides() = *overrides;
  request.set_start(!flags.paused);
  request.set_caller_keeps_disks(flags.caller_keeps_disks);
  set_reseed_wait(flags, request);
  const auto client = connect(global);
  const auto stream = client->clone(request);
  int code = 0;
  for (v1::CloneVmResponse response; stream->read(response);) {
    if (response.has_error()) code = kExitFailure;
    if (global.json) {
      std::printf("%s\n", to_json(response, false).c_str());
    } else if (response.has_vm()) {
      print_line(response.vm());
    } else {
      std::fprintf(stderr, "mayfly: %s: %s\n", response.vm_id().c_str(),
                   response.error().message().c_str());
    }
    std::fflush(stdout);
  }
  const auto finished = stream->finish();
  return finished ? code : failed(global, finished.error());
}

}  // namespace mayfly::cli
