// SPDX-License-Identifier: Apache-2.0
//
// mayfly.v1.SystemService and EventService.
#pragma once

#include "daemon/event_log.h"
#include "daemon/host_check.h"
#include "daemon/jail.h"
#include "daemon/vm_manager.h"
#include "mayfly/v1/event.grpc.pb.h"
#include "mayfly/v1/system.grpc.pb.h"

namespace mayfly::daemon {

inline constexpr const char* kVersion = "0.1.0";

class SystemServiceImpl final : public ::mayfly::v1::SystemService::Service {
 public:
  SystemServiceImpl(VmManager& manager, HostChecker& checker, const JailHost& jails,
                    const std::string& epoch, std::string state_dir);

  grpc::Status GetInfo(grpc::ServerContext*, const ::mayfly::v1::GetInfoRequest*,
                       ::mayfly::v1::GetInfoResponse*) override;
  grpc::Status GetCapabilities(grpc::ServerContext*, const ::mayfly::v1::GetCapabilitiesRequest*,
                               ::mayfly::v1::GetCapabilitiesResponse*) override;
  grpc::Status CheckHost(grpc::ServerContext*, const ::mayfly::v1::CheckHostRequest*,
                         ::mayfly::v1::CheckHostResponse*) override;

 private:
  VmManager& manager_;
  HostChecker& checker_;
  const JailHost& jails_;
  const std::string epoch_;
  const std::string state_dir_;
  const uint64_t start_ns_;
};

class EventServiceImpl final : public ::mayfly::v1::EventService::Service {
 public:
  explicit EventServiceImpl(const EventLog& events) : events_(events) {}

  grpc::Status WatchEvents(grpc::ServerContext* context,
                           const ::mayfly::v1::WatchEventsRequest* request,
                           grpc::ServerWriter<::mayfly::v1::WatchEventsResponse>* stream) override;

 private:
  const EventLog& events_;
};

}  // namespace mayfly::daemon
