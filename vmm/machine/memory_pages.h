// SPDX-License-Identifier: Apache-2.0
//
// What a stretch of guest RAM is like, page by page, for who asks on the control socket. A look is
// bounded, so that the loop is soon back at its work; the guest may run, and change what it was.
//
// Threads: the loop thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "base/memory/guest_memory.h"
#include "vmm/machine/config.h"

namespace mayfly {

/// kInvalidArgument PAGE_RANGE where a page is not RAM's, or there are none or too many;
/// kFailedPrecondition NO_PAGEMAP where we have none.
Result<PageReport> look_at_pages(const GuestMemory& memory, FdRef pagemap, const PageQuery& query);

}  // namespace mayfly
