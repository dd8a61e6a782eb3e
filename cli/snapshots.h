// SPDX-License-Identifier: Apache-2.0
//
// The commands about snapshots, and about VMs that go on from them. Each gives the program's exit
// code.
#pragma once

#include "cli/flags.h"

#include <string>
#include <vector>

namespace mayfly::cli {

int create_snapshot(const GlobalFlags& global, const SnapshotFlags& flags);
int cancel_snapshot(const GlobalFlags& global, const SnapshotFlags& flags);
int list_snapshots(const GlobalFlags& global);
int inspect_snapshot(const GlobalFlags& global, const std::string& snapshot_id);
int record_working_set(const GlobalFlags& global, const std::string& vm_id);
int verify_snapshot(const GlobalFlags& global, const std::string& snapshot_id);
int rebase_snapshot(const GlobalFlags& global, const RebaseFlags& flags);
int delete_snapshots(const GlobalFlags& global, const std::vector<std::string>& snapshot_ids);
int restore(const GlobalFlags& global, const RestoreFlags& flags);
int clone(const GlobalFlags& global, const RestoreFlags& flags);

}  // namespace mayfly::cli
