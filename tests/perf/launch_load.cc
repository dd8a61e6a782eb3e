// SPDX-License-Identifier: Apache-2.0
//
// Many short lives through a daemon beside loops of the floor: README.md says how to read it.
#include "base/clock.h"
#include "base/fd.h"
#include "mayfly/v1/snapshot.grpc.pb.h"
#include "mayfly/v1/system.grpc.pb.h"
#include "mayfly/v1/vm.grpc.pb.h"
#include "proto/control.pb.h"
#include "tests/perf/rounds.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <thread>

#include <fcntl.h>

namespace mayfly::perf {
namespace {

constexpr const char* kUsage =
    "usage: launch_load --socket unix:PATH --state-dir DIR --snapshot ID --floor PATH --json FILE\n"
    "                   [--template ID] [--disk PATH] [--rounds N] [--batch N] [--parallel N]\n"
    "\n"
    "Each round: `batch` floor processes one after the other, as many in Firecracker's order, as\n"
    "many VMs restored from the snapshot (of a guest that powers off at once), waited for and\n"
    "deleted through the daemon, by one client and by `parallel` ones; and by one after a rest of\n"
    "20 ms for each, from the snapshot and from a template. FILE gets what each life took. "
    "Default:\n"
    "20 rounds of 10, 4 in parallel.\n";

constexpr uint32_t kMaxRounds = 10'000;
constexpr uint32_t kMaxBatch = 1'000;
constexpr uint32_t kMaxParallel = 64;
// So that a template's next shell is there; and the kernel has forgotten that cgroups were just in
// use, whose writers it makes wait for RCU otherwise.
constexpr auto kRest = std::chrono::milliseconds(20);

struct Options {
  std::string socket;
  std::string state_dir;
  std::string snapshot;
  std::string template_id;
  std::string floor;
  std::string disk;
  std::string json;
  uint32_t rounds = 20;
  uint32_t batch = 10;
  uint32_t parallel = 4;
};

bool parse(int argc, char** argv, Options& options) {
  const std::pair<std::string_view, std::string*> texts[] = {{"--socket", &options.socket},
                                                             {"--state-dir", &options.state_dir},
                                                             {"--floor", &options.floor},
                                                             {"--snapshot", &options.snapshot},
                                                             {"--template", &options.template_id},
                                                             {"--disk", &options.disk},
                                                             {"--json", &options.json}};
  const std::pair<std::string_view, uint32_t*> numbers[] = {{"--rounds", &options.rounds},
                                                            {"--batch", &options.batch},
                                                            {"--parallel", &options.parallel}};
  for (int i = 1; i + 1 < argc; i += 2) {
    bool known = false;
    for (const auto& [name, to] : texts) {
      if (name == argv[i]) *to = argv[i + 1], known = true;
    }
    for (const auto& [name, to] : numbers) {
      if (name != argv[i]) continue;
      *to = static_cast<uint32_t>(std::strtoul(argv[i + 1], nullptr, 10));
      known = true;
    }
    if (!known) return false;
  }
  return argc % 2 == 1 && !options.socket.empty() && !options.state_dir.empty() &&
         !options.snapshot.empty() && !options.floor.empty() && !options.json.empty() &&
         options.rounds > 0 && options.rounds <= kMaxRounds && options.batch > 0 &&
         options.batch <= kMaxBatch && options.parallel > 0 && options.parallel <= kMaxParallel;
}

/// What a VM goes on from.
enum class Source { kSnapshot, kTemplate };

/// One VM's life, in ns since its RestoreVm call: by our clock, and by the monitor's.
struct Life {
  uint64_t restored_ns = 0;
  uint64_t stopped_ns = 0;
  uint64_t deleted_ns = 0;
  uint64_t main_ns = 0;
  uint64_t received_ns = 0;
  uint64_t running_ns = 0;
  uint64_t ended_ns = 0;
};

Error error_of(const char* call, const grpc::Status& status) {
  return Error({static_cast<Code>(status.error_code()), "GRPC"},
               format("%s: %s", call, status.error_message().c_str()));
}

class Client {
 public:
  Client(const Options& options, const std::shared_ptr<grpc::Channel>& channel)
      : options_(options), vms_(channel), snapshots_(channel), system_(channel) {}

  /// The time of a call that does nothing.
  Result<Sample> empty_call() {
    grpc::ClientContext context;
    v1::GetCapabilitiesResponse response;
    const uint64_t begin = monotonic_ns();
    TRY(check("GetCapabilities", system_.GetCapabilities(&context, {}, &response)));
    return Sample{.wall_ns = monotonic_ns() - begin};
  }

  Result<Life> live(const std::string& vm_id, Source source) {
    const uint64_t begin = monotonic_ns();
    Life life;
    TRY(restore(vm_id, source));
    life.restored_ns = monotonic_ns() - begin;
    TRY(wait(vm_id));
    life.stopped_ns = monotonic_ns() - begin;
    const uint64_t reading = monotonic_ns();
    TRY(read_report(vm_id, begin, life));
    const uint64_t read_ns = monotonic_ns() - reading;
    grpc::ClientContext context;
    v1::DeleteVmRequest request;
    request.set_vm_id(vm_id);
    v1::DeleteVmResponse response;
    TRY(check("DeleteVm", vms_.DeleteVm(&context, request, &response)));
    life.deleted_ns = monotonic_ns() - begin - read_ns;
    return life;
  }

 private:
  static Result<> check(const char* call, const grpc::Status& status) {
    if (status.ok()) return {};
    return std::unexpected(error_of(call, status));
  }

  Result<> restore(const std::string& vm_id, Source source) {
    grpc::ClientContext context;
    v1::RestoreVmRequest request;
    if (source == Source::kTemplate) {
      request.set_template_id(options_.template_id);
    } else {
      request.set_snapshot_id(options_.snapshot);
    }
    request.set_vm_id(vm_id);
    request.set_start(true);
    request.mutable_overrides()->set_allow_slow_kvm(true);
    if (!options_.disk.empty()) request.mutable_overrides()->add_disks()->set_path(options_.disk);
    v1::RestoreVmResponse response;
    return check("RestoreVm", snapshots_.RestoreVm(&context, request, &response));
  }

  Result<> wait(const std::string& vm_id) {
    grpc::ClientContext context;
    v1::WaitVmRequest request;
    request.set_vm_id(vm_id);
    request.add_states(v1::VM_STATE_STOPPED);
    v1::WaitVmResponse response;
    TRY(check("WaitVm", vms_.WaitVm(&context, request, &response)));
    if (response.vm().exit().reason() == v1::EXIT_REASON_GUEST_POWEROFF) return {};
    return fail({Code::kAborted, "EXIT_REASON"}, "%s ended otherwise: %s", vm_id.c_str(),
                response.vm().exit().ShortDebugString().c_str());
  }

  // The monitor's own word, in its place in the daemon's state directory.
  Result<> read_report(const std::string& vm_id, uint64_t begin, Life& life) {
    const std::string path = options_.state_dir + "/vms/" + vm_id + "/exit";
    const Fd file = TRY(Fd::open(path.c_str(), O_RDONLY));
    std::string bytes(TRY(file_size(file.ref())), '\0');
    TRY(pread_exact(file.ref(), std::as_writable_bytes(std::span(bytes)), 0));
    control::ExitReport report;
    if (bytes.empty() || !report.ParseFromString(bytes)) {
      return fail({Code::kDataLoss, "EXIT_REPORT"}, "%s is no exit report", path.c_str());
    }
    // A shell that waited for the call had its main() before it, and receives a claim.
    const auto since = [begin](uint64_t at) { return at > begin ? at - begin : 0; };
    const control::Phases& phases = report.phases();
    life.main_ns = since(phases.main_ns());
    life.received_ns = since(phases.claim_ns() != 0 ? phases.claim_ns() : phases.received_ns());
    life.running_ns = since(report.phases().running_ns());
    life.ended_ns = since(report.ended_ns());
    return {};
  }

  const Options& options_;
  v1::VmService::Stub vms_;
  v1::SnapshotService::Stub snapshots_;
  v1::SystemService::Stub system_;
};

/// Lives by one client or by several, which share the batch.
class Batches {
 public:
  explicit Batches(const Options& options) : options_(options) {
    for (uint32_t i = 0; i < options.parallel; ++i) {
      // Else gRPC lets all of them share one connection.
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
      clients_.emplace_back(
          options,
          grpc::CreateCustomChannel(options.socket, grpc::InsecureChannelCredentials(), arguments));
    }
  }

  Client& first() { return clients_.front(); }

  Result<Sample> run(uint32_t parallel, std::vector<Life>& lives) {
    std::vector<std::vector<Life>> parts(parallel);
    std::vector<std::optional<Error>> errors(parallel);
    std::atomic<uint32_t> next = 0;
    std::vector<std::thread> threads;
    const uint64_t begin = monotonic_ns();
    for (uint32_t i = 0; i < parallel; ++i) {
      threads.emplace_back([&, i] {
        while (next.fetch_add(1) < options_.batch && !errors[i]) {
          auto life = clients_[i].live(next_id(), Source::kSnapshot);
          life ? parts[i].push_back(*life) : void(errors[i] = life.error());
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    const uint64_t took = monotonic_ns() - begin;
    for (std::optional<Error>& error : errors) {
      if (error) return std::unexpected(*std::move(error));
    }
    for (const auto& part : parts) lives.insert(lives.end(), part.begin(), part.end());
    return Sample{.wall_ns = took};
  }

  Result<Sample> run_rested(Source source, std::vector<Life>& lives) {
    Sample sum;
    for (uint32_t i = 0; i < options_.batch; ++i) {
      std::this_thread::sleep_for(kRest);
      lives.push_back(TRY(first().live(next_id(), source)));
      sum.wall_ns += lives.back().deleted_ns;
    }
    return sum;
  }

 private:
  std::string next_id() { return "load-" + std::to_string(count_.fetch_add(1)); }

  const Options& options_;
  std::vector<Client> clients_;
  std::atomic<uint64_t> count_ = 0;
};

Contender loop(const std::string& name, uint32_t batch, std::vector<std::string> argv) {
  auto one = command(name, std::move(argv));
  return {name, [batch, one = std::move(one)]() mutable -> Result<Sample> {
            Sample sum;
            for (uint32_t i = 0; i < batch; ++i) sum.wall_ns += TRY(one.run()).wall_ns;
            return sum;
          }};
}

void print_numbers(FILE* file, const char* name, size_t count, auto at) {
  std::fprintf(file, "\"%s\": [", name);
  for (size_t i = 0; i < count; ++i) {
    std::fprintf(file, "%s%llu", i == 0 ? "" : ", ", static_cast<unsigned long long>(at(i)));
  }
  std::fputs("]", file);
}

// Without the first `skip`, which warm up.
void print_lives(FILE* file, const char* name, size_t skip, const std::vector<Life>& lives) {
  constexpr std::pair<const char*, uint64_t Life::*> kFields[] = {
      {"restored_ns", &Life::restored_ns}, {"stopped_ns", &Life::stopped_ns},
      {"deleted_ns", &Life::deleted_ns},   {"main_ns", &Life::main_ns},
      {"received_ns", &Life::received_ns}, {"running_ns", &Life::running_ns},
      {"ended_ns", &Life::ended_ns}};
  std::fprintf(file, ",\n\"%s\": {", name);
  for (const auto& [label, field] : kFields) {
    if (label != kFields[0].first) std::fputs(", ", file);
    print_numbers(file, label, lives.size() - skip,
                  [&](size_t i) { return lives[i + skip].*field; });
  }
  std::fputs("}", file);
}

Result<> measure(const Options& options) {
  FILE* file = std::fopen(options.json.c_str(), "we");
  if (file == nullptr) {
    return fail_errno({Code::kNotFound, "JSON"}, errno, "--json %s", options.json.c_str());
  }
  Batches batches(options);
  std::vector<Life> alone;
  std::vector<Life> together;
  std::vector<Life> rested;
  std::vector<Life> claimed;
  std::vector<Contender> contenders;
  contenders.push_back({"empty call", [&] { return batches.first().empty_call(); }});
  contenders.push_back(loop("floor", options.batch, {options.floor, "floor"}));
  contenders.push_back(loop("firecracker order", options.batch, {options.floor, "firecracker"}));
  contenders.push_back({"daemon", [&] { return batches.run(1, alone); }});
  contenders.push_back(
      {"daemon, parallel", [&] { return batches.run(options.parallel, together); }});
  contenders.push_back(
      {"daemon, rested", [&] { return batches.run_rested(Source::kSnapshot, rested); }});
  if (!options.template_id.empty()) {
    contenders.push_back(
        {"daemon, template", [&] { return batches.run_rested(Source::kTemplate, claimed); }});
  }
  const auto samples = run_rounds(contenders, options.rounds);
  if (samples) {
    std::fprintf(file, "{\"batch\": %u, \"parallel\": %u", options.batch, options.parallel);
    for (size_t i = 0; i < contenders.size(); ++i) {
      std::fputs(",\n", file);
      print_numbers(file, contenders[i].name.c_str(), options.rounds,
                    [&](size_t round) { return (*samples)[i][round].wall_ns; });
    }
    print_lives(file, "lives", options.batch, alone);
    print_lives(file, "lives, parallel", options.batch, together);
    print_lives(file, "lives, rested", options.batch, rested);
    if (!claimed.empty()) print_lives(file, "lives, template", options.batch, claimed);
    std::fputs("}\n", file);
  }
  if (std::fclose(file) != 0) {
    return fail_errno({Code::kDataLoss, "JSON"}, errno, "--json %s", options.json.c_str());
  }
  if (!samples) return std::unexpected(samples.error());
  return {};
}

int run(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  const auto measured = measure(options);
  if (measured) return 0;
  std::fprintf(stderr, "launch_load: %s\n", measured.error().describe().c_str());
  return 1;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) { return mayfly::perf::run(argc, argv); }
