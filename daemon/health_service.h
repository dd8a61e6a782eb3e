// SPDX-License-Identifier: Apache-2.0
//
// grpc.health.v1.Health. Ours, since the one that gRPC brings is served through a queue of
// callbacks whose threads wake an idle daemon four times a second.
#pragma once

#include "grpc/health/v1/health.grpc.pb.h"

#include <condition_variable>
#include <mutex>
#include <set>
#include <string>

namespace mayfly::daemon {

class HealthServiceImpl final : public ::grpc::health::v1::Health::Service {
 public:
  /// Before the server starts.
  void add(std::string service) { services_.insert(std::move(service)); }

  /// From here on nothing is served: watchers are told so, and end. Any thread.
  void stop();

  grpc::Status Check(grpc::ServerContext*, const ::grpc::health::v1::HealthCheckRequest* request,
                     ::grpc::health::v1::HealthCheckResponse* response) override;
  grpc::Status Watch(grpc::ServerContext* context,
                     const ::grpc::health::v1::HealthCheckRequest* request,
                     grpc::ServerWriter<::grpc::health::v1::HealthCheckResponse>* stream) override;

 private:
  ::grpc::health::v1::HealthCheckResponse state() const;

  // Full names; the empty one is the daemon.
  std::set<std::string> services_{""};
  mutable std::mutex mutex_;
  std::condition_variable stopped_;
  bool is_stopped_ = false;
};

}  // namespace mayfly::daemon
