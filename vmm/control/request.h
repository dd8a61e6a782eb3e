// SPDX-License-Identifier: Apache-2.0
//
// What the daemon may ask of a monitor, as checked values: proto/control.proto without protobuf.
// Only convert.cc sees the generated code.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "vmm/machine/config.h"
#include "vmm/machine/exit_reason.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace mayfly::vmm {

/// The largest packet either side sends, and the most descriptors with one.
inline constexpr size_t kMaxPacketBytes = 64 * 1024;
inline constexpr size_t kMaxDescriptors = 64;

struct Configure {
  MachineConfig machine;
};
struct Start {};
struct Pause {};
struct Resume {};
struct Stop {};
struct VsockConnect {
  uint32_t port;
  Fd stream;
};
struct GetStats {};
struct Save {
  SaveConfig what;
};
struct GetMemory {};
struct GetTouchedPages {
  TouchedFiles files;
};
struct Claim {
  ClaimConfig what;
};
struct GetPages {
  PageQuery query;
};
struct MapMemory {
  MissingMemoryConfig memory;
};

struct SetBalloon {
  uint64_t target_pages = 0;
};
struct GetBalloon {};

struct Request {
  uint64_t id = 0;
  std::variant<Configure, Start, Pause, Resume, Stop, VsockConnect, GetStats, Save, GetMemory,
               Claim, GetTouchedPages, GetPages, MapMemory, SetBalloon, GetBalloon>
      call;
};

/// Guest RAM's file, which goes with the reply.
struct Memory {
  FdRef file;
  bool is_private = false;
};

/// Where MapMemory has put guest RAM.
struct MappedMemory {
  std::vector<GuestMemory::Region> regions;
};

/// What a call answers with when it succeeds.
using Answer = std::variant<std::monostate, Phases, MachineStats, Saved, Memory, TouchedPages,
                            PageReport, MappedMemory, BalloonReport>;

struct ExitReport {
  ExitReason reason;
  std::string detail;
  MachineStats stats;
  Phases phases;
  uint64_t ended_ns;
};

/// A packet that could not be understood, and the id to say so to (0 where even that is unknown).
struct Refusal {
  uint64_t id;
  Error error;
};

/// Hostile bytes. Takes the descriptors the message names; the rest close with `descriptors`.
std::expected<Request, Refusal> parse_request(std::span<const std::byte> packet,
                                              std::vector<Fd> descriptors);

std::string make_reply(uint64_t id, const Result<Answer>& result);
std::string make_exit_report(const ExitReport& report);

}  // namespace mayfly::vmm
