// SPDX-License-Identifier: Apache-2.0
#include "snapshot/add_working_set.h"

#include "snapshot/files.h"
#include "snapshot/reader.h"
#include "snapshot/writer.h"

namespace mayfly::snapshot {

Result<> add_working_set(FdRef store, const std::string& name, const WorkingSet& set,
                         void (*before_step)(const char* step)) {
  const Fd directory = TRY(open_directory_at(store, name.c_str()));
  const Manifest manifest = TRY(Snapshot::open(directory.ref())).manifest();
  if (manifest.kind == Kind::kStateOnly) {
    return fail({Code::kFailedPrecondition, "NO_MEMORY"}, "%s: is a STATE_ONLY", name.c_str());
  }
  if (set.memory_bytes != manifest.machine.memory_bytes) {
    return fail({Code::kInvalidArgument, "MEMORY_SIZE"},
                "%s: has %llu bytes of memory, the working set is of %llu", name.c_str(),
                static_cast<unsigned long long>(manifest.machine.memory_bytes),
                static_cast<unsigned long long>(set.memory_bytes));
  }
  auto writer = TRY(SnapshotWriter::create(
      {.store = store, .name = name, .if_exists = IfExists::kReplace, .before_step = before_step}));
  for (const Part& part : manifest.parts) {
    if (part.name == kWorkingSetName) continue;
    TRY(writer.link_part(directory.ref(), part));
  }
  TRY(writer.write_part(kWorkingSetName, encode_working_set(set)));
  return writer.commit(manifest);
}

}  // namespace mayfly::snapshot
