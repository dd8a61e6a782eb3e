// SPDX-License-Identifier: Apache-2.0
//
// What an UpdateVm asks for. Only the gRPC service includes this. Any thread.
#pragma once

#include "base/error.h"
#include "daemon/convert.h"
#include "daemon/vm.h"

namespace mayfly::daemon {

/// The fields that the mask names, which is at least one; values are checked by Vm::update().
Result<Vm::Update> from_proto(const v1::UpdateVmRequest& in);

}  // namespace mayfly::daemon
