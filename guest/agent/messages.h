// SPDX-License-Identifier: Apache-2.0
//
// The messages of proto/agent.proto as plain, validated values; convert.h makes them from bytes and
// back.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace mayfly::guest {

inline constexpr uint32_t kProtocolVersion = 1;
inline constexpr uint32_t kAgentPort = 1024;

struct WindowSize {
  uint16_t rows = 0;
  uint16_t columns = 0;
};

inline constexpr size_t kMaxGroups = 64;

/// No id is 2^32 - 1, and there are at most kMaxGroups groups.
struct User {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> groups = {};
};

/// No string holds a zero byte, and argv is not empty.
struct ExecStart {
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::string working_directory;
  bool terminal = false;
  WindowSize window;
  /// Absent: the agent's own.
  std::optional<User> user;
};

struct StdinBytes {
  std::string bytes;
};

struct StdinEnd {};

/// 1 to 64.
struct SendSignal {
  int number = 0;
};

using ExecInput = std::variant<ExecStart, StdinBytes, StdinEnd, SendSignal, WindowSize>;

enum class ShutdownMode : uint8_t { kPowerOff, kReboot };

inline constexpr size_t kMinEntropyBytes = 32;
inline constexpr size_t kMaxEntropyBytes = 256;

/// What this guest, made from another's memory, is to take as its own.
struct Restored {
  /// kMinEntropyBytes to kMaxEntropyBytes.
  std::string entropy;
  /// Since 1970; below 2^63.
  uint64_t realtime_ns = 0;
};

inline constexpr size_t kMaxInterfaces = 16;
inline constexpr size_t kMaxNameservers = 8;

/// IPv4 addresses in host order; 0: none.
struct Interface {
  std::array<uint8_t, 6> mac = {};
  uint32_t address = 0;
  /// 1 to 32 where there is an address.
  uint8_t prefix_bits = 0;
  uint32_t gateway = 0;
  std::vector<uint32_t> nameservers;
};

/// Of the guest's virtio network devices, by their places.
struct Network {
  std::vector<Interface> interfaces;
};

/// The host has a metadata document for this VM, or none.
struct MetadataOffer {
  bool is_there = false;
};

/// A piece of what was asked for, at most kMaxMetadataPiece.
struct MetadataAnswer {
  enum class Status : uint8_t { kOk = 1, kUnauthorized, kNotFound, kBadPath, kBusy };
  uint32_t id = 0;
  Status status = Status::kOk;
  std::string content;
  /// Of the whole; at most kMaxMetadataBytes.
  uint32_t total_bytes = 0;
  /// Another one: of another document.
  uint64_t version = 0;
  bool is_json = false;
};

inline constexpr size_t kMaxMetadataPiece = 16 << 10;
inline constexpr size_t kMaxMetadataBytes = 512 << 10;

using HostMessage = std::variant<ShutdownMode, Restored, Network, MetadataOffer, MetadataAnswer>;

/// What a program of the guest asks for, word for word; the host decides.
struct MetadataRequest {
  uint32_t id = 0;
  /// Not 0: a token that lives so long, and nothing else.
  uint32_t token_ttl_s = 0;
  std::string path;
  std::string token;
  bool wants_json = false;
  uint32_t offset = 0;
};

struct Reseeded {
  /// How far the clock was set forward.
  int64_t clock_step_us = 0;
  /// What did not work; empty: nothing.
  std::string failure;
};

struct Hello {
  std::string agent_version;
  std::string kernel_release;
  uint32_t cpu_count = 0;
  uint64_t init_us = 0;
  uint64_t ready_us = 0;
  std::string failure;
};

enum class OutputStream : uint8_t { kStdout, kStderr };

struct Exited {
  uint32_t exit_code = 0;
  uint32_t signal = 0;
};

}  // namespace mayfly::guest
