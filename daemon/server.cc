// SPDX-License-Identifier: Apache-2.0
#include "daemon/server.h"

#include "daemon/console_service.h"
#include "daemon/exec_service.h"
#include "daemon/health_service.h"
#include "daemon/host_description_sys.h"
#include "daemon/listener.h"
#include "daemon/memory_service.h"
#include "daemon/random.h"
#include "daemon/snapshot_service.h"
#include "daemon/system_service.h"
#include "daemon/tap_sys.h"
#include "daemon/template_service.h"
#include "daemon/vm_service.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_posix.h>

namespace mayfly::daemon {

namespace {

// A call that waits holds a thread; calls above this are refused with RESOURCE_EXHAUSTED.
constexpr int kMaxThreads = 4096;
// That fill memories.
constexpr size_t kLazyThreads = 2;
// Every wait has ended by then; what remains is answers on their way, and clients that stay
// connected.
constexpr auto kDrainCalls = std::chrono::milliseconds(200);

class ServerImpl final : public Server {
 public:
  ServerImpl(const ServerOptions& options, ServerDirs dirs, std::unique_ptr<JailHost> jails,
             std::unique_ptr<Reactor> reactor, std::unique_ptr<AddressPool> addresses)
      : dirs_(std::move(dirs)),
        jails_(std::move(jails)),
        checker_({options.kvm_device, options.userfault_device}, *jails_),
        events_(random_token()),
        reactor_(std::move(reactor)),
        addresses_(std::move(addresses)),
        environment_{.reactor = *reactor_,
                     .events = events_,
                     .vms_dir = dirs_.state->vms_dir(),
                     .jails = *jails_,
                     .agent_initrd = options.agent_initrd,
                     .kvm_path = options.kvm_device,
                     .userfault_path = options.userfault_device,
                     .nets = {.pool = addresses_.get(),
                              .passt = can_make_devices() ? "" : find_passt(options.passt)}},
        manager_(environment_, [this](const VmSpec& spec) { return checker_.gate(spec); }),
        shells_(environment_),
        templates_(shells_),
        snapshots_(manager_, *dirs_.snapshots, {templates_, lazy_}, events_,
                   [device = options.kvm_device] { return describe_host(device); }),
        exports_(*reactor_, dirs_.state->path() + "/exports"),
        memory_(manager_, exports_),
        vm_service_(manager_),
        exec_service_(manager_),
        console_service_(manager_),
        event_service_(events_),
        snapshot_service_(snapshots_),
        template_service_(snapshots_, templates_),
        memory_service_(memory_),
        system_service_(manager_, checker_, *jails_, events_.epoch(), dirs_.state->path()),
        exec_acceptor_(
            exec_service_,
            [](ExecServiceImpl& service, auto* context, auto* stream, auto* queue, void* tag) {
              service.RequestExec(context, stream, queue, queue, tag);
            },
            &ExecServiceImpl::handle),
        attach_acceptor_(
            console_service_,
            [](ConsoleServiceImpl& service, auto* context, auto* stream, auto* queue, void* tag) {
              service.RequestAttachConsole(context, stream, queue, queue, tag);
            },
            &ConsoleServiceImpl::handle_attach) {}
  ~ServerImpl() override { stop(std::chrono::milliseconds(0)); }

  Result<> serve(const std::string& socket_path) {
    grpc::ServerBuilder builder;
    add<v1::VmService>(builder, vm_service_);
    add<v1::ExecService>(builder, exec_service_);
    add<v1::ConsoleService>(builder, console_service_);
    add<v1::EventService>(builder, event_service_);
    add<v1::SnapshotService>(builder, snapshot_service_);
    add<v1::TemplateService>(builder, template_service_);
    add<v1::MemoryService>(builder, memory_service_);
    add<v1::SystemService>(builder, system_service_);
    add<grpc::health::v1::Health>(builder, health_service_);
    builder.SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::NUM_CQS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::MIN_POLLERS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::MAX_POLLERS, 2);
    grpc::ResourceQuota quota;
    builder.SetResourceQuota(quota.SetMaxThreads(kMaxThreads));
    bidi_ = std::make_unique<Bidi>(builder.AddCompletionQueue());
    server_ = builder.BuildAndStart();
    if (!server_) return fail({Code::kInternal, "GRPC_SERVER"}, "the gRPC server did not start");
    exec_acceptor_.begin(*bidi_);
    attach_acceptor_.begin(*bidi_);
    bidi_->start();
    // Our own socket rather than gRPC's: its peers' users are checked, and a stale one is told from
    // a live one.
    listener_ = TRY(Listener::create(*reactor_, socket_path, [this](Fd connection) {
      grpc::AddInsecureChannelFromFd(server_.get(), connection.release());
    }));
    return {};
  }

  void stop(std::chrono::milliseconds grace) override {
    listener_.reset();
    shells_.stop();
    manager_.shut_down(grace);
    events_.close();
    health_service_.stop();
    if (server_) {
      server_->Shutdown(std::chrono::system_clock::now() + kDrainCalls);
      server_->Wait();
      bidi_.reset();
      server_.reset();
    }
  }

 private:
  template <typename Service>
  void add(grpc::ServerBuilder& builder, typename Service::Service& service) {
    builder.RegisterService(&service);
    health_service_.add(Service::service_full_name());
  }

  // Each uses those before it.
  const ServerDirs dirs_;
  const std::unique_ptr<JailHost> jails_;
  HostChecker checker_;
  EventLog events_;
  const std::unique_ptr<Reactor> reactor_;
  const std::unique_ptr<AddressPool> addresses_;
  LazyServer lazy_{kLazyThreads};
  const VmEnvironment environment_;
  VmManager manager_;
  ShellPool shells_;
  TemplateStore templates_;
  SnapshotManager snapshots_;
  MemoryExports exports_;
  MemoryManager memory_;
  VmServiceImpl vm_service_;
  ExecServiceImpl exec_service_;
  ConsoleServiceImpl console_service_;
  EventServiceImpl event_service_;
  SnapshotServiceImpl snapshot_service_;
  TemplateServiceImpl template_service_;
  MemoryServiceImpl memory_service_;
  SystemServiceImpl system_service_;
  HealthServiceImpl health_service_;
  BidiAcceptor<ExecServiceImpl, ExecCall> exec_acceptor_;
  BidiAcceptor<ConsoleServiceImpl, AttachCall> attach_acceptor_;
  std::unique_ptr<Bidi> bidi_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Listener> listener_;
};

}  // namespace

Result<std::unique_ptr<Server>> Server::create(const ServerOptions& options, ServerDirs dirs,
                                               std::unique_ptr<JailHost> jails) {
  auto addresses = TRY(AddressPool::create(options.net_pool));
  auto reactor = TRY(Reactor::create());
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  auto server = std::make_unique<ServerImpl>(options, std::move(dirs), std::move(jails),
                                             std::move(reactor), std::move(addresses));
  TRY(server->serve(options.socket_path));
  return server;
}

}  // namespace mayfly::daemon
