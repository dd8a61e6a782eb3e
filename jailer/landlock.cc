// SPDX-License-Identifier: Apache-2.0
#include "jailer/landlock.h"

#include "base/landlock_sys.h"

namespace mayfly::jailer {

Result<> restrict_by_landlock(FdRef program) {
  if (landlock::version() == 0) return {};
  return landlock::restrict_self(landlock::all_rights(), landlock::kExecute | landlock::kReadFile,
                                 {&program, 1});
}

}  // namespace mayfly::jailer
