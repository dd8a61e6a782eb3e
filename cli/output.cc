// SPDX-License-Identifier: Apache-2.0
#include "cli/output.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>

namespace mayfly::cli {

namespace {

std::string without_prefix(const std::string& name, size_t prefix) {
  return name.size() > prefix ? name.substr(prefix) : name;
}

std::string lower_dashed(std::string text) {
  for (char& c : text) c = c == '_' ? '-' : static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  return text;
}

std::string age_of(const google::protobuf::Timestamp& since) {
  const int64_t seconds = std::max<int64_t>(0, std::time(nullptr) - since.seconds());
  if (seconds < 120) return format("%llds", static_cast<long long>(seconds));
  if (seconds < 7200) return format("%lldm", static_cast<long long>(seconds / 60));
  if (seconds < 172800) return format("%lldh", static_cast<long long>(seconds / 3600));
  return format("%lldd", static_cast<long long>(seconds / 86400));
}

std::string clock_of(const google::protobuf::Timestamp& time) {
  const auto seconds = static_cast<time_t>(time.seconds());
  tm parts = {};
  ::localtime_r(&seconds, &parts);
  return format("%02d:%02d:%02d.%06d", parts.tm_hour, parts.tm_min, parts.tm_sec,
                time.nanos() / 1000);
}

std::string status_word(v1::CheckStatus status) {
  switch (status) {
    case v1::CHECK_STATUS_OK:
      return "ok";
    case v1::CHECK_STATUS_WARNING:
      return "warning";
    default:
      return "MISSING";
  }
}

}  // namespace

std::string to_json(const google::protobuf::Message& message, bool pretty) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = pretty;
  options.always_print_primitive_fields = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  if (!status.ok()) return "{}";
  while (!json.empty() && json.back() == '\n') json.pop_back();
  return json;
}

std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - row[i].size() + 2, ' ');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string short_name(v1::VmState state) { return without_prefix(v1::VmState_Name(state), 9); }

std::string short_name(v1::ExitReason reason) {
  return lower_dashed(without_prefix(v1::ExitReason_Name(reason), 12));
}

std::string describe_exit(const v1::VmExit& exit) {
  std::string text = short_name(exit.reason());
  if (exit.signal() != 0) text += format(", signal %d", exit.signal());
  if (exit.has_denied_syscall()) {
    text += format(": %s (%u), thread %s", exit.denied_syscall().name().c_str(),
                   exit.denied_syscall().number(), exit.denied_syscall().thread().c_str());
  } else if (!exit.detail().empty()) {
    text += ": " + exit.detail();
  }
  return text;
}

std::string vm_table(const google::protobuf::RepeatedPtrField<v1::Vm>& vms) {
  std::vector<std::vector<std::string>> rows = {
      {"ID", "STATE", "VCPUS", "MEMORY", "AGE", "PID", "GUEST"}};
  for (const v1::Vm& vm : vms) {
    std::string guest = vm.has_exit()    ? describe_exit(vm.exit())
                        : vm.has_guest() ? "ready, Linux " + vm.guest().kernel_release()
                                         : "-";
    rows.push_back({vm.vm_id(), short_name(vm.state()), std::to_string(vm.spec().vcpus()),
                    std::to_string(vm.spec().memory_mib()) + " MiB", age_of(vm.create_time()),
                    vm.monitor_pid() == 0 ? "-" : std::to_string(vm.monitor_pid()),
                    std::move(guest)});
  }
  return table(rows);
}

std::string snapshot_table(const google::protobuf::RepeatedPtrField<v1::Snapshot>& snapshots) {
  std::vector<std::vector<std::string>> rows = {
      {"ID", "KIND", "PARENT", "VCPUS", "MEMORY", "STORED", "AGE"}};
  for (const v1::Snapshot& snapshot : snapshots) {
    if (!snapshot.damage().empty()) {
      rows.push_back({snapshot.snapshot_id(), "DAMAGED: " + snapshot.damage()});
      continue;
    }
    rows.push_back(
        {snapshot.snapshot_id(), without_prefix(v1::SnapshotKind_Name(snapshot.kind()), 14),
         snapshot.parent_id().empty() ? "-" : snapshot.parent_id(),
         std::to_string(snapshot.vcpus()), std::to_string(snapshot.memory_mib()) + " MiB",
         format("%.1f MiB", static_cast<double>(snapshot.stored_bytes()) / (1 << 20)),
         age_of(snapshot.create_time())});
  }
  return table(rows);
}

std::string template_table(const google::protobuf::RepeatedPtrField<v1::Template>& templates) {
  std::vector<std::vector<std::string>> rows = {
      {"ID", "SNAPSHOT", "VCPUS", "MEMORY", "RESIDENT", "SHELLS", "AGE"}};
  for (const v1::Template& each : templates) {
    rows.push_back({each.template_id(), each.snapshot_id(), std::to_string(each.vcpus()),
                    std::to_string(each.memory_mib()) + " MiB",
                    format("%.1f MiB", static_cast<double>(each.resident_bytes()) / (1 << 20)),
                    each.has_shells()
                        ? format("%u of %u ready", each.shells().ready(), each.shells().wanted())
                        : "-",
                    age_of(each.create_time())});
  }
  return table(rows);
}

std::string progress_text(const v1::SnapshotProgress& progress) {
  const std::string phase = v1::SnapshotPhase_Name(progress.phase());
  std::string text = "snapshot " + progress.snapshot_id() + ": " +
                     lower_dashed(without_prefix(phase, std::strlen("SNAPSHOT_PHASE_")));
  if (progress.phase() == v1::SNAPSHOT_PHASE_MEMORY) {
    text +=
        format(", %llu of %llu MiB", static_cast<unsigned long long>(progress.done_bytes() >> 20),
               static_cast<unsigned long long>(progress.total_bytes() >> 20));
  }
  if (progress.has_error()) text += ", " + progress.error().message();
  return text;
}

std::string usage_table(const v1::ListMemoryUsageResponse& usage) {
  const auto mib = [](uint64_t bytes) {
    return format("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  };
  std::vector<std::vector<std::string>> rows = {{"ID", "UNIQUE", "SHARED", "SWAPPED", "OVER"}};
  for (const v1::MemoryUsage& each : usage.usages()) {
    std::string over = "-";
    for (const v1::MemoryBase& base : usage.bases()) {
      if (base.base_id() != each.base_id()) continue;
      over = format("%s (%u VMs, %s)", base.origin().c_str(), base.vm_count(),
                    mib(base.allocated_bytes()).c_str());
    }
    rows.push_back({each.vm_id(), mib(each.unique_bytes()), mib(each.shared_bytes()),
                    mib(each.swapped_bytes()), over});
  }
  return table(rows);
}

std::string event_line(const v1::Event& event) {
  std::string what;
  switch (event.what_case()) {
    case v1::Event::kStateChanged:
      what = short_name(event.state_changed().from()) + " -> " +
             short_name(event.state_changed().to());
      break;
    case v1::Event::kGuestReady:
      what = format("guest ready after %.1f ms",
                    static_cast<double>(event.guest_ready().start_to_ready_us()) / 1e3);
      break;
    case v1::Event::kExited:
      what = "exited: " + describe_exit(event.exited());
      break;
    case v1::Event::kSyscallDenied: {
      const v1::DeniedSyscall& call = event.syscall_denied().denied();
      what = "the monitor made a system call that is denied to it";
      if (event.syscall_denied().has_denied())
        what += format(": %s (%u), thread %s", call.name().c_str(), call.number(),
                       call.thread().c_str());
      break;
    }
    case v1::Event::kSnapshotProgress:
      what = progress_text(event.snapshot_progress());
      break;
    case v1::Event::kShellFailed:
      what = "a shell of template " + event.shell_failed().template_id() +
             " failed: " + event.shell_failed().message();
      break;
    case v1::Event::kGap:
      what = event.gap().lost_events() == 0
                 ? "gap: the daemon was started anew"
                 : "gap: " + std::to_string(event.gap().lost_events()) + " events lost";
      break;
    case v1::Event::kDeleted:
      what = "deleted";
      break;
    default:
      what = "an event that this program does not know";
      break;
  }
  return clock_of(event.time()) + "  " + (event.vm_id().empty() ? "-" : event.vm_id()) + "  " +
         what;
}

std::string check_table(const v1::CheckHostResponse& response) {
  std::vector<std::vector<std::string>> rows = {{"CHECK", "STATUS", "DETAIL"}};
  for (const v1::HostCheck& check : response.checks()) {
    rows.push_back({check.name(), status_word(check.status()), check.detail()});
    if (!check.remedy().empty()) rows.push_back({"", "", "  mend: " + check.remedy()});
  }
  return table(rows) + (response.runs_linux_guests()
                            ? "This host runs Linux guests.\n"
                            : "This host does not run Linux guests by itself.\n");
}

void append_phases(const v1::PhaseTimes& times, int depth, std::vector<TimingRow>& rows) {
  for (const v1::Phase& phase : times.phases()) {
    rows.push_back({.depth = depth,
                    .name = phase.name(),
                    .ms = static_cast<double>(phase.duration_us()) / 1e3});
  }
}

std::string timing_table(const std::vector<TimingRow>& rows) {
  std::string text;
  for (const TimingRow& row : rows) {
    const std::string name = std::string(static_cast<size_t>(row.depth) * 2, ' ') + row.name;
    text += format("%-28s %10.2f ms\n", name.c_str(), row.ms);
  }
  return text;
}

int report_error(const GlobalFlags& global, const Error& error) {
  if (global.json) {
    google::protobuf::Struct line;
    auto& fields = *(*line.mutable_fields())["error"].mutable_struct_value()->mutable_fields();
    fields["code"].set_string_value(code_name(error.code()));
    fields["reason"].set_string_value(error.reason());
    fields["message"].set_string_value(error.message());
    std::fprintf(stderr, "%s\n", to_json(line, false).c_str());
  } else {
    std::fprintf(stderr, "mayfly: %s (%s)\n", error.message().c_str(), error.reason().c_str());
  }
  return error.code() == Code::kDeadlineExceeded ? kExitTimeout : kExitFailure;
}

}  // namespace mayfly::cli
