// SPDX-License-Identifier: Apache-2.0
//
// How results look: protobuf's JSON for machines, aligned text for people.
#pragma once

#include "base/error.h"
#include "cli/flags.h"
#include "mayfly/v1/event.pb.h"
#include "mayfly/v1/memory.pb.h"
#include "mayfly/v1/snapshot.pb.h"
#include "mayfly/v1/system.pb.h"
#include "mayfly/v1/template.pb.h"
#include "mayfly/v1/vm.pb.h"

#include <string>
#include <vector>

namespace mayfly::cli {

/// Our own failure, and a timeout; anything else is the command's own exit code.
inline constexpr int kExitFailure = 125;
inline constexpr int kExitTimeout = 124;

/// The canonical JSON form, all fields present; `pretty` over several lines.
std::string to_json(const google::protobuf::Message& message, bool pretty);

/// Rows of cells as columns; the first row is the heading.
std::string table(const std::vector<std::vector<std::string>>& rows);

/// "RUNNING", "guest-poweroff": an enum value's name without its type's prefix.
std::string short_name(v1::VmState state);
std::string short_name(v1::ExitReason reason);

std::string vm_table(const google::protobuf::RepeatedPtrField<v1::Vm>& vms);
std::string usage_table(const v1::ListMemoryUsageResponse& usage);
std::string snapshot_table(const google::protobuf::RepeatedPtrField<v1::Snapshot>& snapshots);
std::string template_table(const google::protobuf::RepeatedPtrField<v1::Template>& templates);
/// "snapshot warm: memory, 512 of 1024 MiB"
std::string progress_text(const v1::SnapshotProgress& progress);
std::string event_line(const v1::Event& event);
std::string check_table(const v1::CheckHostResponse& response);

/// "the guest powered off (exit reason guest-poweroff)" with detail and signal.
std::string describe_exit(const v1::VmExit& exit);

/// Nested rows of `--timing`.
struct TimingRow {
  int depth = 0;
  std::string name;
  double ms = 0;
};
void append_phases(const v1::PhaseTimes& times, int depth, std::vector<TimingRow>& rows);
std::string timing_table(const std::vector<TimingRow>& rows);

/// Prints `mayfly: MESSAGE (REASON)` on standard error, or with --json one line of
/// `{"error":{"code","reason","message"}}`, and gives the exit code that goes with it.
int report_error(const GlobalFlags& global, const Error& error);

}  // namespace mayfly::cli
