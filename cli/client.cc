// SPDX-License-Identifier: Apache-2.0
#include "cli/client.h"

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "mayfly/v1/console.grpc.pb.h"
#include "mayfly/v1/event.grpc.pb.h"
#include "mayfly/v1/exec.grpc.pb.h"
#include "mayfly/v1/memory.grpc.pb.h"
#include "mayfly/v1/snapshot.grpc.pb.h"
#include "mayfly/v1/system.grpc.pb.h"
#include "mayfly/v1/template.grpc.pb.h"
#include "mayfly/v1/vm.grpc.pb.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <mutex>
#include <set>

namespace mayfly::cli {

namespace {

Error from_status(const grpc::Status& status) {
  std::string reason = code_name(static_cast<Code>(status.error_code()));
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  if (details.ParseFromString(status.error_details()) && details.details_size() > 0 &&
      details.details(0).UnpackTo(&info)) {
    reason = info.reason();
  }
  return Error::received(static_cast<Code>(status.error_code()), reason, status.error_message());
}

/// The calls under way, so that a signal can end them.
class ActiveCalls {
 public:
  void add(grpc::ClientContext* context) {
    std::lock_guard lock(mutex_);
    contexts_.insert(context);
    if (cancelled_) context->TryCancel();
  }
  void remove(grpc::ClientContext* context) {
    std::lock_guard lock(mutex_);
    contexts_.erase(context);
  }
  void set_cancelled(bool cancelled) {
    std::lock_guard lock(mutex_);
    cancelled_ = cancelled;
    if (!cancelled) return;
    for (grpc::ClientContext* context : contexts_) context->TryCancel();
  }

 private:
  std::mutex mutex_;
  std::set<grpc::ClientContext*> contexts_;
  bool cancelled_ = false;
};

/// A context that is among the active calls for as long as it lives.
class CallContext {
 public:
  CallContext(ActiveCalls& active, Time deadline) : active_(active) {
    if (deadline != Time::max()) context.set_deadline(deadline);
    active_.add(&context);
  }
  ~CallContext() { active_.remove(&context); }
  CallContext(const CallContext&) = delete;
  CallContext& operator=(const CallContext&) = delete;

  grpc::ClientContext context;

 private:
  ActiveCalls& active_;
};

/// Both kinds of stream; `Reader` is what the stub returns.
template <typename Request, typename Response, typename Reader>
class StreamImpl final : public Stream<Request, Response> {
 public:
  StreamImpl(ActiveCalls& active, Time deadline) : call_(active, deadline) {}
  grpc::ClientContext* context() { return &call_.context; }
  void set_reader(std::unique_ptr<Reader> reader) { reader_ = std::move(reader); }

  bool write(const Request& request) override {
    if constexpr (requires { reader_->Write(request); }) {
      std::lock_guard lock(write_mutex_);
      return !writes_done_ && reader_->Write(request);
    }
    return false;
  }
  void writes_done() override {
    if constexpr (requires { reader_->WritesDone(); }) {
      std::lock_guard lock(write_mutex_);
      if (!writes_done_) reader_->WritesDone();
      writes_done_ = true;
    }
  }
  bool read(Response& response) override { return reader_->Read(&response); }
  Result<> finish() override {
    const grpc::Status status = reader_->Finish();
    if (!status.ok()) return std::unexpected(from_status(status));
    return {};
  }
  void cancel() override { call_.context.TryCancel(); }

 private:
  CallContext call_;
  std::unique_ptr<Reader> reader_;
  std::mutex write_mutex_;
  bool writes_done_ = false;  // Guarded by write_mutex_.
};

class ClientImpl final : public Client {
 public:
  explicit ClientImpl(const std::shared_ptr<grpc::Channel>& channel)
      : vms_(channel),
        execs_(channel),
        consoles_(channel),
        events_(channel),
        snapshots_(channel),
        templates_(channel),
        memory_(channel),
        system_(channel) {}

  void set_deadline(Time deadline) override { deadline_ = deadline; }
  void cancel_all() override { active_.set_cancelled(true); }
  void allow_calls() override {
    active_.set_cancelled(false);
    deadline_ = Time::max();
  }

#define MAYFLY_UNARY(stub, name)                                                         \
  Result<v1::name##Response> call(const v1::name##Request& request) override {           \
    return unary<v1::name##Response>([&](grpc::ClientContext* context, auto* response) { \
      return stub.name(context, request, response);                                      \
    });                                                                                  \
  }
  MAYFLY_UNARY(vms_, CreateVm)
  MAYFLY_UNARY(vms_, StartVm)
  MAYFLY_UNARY(vms_, PauseVm)
  MAYFLY_UNARY(vms_, ResumeVm)
  MAYFLY_UNARY(vms_, StopVm)
  MAYFLY_UNARY(vms_, DeleteVm)
  MAYFLY_UNARY(vms_, UpdateVm)
  MAYFLY_UNARY(vms_, GetVm)
  MAYFLY_UNARY(vms_, ListVms)
  MAYFLY_UNARY(vms_, WaitVm)
  MAYFLY_UNARY(snapshots_, CreateSnapshot)
  MAYFLY_UNARY(snapshots_, CancelSnapshot)
  MAYFLY_UNARY(snapshots_, GetSnapshot)
  MAYFLY_UNARY(snapshots_, ListSnapshots)
  MAYFLY_UNARY(snapshots_, DeleteSnapshot)
  MAYFLY_UNARY(snapshots_, RebaseSnapshot)
  MAYFLY_UNARY(snapshots_, VerifySnapshot)
  MAYFLY_UNARY(snapshots_, RecordWorkingSet)
  MAYFLY_UNARY(snapshots_, RestoreVm)
  MAYFLY_UNARY(templates_, PrepareTemplate)
  MAYFLY_UNARY(templates_, GetTemplate)
  MAYFLY_UNARY(templates_, ListTemplates)
  MAYFLY_UNARY(templates_, DeleteTemplate)
  MAYFLY_UNARY(memory_, DescribeMemory)
  MAYFLY_UNARY(memory_, ExportMemory)
  MAYFLY_UNARY(memory_, ListMemoryUsage)
  MAYFLY_UNARY(system_, GetInfo)
  MAYFLY_UNARY(system_, CheckHost)
#undef MAYFLY_UNARY

  std::unique_ptr<ExecStream> exec() override {
    auto stream = make<v1::ExecRequest, v1::ExecResponse,
                       grpc::ClientReaderWriter<v1::ExecRequest, v1::ExecResponse>>();
    stream->set_reader(execs_.Exec(stream->context()));
    return stream;
  }
  std::unique_ptr<AttachStream> attach_console() override {
    auto stream =
        make<v1::AttachConsoleRequest, v1::AttachConsoleResponse,
             grpc::ClientReaderWriter<v1::AttachConsoleRequest, v1::AttachConsoleResponse>>();
    stream->set_reader(consoles_.AttachConsole(stream->context()));
    return stream;
  }
  std::unique_ptr<ConsoleStream> read_console(const v1::ReadConsoleRequest& request) override {
    auto stream = make<v1::ReadConsoleRequest, v1::ReadConsoleResponse,
                       grpc::ClientReader<v1::ReadConsoleResponse>>();
    stream->set_reader(consoles_.ReadConsole(stream->context(), request));
    return stream;
  }
  std::unique_ptr<EventStream> watch_events(const v1::WatchEventsRequest& request) override {
    auto stream = make<v1::WatchEventsRequest, v1::WatchEventsResponse,
                       grpc::ClientReader<v1::WatchEventsResponse>>();
    stream->set_reader(events_.WatchEvents(stream->context(), request));
    return stream;
  }
  std::unique_ptr<PagesStream> query_pages(const v1::QueryPagesRequest& request) override {
    auto stream = make<v1::QueryPagesRequest, v1::QueryPagesResponse,
                       grpc::ClientReader<v1::QueryPagesResponse>>();
    stream->set_reader(memory_.QueryPages(stream->context(), request));
    return stream;
  }
  std::unique_ptr<CloneStream> clone(const v1::CloneVmRequest& request) override {
    auto stream =
        make<v1::CloneVmRequest, v1::CloneVmResponse, grpc::ClientReader<v1::CloneVmResponse>>();
    stream->set_reader(snapshots_.CloneVm(stream->context(), request));
    return stream;
  }

 private:
  template <typename Response, typename Run>
  Result<Response> unary(Run run) {
    CallContext call(active_, deadline_);
    Response response;
    const grpc::Status status = run(&call.context, &response);
    if (!status.ok()) return std::unexpected(from_status(status));
    return response;
  }
  template <typename Request, typename Response, typename Reader>
  std::unique_ptr<StreamImpl<Request, Response, Reader>> make() {
    return std::make_unique<StreamImpl<Request, Response, Reader>>(active_, deadline_);
  }

  ActiveCalls active_;
  Time deadline_ = Time::max();
  v1::VmService::Stub vms_;
  v1::ExecService::Stub execs_;
  v1::ConsoleService::Stub consoles_;
  v1::EventService::Stub events_;
  v1::SnapshotService::Stub snapshots_;
  v1::TemplateService::Stub templates_;
  v1::MemoryService::Stub memory_;
  v1::SystemService::Stub system_;
};

}  // namespace

std::unique_ptr<Client> Client::connect(const std::string& target) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
  return std::make_unique<ClientImpl>(
      grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments));
}

}  // namespace mayfly::cli
