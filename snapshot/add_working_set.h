// SPDX-License-Identifier: Apache-2.0
//
// A snapshot that is there gets its optional part `working_set`, or another one: in one step, as a
// directory that has all other parts in common with the old one and takes its place. The memory is
// not read, and what other snapshots say of this one stays true.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "snapshot/working_set.h"

#include <string>

namespace mayfly::snapshot {

/// Nobody may open or remove the snapshot meanwhile. After an error it is as it was, but for one of
/// the last sync (SNAPSHOT_IO). kFailedPrecondition NO_MEMORY where it has none, and what opening
/// it says where it is damaged.
Result<> add_working_set(FdRef store, const std::string& name, const WorkingSet& set,
                         void (*before_step)(const char* step) = nullptr);

}  // namespace mayfly::snapshot
