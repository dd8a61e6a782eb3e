// SPDX-License-Identifier: Apache-2.0
#include "daemon/exec_service.h"

#include "daemon/convert.h"
#include "daemon/exec_session.h"
#include "daemon/rpc.h"

#include <cerrno>
#include <thread>

namespace mayfly::daemon {

namespace {

/// Passes requests on until the client's side ends; runs on the input thread.
void pass_input(ExecCall& call, ExecSession& session) {
  bool stdin_ended = false;
  v1::ExecRequest request;
  while (call.read(&request)) {
    Result<> sent;
    switch (request.message_case()) {
      case v1::ExecRequest::kStdin:
        if (!stdin_ended) sent = session.send_stdin(request.stdin());
        break;
      case v1::ExecRequest::kStdinEnd:
        if (!stdin_ended) sent = session.send_stdin_end();
        stdin_ended = true;
        break;
      case v1::ExecRequest::kSignal:
        sent = session.send_signal(request.signal());
        break;
      case v1::ExecRequest::kWindowSize:
        sent = session.send_window_size(from_proto(request.window_size()));
        break;
      default:
        break;  // A second start, or nothing: not worth a running command.
    }
    // Once the agent does not listen any more, requests are read to their end and dropped.
    if (!sent) stdin_ended = true;
  }
  if (!stdin_ended) (void)session.send_stdin_end();
}

/// Sends the command's output until its exit.
grpc::Status pass_output(ExecSession& session, ExecCall& call) {
  const Call limit = call.deadline();
  for (;;) {
    auto output = session.next(limit);
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
      call.write(response);
      return grpc::Status::OK;
    } else if (const auto* failed = std::get_if<ExecFailed>(&*output)) {
      const bool missing = failed->guest_errno == ENOENT;
      return to_status(fail({missing ? Code::kNotFound : Code::kFailedPrecondition,
                             missing ? "COMMAND_NOT_FOUND" : "COMMAND_FAILED"},
                            "the guest could not run the command: %s", failed->message.c_str())
                           .error());
    }
    if (!call.write(response)) {
      return to_status(fail({Code::kCancelled, "CANCELLED"}, "the client has gone").error());
    }
  }
}

}  // namespace

void ExecServiceImpl::handle(ExecCall& call) {
  v1::ExecRequest request;
  if (!call.read(&request) || !request.has_start()) {
    return call.finish(to_status(
        fail({Code::kInvalidArgument, "START_MISSING"}, "the first request is not `start`")
            .error()));
  }
  if (auto known = refuse_unknown_fields(request); !known)
    return call.finish(to_status(known.error()));
  auto vm = manager_.find(request.start().vm_id());
  if (!vm) return call.finish(to_status(vm.error()));
  auto opened = ExecSession::open(**vm, from_proto(request.start()), call.deadline());
  if (!opened) return call.finish(to_status(opened.error()));
  ExecSession& session = **opened;
  call.on_cancel([&session] { session.cancel(); });
  std::thread input([&] { pass_input(call, session); });
  const grpc::Status status = pass_output(session, call);
  call.on_cancel(nullptr);
  // The input thread waits for the agent, which this frees, or for the client, which the call's end
  // frees.
  session.cancel();
  call.finish(status);
  input.join();
}

}  // namespace mayfly::daemon
