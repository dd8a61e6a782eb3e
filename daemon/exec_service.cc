// SPDX-License-Identifier: Apache-2.0
#include "daemon/exec_service.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "daemon/convert.h"
#include "daemon/exec_session.h"
#include "daemon/rpc.h"

namespace mayfly::daemon {

namespace {

// A client that has heard of the exit ends its side. One that does not is cut off after this.
constexpr auto kClientEndDelay = std::chrono::seconds(2);

/// Passes requests on until the client's side ends; runs on the input thread.
void pass_input(ExecServiceImpl::Stream* stream, ExecSession& session) {
  bool stdin_ended = false;
  v1::ExecRequest request;
  while (stream->Read(&request)) {
    Result<> sent;
    switch (request.message_case()) {
      case v1::ExecRequest::kStdin:
        if (!stdin_ended) sent = session.send_stdin(request.stdin());
        break;
      case v1::ExecRequest::kStdinEnd:
        if (!stdin_ended) sent = session.send_stdin_end();
        stdin_ended = true;
        break;
      case v1::ExecRequest::kSignal: sent = session.send_signal(request.signal()); break;
      case v1::ExecRequest::kWindowSize:
        sent = session.send_window_size(from_proto(request.window_size()));
        break;
      default: break;  // A second start, or nothing: not worth a running command.
    }
    // Once the agent does not listen any more, requests are read to their end and dropped.
    if (!sent) stdin_ended = true;
  }
  if (!stdin_ended) (void)session.send_stdin_end();
}

/// The input thread, and how to end it: its Read() returns only when the client ends its side or the call.
class InputThread {
 public:
  InputThread(grpc::ServerContext* context, ExecServiceImpl::Stream* stream, ExecSession& session)
      : context_(context), session_(session), thread_([this, stream] {
          pass_input(stream, session_);
          {
            std::lock_guard lock(mutex_);
            ended_ = true;
          }
          changed_.notify_all();
        }) {}
  ~InputThread() {
    session_.cancel();  // It may be blocked on the agent.
    {
      std::unique_lock lock(mutex_);
      if (!changed_.wait_for(lock, kClientEndDelay, [this] { return ended_; })) context_->TryCancel();
    }
    thread_.join();
  }
  InputThread(const InputThread&) = delete;
  InputThread& operator=(const InputThread&) = delete;

 private:
  grpc::ServerContext* context_;
  ExecSession& session_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;  // Guarded by mutex_.
  std::thread thread_;
};

/// Sends the command's output until its exit.
grpc::Status pass_output(ExecSession& session, ExecServiceImpl::Stream* stream, const Call& call) {
  for (;;) {
    auto output = session.next(call);
    if (!output) return to_status(output.error());
    v1::ExecResponse response;
    if (const auto* started = std::get_if<ExecStarted>(&*output)) {
      response.mutable_started()->set_pid(started->pid);
    } else if (auto* out = std::get_if<ExecStdout>(&*output)) {
      response.set_stdout(std::move(out->bytes));
    } else if (auto* err = std::get_if<ExecStderr>(&*output)) {
      response.set_stderr(std::move(err->bytes));
    } else if (const auto* exited = std::get_if<ExecExited>(&*output)) {
      response.mutable_exited()->set_exit_code(exited->exit_code);
      response.mutable_exited()->set_signal(exited->signal);
      stream->Write(response);
      return grpc::Status::OK;
    } else if (const auto* failed = std::get_if<ExecFailed>(&*output)) {
      const bool missing = failed->guest_errno == ENOENT;
      return to_status(fail({missing ? Code::kNotFound : Code::kFailedPrecondition,
                             missing ? "COMMAND_NOT_FOUND" : "COMMAND_FAILED"},
                            "the guest could not run the command: %s", failed->message.c_str())
                           .error());
    }
    if (!stream->Write(response)) {
      return to_status(fail({Code::kCancelled, "CANCELLED"}, "the client has gone").error());
    }
  }
}

}  // namespace

grpc::Status ExecServiceImpl::Exec(grpc::ServerContext* context, Stream* stream) {
  v1::ExecRequest request;
  if (!stream->Read(&request) || !request.has_start()) {
    return to_status(fail({Code::kInvalidArgument, "START_MISSING"}, "the first request is not `start`").error());
  }
  if (auto known = refuse_unknown_fields(request); !known) return to_status(known.error());
  const Call call = call_of(*context);
  auto vm = manager_.find(request.start().vm_id());
  if (!vm) return to_status(vm.error());
  auto session = ExecSession::open(**vm, from_proto(request.start()), call);
  if (!session) return to_status(session.error());
  const InputThread input(context, stream, **session);
  return pass_output(**session, stream, call);
}

}  // namespace mayfly::daemon
