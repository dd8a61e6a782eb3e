// SPDX-License-Identifier: Apache-2.0
//
// Which pages of private RAM a guest and its devices touch, found out by running once: the record
// that later restores plan by (snapshot/working_set.h).
//
// Threads: the loop thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "base/memory/guest_memory.h"
#include "vmm/machine/config.h"

#include <cstdint>

namespace mayfly {

/// From now on the kernel maps a page of RAM when it is touched, and no other with it. Before
/// anything touches RAM. What is returned, made of `userfault_device`, keeps it so; invalid, as
/// where there is no device: this kernel maps some neighbours too.
Fd begin_record(const GuestMemory& memory, FdRef userfault_device);

/// The pages that are mapped, and those of them that are private, to `files`; how many they are.
/// `pagemap` is this process's own. RAM need not stand still. kInvalidArgument FILE_LENGTH and
/// kFailedPrecondition NO_PAGEMAP as in memory_layer_sys.h.
Result<TouchedPages> write_touched(const GuestMemory& memory, FdRef pagemap,
                                   const TouchedFiles& files);

}  // namespace mayfly
