// SPDX-License-Identifier: Apache-2.0
//
// Resource limits: lowered, never raised, so no privilege is needed.
#pragma once

#include "base/error.h"
#include "jailer/jail_spec.h"

#include <cstdint>

namespace mayfly::jailer {

/// Descriptors of one monitor, of which its io_uring registers a table: two for each of 1024 vsock
/// connections, and below 300 for devices, vCPUs and what a Configure message carries.
inline constexpr uint64_t kMaxOpenFiles = 4096;

/// Threads of one monitor, where its uid is its own: 32 vCPUs, the loop, io_uring's workers.
inline constexpr uint64_t kMaxThreads = 256;

/// No core files (they would hold a guest's memory) in every mode; otherwise also the descriptors,
/// how large a file can be written, and with kRoot the threads. In the other modes the uid's
/// threads are counted over all of the user's processes, so the limit would hit bystanders.
Result<> limit_resources(const JailSpec& spec);

}  // namespace mayfly::jailer
