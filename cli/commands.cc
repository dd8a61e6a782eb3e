// SPDX-License-Identifier: Apache-2.0
#include "cli/commands.h"

#include "cli/client.h"
#include "cli/daemon_call.h"
#include "cli/output.h"
#include "cli/private_daemon.h"
#include "cli/remote_command.h"
#include "cli/run.h"
#include "cli/vm_spec.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::cli {

namespace {

constexpr const char* kVersion = "0.1.0";
constexpr char kDetach = 0x1d;  // Ctrl-]

template <typename Request>
int simple(const GlobalFlags& global, const std::string& vm_id) {
  Request request;
  request.set_vm_id(vm_id);
  return answer(global, connect(global)->call(request));
}

Result<v1::VmState> parse_state(const std::string& word) {
  std::string name = "VM_STATE_" + word;
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return std::toupper(c); });
  v1::VmState state = v1::VM_STATE_UNSPECIFIED;
  if (!v1::VmState_Parse(name, &state) || state == v1::VM_STATE_UNSPECIFIED) {
    return fail({Code::kInvalidArgument, "WAIT_GOAL"},
                "--state: %s is none of created, running, paused, stopped", word.c_str());
  }
  return state;
}

int attach(const GlobalFlags& global, Client& client, const ConsoleFlags& flags) {
  auto stream = client.attach_console();
  v1::AttachConsoleRequest request;
  request.mutable_start()->set_vm_id(flags.vm_id);
  request.mutable_start()->set_offset(flags.offset);
  stream->write(request);
  if (::isatty(STDIN_FILENO) != 0) std::fputs("mayfly: attached; Ctrl-] detaches\r\n", stderr);
  const RawTerminal raw;
  // Left behind in its read(2) when the VM ends first: the program ends then too.
  std::thread([raw_stream = stream.get()] {
    char buffer[4096];
    for (ssize_t size; (size = ::read(STDIN_FILENO, buffer, sizeof(buffer))) > 0;) {
      const std::string bytes(buffer, static_cast<size_t>(size));
      const size_t detach = ::isatty(STDIN_FILENO) != 0 ? bytes.find(kDetach) : std::string::npos;
      v1::AttachConsoleRequest input;
      input.set_input(bytes.substr(0, detach));
      if (!raw_stream->write(input)) return;
      if (detach != std::string::npos) {
        raw_stream->cancel();
        return;
      }
    }
  }).detach();
  v1::AttachConsoleResponse response;
  while (stream->read(response)) write_out(STDOUT_FILENO, response.chunk().data());
  auto finished = stream->finish();
  const bool detached = !finished && finished.error().code() == Code::kCancelled;
  const int code = finished || detached ? 0 : failed(global, finished.error());
  (void)stream.release();  // The input thread may still hold it.
  return code;
}

}  // namespace

int create(const GlobalFlags& global, const CreateFlags& flags) {
  auto spec = make_spec(flags.vm, find_installation());
  if (!spec) return report_error(global, spec.error());
  v1::CreateVmRequest request;
  request.set_vm_id(flags.vm_id);
  *request.mutable_spec() = *std::move(spec);
  request.set_start(flags.start);
  request.set_request_id(flags.request_id);
  return answer(global, connect(global)->call(request));
}

int start(const GlobalFlags& global, const std::string& vm_id) {
  return simple<v1::StartVmRequest>(global, vm_id);
}
int pause(const GlobalFlags& global, const std::string& vm_id) {
  return simple<v1::PauseVmRequest>(global, vm_id);
}
int resume(const GlobalFlags& global, const std::string& vm_id) {
  return simple<v1::ResumeVmRequest>(global, vm_id);
}

int list(const GlobalFlags& global) {
  return list_all<v1::ListVmsRequest>(global, &v1::ListVmsResponse::mutable_vms, vm_table);
}

int inspect(const GlobalFlags& global, const std::string& vm_id) {
  v1::GetVmRequest request;
  request.set_vm_id(vm_id);
  const auto response = connect(global)->call(request);
  if (!response) return failed(global, response.error());
  print_json(response->vm());
  return 0;
}

int update(const GlobalFlags& global, const UpdateFlags& flags) {
  v1::UpdateVmRequest request;
  request.set_vm_id(flags.vm_id);
  if (flags.balloon_target_mib) {
    request.mutable_spec()->mutable_balloon()->set_target_mib(*flags.balloon_target_mib);
    request.mutable_update_mask()->add_paths("balloon.target_mib");
  }
  if (!flags.metadata.empty()) {
    auto text = read_metadata(flags.metadata);
    if (!text) return report_error(global, text.error());
    request.mutable_spec()->set_metadata(*std::move(text));
  }
  if (!flags.metadata.empty() || flags.no_metadata) {
    request.mutable_update_mask()->add_paths("metadata");
  }
  return answer(global, connect(global)->call(request));
}

int wait(const GlobalFlags& global, const WaitFlags& flags) {
  v1::WaitVmRequest request;
  request.set_vm_id(flags.vm_id);
  request.set_guest_ready(flags.ready);
  for (const std::string& word : flags.states) {
    const auto state = parse_state(word);
    if (!state) return report_error(global, state.error());
    request.add_states(*state);
  }
  if (flags.states.empty() && !flags.ready) request.add_states(v1::VM_STATE_STOPPED);
  return answer(global, connect(global)->call(request));
}

int stop(const GlobalFlags& global, const StopFlags& flags) {
  v1::StopVmRequest request;
  request.set_vm_id(flags.vm_id);
  if (flags.grace_s)
    request.set_grace_ms(static_cast<uint32_t>(std::clamp(*flags.grace_s, 0.0, 4e6) * 1000));
  return answer(global, connect(global)->call(request));
}

int remove(const GlobalFlags& global, const RemoveFlags& flags) {
  return delete_each(global, flags.vm_ids, [&](const std::string& vm_id) {
    v1::DeleteVmRequest request;
    request.set_vm_id(vm_id);
    request.set_force(flags.force);
    return request;
  });
}

int console(const GlobalFlags& global, const ConsoleFlags& flags) {
  const auto client = connect(global);
  if (flags.attach) return attach(global, *client, flags);
  v1::ReadConsoleRequest request;
  request.set_vm_id(flags.vm_id);
  request.set_offset(flags.offset);
  request.set_follow(flags.follow);
  const auto stream = client->read_console(request);
  for (v1::ReadConsoleResponse response; stream->read(response);) {
    const v1::ConsoleChunk& chunk = response.chunk();
    if (global.json) {
      std::printf("%s\n", to_json(chunk, false).c_str());
      std::fflush(stdout);
      continue;
    }
    if (chunk.lost_bytes() > 0) {
      std::fprintf(stderr, "mayfly: %llu bytes before offset %llu are no longer kept\n",
                   static_cast<unsigned long long>(chunk.lost_bytes()),
                   static_cast<unsigned long long>(chunk.offset()));
    }
    write_out(STDOUT_FILENO, chunk.data());
  }
  const auto finished = stream->finish();
  return finished ? 0 : failed(global, finished.error());
}

int events(const GlobalFlags& global, const EventFlags& flags) {
  v1::WatchEventsRequest request;
  request.set_vm_id(flags.vm_id);
  request.set_resume_token(flags.resume_token);
  request.set_from_oldest(flags.from_oldest);
  const auto client = connect(global);
  const auto stream = client->watch_events(request);
  for (v1::WatchEventsResponse response; stream->read(response);) {
    std::printf("%s\n", global.json ? to_json(response.event(), false).c_str()
                                    : event_line(response.event()).c_str());
    std::fflush(stdout);
  }
  const auto finished = stream->finish();
  return finished ? 0 : failed(global, finished.error());
}

int doctor(const GlobalFlags& global) {
  // Without a daemon the host is looked at by one of our own.
  std::unique_ptr<PrivateDaemon> own;
  std::string target = daemon_target(global.socket);
  struct stat status;
  const bool asked_for = !global.socket.empty() || std::getenv("MAYFLY_SOCKET") != nullptr;
  if (!asked_for && ::stat(target.c_str() + 5, &status) != 0) {
    auto started = PrivateDaemon::start(find_installation());
    if (!started) return report_error(global, started.error());
    own = *std::move(started);
    target = own->target();
  }
  v1::CheckHostRequest request;
  request.set_refresh(true);
  const auto client = Client::connect(target);
  client->set_deadline(deadline_of(global));
  const auto response = client->call(request);
  if (!response) return failed(global, response.error());
  if (global.json) {
    print_json(*response);
  } else {
    std::fputs(check_table(*response).c_str(), stdout);
  }
  return response->runs_linux_guests() ? 0 : 1;
}

int version(const GlobalFlags& global) {
  const auto client = connect(global);
  const auto info = client->call(v1::GetInfoRequest());
  if (global.json) {
    std::printf("{\"version\":\"%s\",\"daemon\":%s}\n", kVersion,
                info ? to_json(*info, false).c_str() : "null");
    return 0;
  }
  std::printf("mayfly %s\n", kVersion);
  if (info) {
    std::printf("mayflyd %s, pid %d, %u VMs, on %s\n", info->version().c_str(), info->pid(),
                info->vm_count(), daemon_target(global.socket).c_str());
  } else {
    std::printf("no daemon answers on %s\n", daemon_target(global.socket).c_str());
  }
  return 0;
}

}  // namespace mayfly::cli
