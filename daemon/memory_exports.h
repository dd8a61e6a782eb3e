// SPDX-License-Identifier: Apache-2.0
//
// Memory that is offered to other programs: each offer is a Unix socket of its own, which hands its
// descriptors to the first that connects and is gone then, or when its time is over.
//
// offer() and the destructor: any thread. Descriptors are handed over on the reactor's thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/reactor.h"

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace mayfly::daemon {

inline constexpr size_t kMaxExports = 64;

/// docs/memory.md describes it on the wire.
struct ExportHeader {
  bool is_live = false;
  bool has_layer = false;
  uint64_t memory_bytes = 0;
  uint64_t layer_page_count = 0;
};

/// 64 bytes.
std::string encode_export_header(const ExportHeader& header);

class MemoryExports {
 public:
  /// `directory` is made with the first offer and removed with this object; what a killed daemon
  /// left in it goes now.
  MemoryExports(Reactor& reactor, std::string directory);
  ~MemoryExports();
  MemoryExports(const MemoryExports&) = delete;
  MemoryExports& operator=(const MemoryExports&) = delete;

  /// The socket's path. `files` travel in this order. RESOURCE_EXHAUSTED TOO_MANY_EXPORTS above
  /// kMaxExports.
  Result<std::string> offer(const ExportHeader& header, std::vector<Fd> files,
                            std::chrono::seconds timeout);

 private:
  struct Offer;
  Result<std::unique_ptr<Offer>> make(const ExportHeader& header, std::vector<Fd> files,
                                      std::chrono::seconds timeout);
  static WatchVerdict on_connect(Offer& offer);
  static void end(Offer& offer);

  Reactor& reactor_;
  const std::string directory_;
  std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<std::unique_ptr<Offer>> offers_;
};

}  // namespace mayfly::daemon
