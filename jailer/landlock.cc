// SPDX-License-Identifier: Apache-2.0
#include "jailer/landlock.h"

#include "base/landlock_sys.h"

#include <span>

namespace mayfly::jailer {

Result<> restrict_by_landlock(FdRef program, FdRef proc_self) {
  if (landlock::version() == 0) return {};
  const landlock::Exception exceptions[] = {{program, landlock::kExecute | landlock::kReadFile},
                                            {proc_self, landlock::kReadFile}};
  return landlock::restrict_self(landlock::all_rights(),
                                 std::span(exceptions).first(proc_self.valid() ? 2 : 1));
}

}  // namespace mayfly::jailer
