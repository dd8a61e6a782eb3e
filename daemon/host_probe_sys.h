// SPDX-License-Identifier: Apache-2.0
//
// System calls tried for their answer alone. Each gives 0, or the errno of the refusal. Any thread.
#pragma once

namespace mayfly::daemon {

int try_io_uring();
int try_seccomp();
/// In a child, by fork: before there are threads.
int try_user_namespace();

}  // namespace mayfly::daemon
