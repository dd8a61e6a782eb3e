// SPDX-License-Identifier: Apache-2.0
//
// The first step of every jail: what the program inherits.
#pragma once

#include "base/error.h"
#include "jailer/jail_spec.h"

namespace mayfly::jailer {

/// Closes every descriptor but 0 to 2 and those that `spec` names; of these only `kept` survive
/// the exec. A directory among `kept` is refused: it would lead out of the empty root.
Result<> close_other_descriptors(const JailSpec& spec);

}  // namespace mayfly::jailer
