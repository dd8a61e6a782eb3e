// SPDX-License-Identifier: Apache-2.0
//
// The first step of every jail: what the program inherits.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "jailer/jail_spec.h"

namespace mayfly::jailer {

/// Closes every descriptor but 0 to 2 and those that `spec` names; of these only `kept` survive
/// the exec. A directory among `kept` is refused: it would lead out of the empty root.
Result<> close_other_descriptors(const JailSpec& spec);

/// Puts `proc_self` where `spec` says. Unlike another directory it leads the program nowhere as
/// long as it has read nothing that is hostile, and Landlock lets it read nothing but its own
/// files; before that it has to close it.
Result<> leave_proc_self(FdRef proc_self, const JailSpec& spec);

}  // namespace mayfly::jailer
