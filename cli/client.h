// SPDX-License-Identifier: Apache-2.0
//
// The daemon as the commands see it: each request type has its call, streams are small objects.
// Hides gRPC, whose headers take ten seconds to compile. Any thread; cancel_all() ends what the
// others wait for.
#pragma once

#include "base/error.h"
#include "mayfly/v1/console.pb.h"
#include "mayfly/v1/event.pb.h"
#include "mayfly/v1/exec.pb.h"
#include "mayfly/v1/memory.pb.h"
#include "mayfly/v1/snapshot.pb.h"
#include "mayfly/v1/system.pb.h"
#include "mayfly/v1/template.pb.h"
#include "mayfly/v1/vm.pb.h"

#include <chrono>
#include <memory>
#include <string>

namespace mayfly::cli {

using Time = std::chrono::system_clock::time_point;

/// A bidirectional or server stream. read() belongs to one thread; write(), writes_done() and
/// cancel() may come from any.
template <typename Request, typename Response>
class Stream {
 public:
  virtual ~Stream() = default;
  /// False: the call has ended.
  virtual bool write(const Request& request) = 0;
  virtual void writes_done() = 0;
  /// False: the call has ended, finish() says how.
  virtual bool read(Response& response) = 0;
  virtual Result<> finish() = 0;
  virtual void cancel() = 0;
};

using ExecStream = Stream<v1::ExecRequest, v1::ExecResponse>;
using ConsoleStream = Stream<v1::ReadConsoleRequest, v1::ReadConsoleResponse>;
using AttachStream = Stream<v1::AttachConsoleRequest, v1::AttachConsoleResponse>;
using EventStream = Stream<v1::WatchEventsRequest, v1::WatchEventsResponse>;
using PagesStream = Stream<v1::QueryPagesRequest, v1::QueryPagesResponse>;
using CloneStream = Stream<v1::CloneVmRequest, v1::CloneVmResponse>;

class Client {
 public:
  /// `target` is unix:/PATH. Connects with the first call, which fails with UNAVAILABLE where
  /// nobody listens.
  static std::unique_ptr<Client> connect(const std::string& target);
  virtual ~Client() = default;

  /// Every call made from now on has this deadline.
  virtual void set_deadline(Time deadline) = 0;

  virtual Result<v1::CreateVmResponse> call(const v1::CreateVmRequest& request) = 0;
  virtual Result<v1::StartVmResponse> call(const v1::StartVmRequest& request) = 0;
  virtual Result<v1::PauseVmResponse> call(const v1::PauseVmRequest& request) = 0;
  virtual Result<v1::ResumeVmResponse> call(const v1::ResumeVmRequest& request) = 0;
  virtual Result<v1::StopVmResponse> call(const v1::StopVmRequest& request) = 0;
  virtual Result<v1::DeleteVmResponse> call(const v1::DeleteVmRequest& request) = 0;
  virtual Result<v1::UpdateVmResponse> call(const v1::UpdateVmRequest& request) = 0;
  virtual Result<v1::GetVmResponse> call(const v1::GetVmRequest& request) = 0;
  virtual Result<v1::ListVmsResponse> call(const v1::ListVmsRequest& request) = 0;
  virtual Result<v1::WaitVmResponse> call(const v1::WaitVmRequest& request) = 0;
  virtual Result<v1::CreateSnapshotResponse> call(const v1::CreateSnapshotRequest& request) = 0;
  virtual Result<v1::CancelSnapshotResponse> call(const v1::CancelSnapshotRequest& request) = 0;
  virtual Result<v1::GetSnapshotResponse> call(const v1::GetSnapshotRequest& request) = 0;
  virtual Result<v1::ListSnapshotsResponse> call(const v1::ListSnapshotsRequest& request) = 0;
  virtual Result<v1::DeleteSnapshotResponse> call(const v1::DeleteSnapshotRequest& request) = 0;
  virtual Result<v1::RebaseSnapshotResponse> call(const v1::RebaseSnapshotRequest& request) = 0;
  virtual Result<v1::VerifySnapshotResponse> call(const v1::VerifySnapshotRequest& request) = 0;
  virtual Result<v1::RecordWorkingSetResponse> call(const v1::RecordWorkingSetRequest& request) = 0;
  virtual Result<v1::RestoreVmResponse> call(const v1::RestoreVmRequest& request) = 0;
  virtual Result<v1::PrepareTemplateResponse> call(const v1::PrepareTemplateRequest& request) = 0;
  virtual Result<v1::GetTemplateResponse> call(const v1::GetTemplateRequest& request) = 0;
  virtual Result<v1::ListTemplatesResponse> call(const v1::ListTemplatesRequest& request) = 0;
  virtual Result<v1::DeleteTemplateResponse> call(const v1::DeleteTemplateRequest& request) = 0;
  virtual Result<v1::DescribeMemoryResponse> call(const v1::DescribeMemoryRequest& request) = 0;
  virtual Result<v1::ExportMemoryResponse> call(const v1::ExportMemoryRequest& request) = 0;
  virtual Result<v1::ListMemoryUsageResponse> call(const v1::ListMemoryUsageRequest& request) = 0;
  virtual Result<v1::GetInfoResponse> call(const v1::GetInfoRequest& request) = 0;
  virtual Result<v1::CheckHostResponse> call(const v1::CheckHostRequest& request) = 0;

  virtual std::unique_ptr<ExecStream> exec() = 0;
  virtual std::unique_ptr<AttachStream> attach_console() = 0;
  virtual std::unique_ptr<ConsoleStream> read_console(const v1::ReadConsoleRequest& request) = 0;
  virtual std::unique_ptr<EventStream> watch_events(const v1::WatchEventsRequest& request) = 0;
  virtual std::unique_ptr<PagesStream> query_pages(const v1::QueryPagesRequest& request) = 0;
  virtual std::unique_ptr<CloneStream> clone(const v1::CloneVmRequest& request) = 0;

  /// Ends all calls that are under way, and lets no new one begin until allow_calls().
  virtual void cancel_all() = 0;
  /// After cancel_all(): the calls that clean up may be made, without the deadline.
  virtual void allow_calls() = 0;
};

}  // namespace mayfly::cli
