// SPDX-License-Identifier: Apache-2.0
#include "daemon/console_service.h"

#include "daemon/convert.h"
#include "daemon/rpc.h"

#include <thread>

namespace mayfly::daemon {

namespace {

/// Writes the console to the stream: what is there, then, with `follow`, what comes.
template <typename Response, typename Write>
grpc::Status pass_output(Console& console, uint64_t offset, bool follow, Write write,
                         const Call& call) {
  for (;;) {
    ConsoleChunk chunk = console.read(offset);
    if (!chunk.data.empty() || chunk.lost > 0) {
      offset = chunk.offset + chunk.data.size();
      Response response;
      to_proto(chunk, response.mutable_chunk());
      if (!write(response)) return grpc::Status::CANCELLED;
      continue;
    }
    if (!follow) return grpc::Status::OK;
    auto more = console.wait_beyond(offset, call);
    if (!more) return to_status(more.error());
    if (!*more) return grpc::Status::OK;
  }
}

}  // namespace

grpc::Status ConsoleServiceImpl::ReadConsole(grpc::ServerContext* context,
                                             const v1::ReadConsoleRequest* request,
                                             ReadStream* stream) {
  if (auto known = refuse_unknown_fields(*request); !known) return to_status(known.error());
  const Call call = call_of(*context);
  auto vm = manager_.find(request->vm_id());
  if (!vm) return to_status(vm.error());
  auto console = (*vm)->console(call);
  if (!console) return to_status(console.error());
  return pass_output<v1::ReadConsoleResponse>(
      **console, request->offset(), request->follow(),
      [&](const auto& response) { return stream->Write(response); }, call);
}

void ConsoleServiceImpl::handle_attach(AttachCall& call) {
  v1::AttachConsoleRequest first;
  if (!call.read(&first) || !first.has_start()) {
    return call.finish(to_status(
        fail({Code::kInvalidArgument, "START_MISSING"}, "the first request is not `start`")
            .error()));
  }
  if (auto known = refuse_unknown_fields(first); !known)
    return call.finish(to_status(known.error()));
  const Call limit = call.deadline();
  auto vm = manager_.find(first.start().vm_id());
  if (!vm) return call.finish(to_status(vm.error()));
  auto found = (*vm)->console(limit);
  if (!found) return call.finish(to_status(found.error()));
  Console& console = **found;

  // Ends with the client's side of the call, with the call, or with the VM.
  std::thread input([&] {
    v1::AttachConsoleRequest request;
    while (call.read(&request)) {
      if (request.has_input())
        (void)console.write_input(std::as_bytes(std::span(request.input())), limit);
    }
  });
  const uint64_t offset = first.start().from_end() ? console.end_offset() : first.start().offset();
  call.finish(pass_output<v1::AttachConsoleResponse>(
      console, offset, true, [&](const auto& response) { return call.write(response); }, limit));
  input.join();
}

}  // namespace mayfly::daemon
