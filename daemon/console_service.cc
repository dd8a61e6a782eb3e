// SPDX-License-Identifier: Apache-2.0
#include "daemon/console_service.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "daemon/convert.h"
#include "daemon/rpc.h"

namespace mayfly::daemon {

namespace {

/// Writes the console to the stream: what is there, then, with `follow`, what comes.
template <typename Response, typename Stream>
grpc::Status pass_output(Console& console, uint64_t offset, bool follow, Stream* stream, const Call& call) {
  for (;;) {
    ConsoleChunk chunk = console.read(offset);
    if (!chunk.data.empty() || chunk.lost > 0) {
      offset = chunk.offset + chunk.data.size();
      Response response;
      to_proto(chunk, response.mutable_chunk());
      if (!stream->Write(response)) return grpc::Status::CANCELLED;
      continue;
    }
    if (!follow) return grpc::Status::OK;
    auto more = console.wait_beyond(offset, call);
    if (!more) return to_status(more.error());
    if (!*more) return grpc::Status::OK;
  }
}

}  // namespace

grpc::Status ConsoleServiceImpl::ReadConsole(grpc::ServerContext* context, const v1::ReadConsoleRequest* request,
                                             ReadStream* stream) {
  if (auto known = refuse_unknown_fields(*request); !known) return to_status(known.error());
  const Call call = call_of(*context);
  auto vm = manager_.find(request->vm_id());
  if (!vm) return to_status(vm.error());
  auto console = (*vm)->console(call);
  if (!console) return to_status(console.error());
  return pass_output<v1::ReadConsoleResponse>(**console, request->offset(), request->follow(), stream, call);
}

grpc::Status ConsoleServiceImpl::AttachConsole(grpc::ServerContext* context, AttachStream* stream) {
  v1::AttachConsoleRequest first;
  if (!stream->Read(&first) || !first.has_start()) {
    return to_status(fail({Code::kInvalidArgument, "START_MISSING"}, "the first request is not `start`").error());
  }
  if (auto known = refuse_unknown_fields(first); !known) return to_status(known.error());
  const Call call = call_of(*context);
  auto vm = manager_.find(first.start().vm_id());
  if (!vm) return to_status(vm.error());
  auto found = (*vm)->console(call);
  if (!found) return to_status(found.error());
  Console& console = **found;

  // Ends with the client's side of the call, or with the call itself, which TryCancel() sees to.
  std::atomic<bool> input_ended = false;
  std::thread input([&] {
    v1::AttachConsoleRequest request;
    while (stream->Read(&request)) {
      if (!request.has_input()) continue;
      if (!console.write_input(std::as_bytes(std::span(request.input())), call)) break;
    }
    input_ended = true;
  });
  const uint64_t offset = first.start().from_end() ? console.end_offset() : first.start().offset();
  const grpc::Status status =
      pass_output<v1::AttachConsoleResponse>(console, offset, true, stream, call);
  // The VM has stopped, and a client that sits at its keyboard need not have noticed.
  for (int i = 0; i < 20 && !input_ended; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  if (!input_ended) context->TryCancel();
  input.join();
  return status;
}

}  // namespace mayfly::daemon
