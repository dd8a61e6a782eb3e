// SPDX-License-Identifier: Apache-2.0
#include "daemon/system_service.h"

#include "base/clock.h"
#include "daemon/convert.h"
#include "daemon/rpc.h"

#include <unistd.h>

namespace mayfly::daemon {

SystemServiceImpl::SystemServiceImpl(VmManager& manager, HostChecker& checker,
                                     const JailHost& jails, const std::string& epoch,
                                     std::string state_dir)
    : manager_(manager),
      checker_(checker),
      jails_(jails),
      epoch_(epoch),
      state_dir_(std::move(state_dir)),
      start_ns_(monotonic_ns()) {}

grpc::Status SystemServiceImpl::GetInfo(grpc::ServerContext*, const v1::GetInfoRequest* request,
                                        v1::GetInfoResponse* response) {
  if (auto known = refuse_unknown_fields(*request); !known) return to_status(known.error());
  response->set_version(kVersion);
  response->set_epoch(epoch_);
  response->set_pid(::getpid());
  response->set_state_dir(state_dir_);
  response->set_vm_count(static_cast<uint32_t>(manager_.vm_count()));
  response->set_running_vm_count(static_cast<uint32_t>(manager_.running_count()));
  response->set_jail_mode(to_proto(jails_.mode()));
  for (const std::string& warning : jails_.warnings()) response->add_warnings(warning);
  response->set_uptime_ms((monotonic_ns() - start_ns_) / 1'000'000);
  return grpc::Status::OK;
}

grpc::Status SystemServiceImpl::GetCapabilities(grpc::ServerContext*,
                                                const v1::GetCapabilitiesRequest* request,
                                                v1::GetCapabilitiesResponse* response) {
  if (auto known = refuse_unknown_fields(*request); !known) return to_status(known.error());
  for (const char* feature :
       {"agent", "clone", "console-attach", "console-follow", "events", "exec", "jail", "limits",
        "pause", "shells", "snapshot", "template"}) {
    response->add_features(feature);
  }
  response->set_max_vcpus(kMaxVcpus);
  response->set_min_memory_mib(kMinMemoryMib);
  response->set_max_memory_mib(host_memory_mib());
  response->set_max_disks(kMaxDisks);
  response->set_max_cmdline_bytes(kMaxCmdlineBytes);
  response->set_max_vms(kMaxVms);
  return grpc::Status::OK;
}

grpc::Status SystemServiceImpl::CheckHost(grpc::ServerContext* context,
                                          const v1::CheckHostRequest* request,
                                          v1::CheckHostResponse* response) {
  if (auto known = refuse_unknown_fields(*request); !known) return to_status(known.error());
  const auto report = checker_.report(request->refresh(), call_of(*context));
  if (!report) return to_status(report.error());
  to_proto(*report, response);
  return grpc::Status::OK;
}

grpc::Status EventServiceImpl::WatchEvents(grpc::ServerContext* context,
                                           const v1::WatchEventsRequest* request,
                                           grpc::ServerWriter<v1::WatchEventsResponse>* stream) {
  if (auto known = refuse_unknown_fields(*request); !known) return to_status(known.error());
  EventCursor cursor = request->from_oldest() ? events_.from_oldest() : events_.from_now();
  if (!request->resume_token().empty()) {
    auto resumed = events_.from_token(request->resume_token());
    if (!resumed) return to_status(resumed.error());
    cursor = *resumed;
  }
  stream->SendInitialMetadata();
  const Call call = call_of(*context);
  for (;;) {
    auto event = events_.next(cursor, call);
    if (!event) return to_status(event.error());
    // A gap may hide anyone's events, so it concerns everyone.
    const bool wanted = request->vm_id().empty() || event->vm_id == request->vm_id() ||
                        std::holds_alternative<EventGap>(event->what);
    if (!wanted) continue;
    v1::WatchEventsResponse response;
    to_proto(*event, events_, response.mutable_event());
    if (!stream->Write(response)) return grpc::Status::CANCELLED;
  }
}

}  // namespace mayfly::daemon
