// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/convert.h"

#include "base/wire.h"
#include "guest/agent/convert_metadata.h"

#include <algorithm>
#include <limits>
#include <optional>

namespace mayfly::guest {
namespace {

// Texts of ours that travel: what fits into a frame with everything else in it.
constexpr size_t kMaxText = 4096;
constexpr uint32_t kMaxSignal = 64;

// Field numbers of proto/agent.proto; convert_test compares them with what protoc makes of it.
struct InputField {
  static constexpr uint32_t kStart = 1, kStdin = 2, kStdinEnd = 3, kSignal = 4, kWindowSize = 5,
                            kStartAs = 6;
};
struct StartAsField {
  static constexpr uint32_t kStart = 1, kUid = 2, kGid = 3, kGroups = 4;
};
struct StartField {
  static constexpr uint32_t kArgv = 1, kEnv = 2, kWorkingDirectory = 3, kTerminal = 4,
                            kWindowSize = 5;
};
struct WindowField {
  static constexpr uint32_t kRows = 1, kColumns = 2;
};
struct OutputField {
  static constexpr uint32_t kStarted = 1, kStdout = 2, kStderr = 3, kExited = 4, kFailed = 5;
};
struct HelloField {
  static constexpr uint32_t kProtocolVersion = 1, kAgentVersion = 2, kKernelRelease = 3,
                            kCpuCount = 4, kInitUs = 5, kReadyUs = 6, kFailure = 7;
};
struct ToHostField {
  static constexpr uint32_t kHello = 1, kShutdownFailed = 2, kReseeded = 3, kNetworkSet = 4;
};
struct ReseededField {
  static constexpr uint32_t kClockStepUs = 1, kFailure = 2;
};
struct FromHostField {
  static constexpr uint32_t kShutdown = 1, kRestored = 2, kNetwork = 3;
};
struct InterfaceField {
  static constexpr uint32_t kMac = 1, kAddress = 2, kPrefixBits = 3, kGateway = 4, kNameservers = 5;
};
// Network.interfaces, NetworkSet.failure.
constexpr uint32_t kInterfaces = 1, kNetworkFailure = 1;
struct RestoredField {
  static constexpr uint32_t kEntropy = 1, kRealtimeNs = 2;
};
// Shutdown.mode, and the modes.
constexpr uint32_t kShutdownMode = 1;
constexpr uint64_t kModePowerOff = 1, kModeReboot = 2;

// Proto strings must be UTF-8, and a path in an error text need not be.
std::string printable(std::string_view text) {
  std::string out(text.substr(0, kMaxText));
  std::ranges::replace_if(out, [](char c) { return c < ' ' || c > '~'; }, '?');
  return out;
}

bool has_nul(std::string_view text) { return text.find('\0') != text.npos; }

Result<WindowSize> parse_window(std::span<const std::byte> message) {
  constexpr uint64_t kMax = std::numeric_limits<uint16_t>::max();
  WindowSize window;
  WireReader reader(message);
  while (const auto field = TRY(reader.next())) {
    if (field->is_bytes || field->number > WindowField::kColumns) continue;
    if (field->value > kMax) {
      return fail({Code::kInvalidArgument, "WINDOW_SIZE"}, "window_size: %llu is above %llu",
                  static_cast<unsigned long long>(field->value),
                  static_cast<unsigned long long>(kMax));
    }
    (field->number == WindowField::kRows ? window.rows : window.columns) =
        static_cast<uint16_t>(field->value);
  }
  return window;
}

Result<> add_start_field(ExecStart& start, const WireField& field) {
  if (!field.is_bytes) {
    if (field.number == StartField::kTerminal) start.terminal = field.value != 0;
    return {};
  }
  const std::string_view text = field.text();
  switch (field.number) {
    case StartField::kArgv:
      if (has_nul(text))
        return fail({Code::kInvalidArgument, "ARGV_NUL"}, "argv: holds a zero byte");
      start.argv.emplace_back(text);
      break;
    case StartField::kEnv:
      if (const size_t equals = text.find('=');
          has_nul(text) || equals == 0 || equals == text.npos) {
        return fail({Code::kInvalidArgument, "ENV_ENTRY"}, "env: '%.64s' is not KEY=VALUE",
                    printable(text).c_str());
      }
      start.env.emplace_back(text);
      break;
    case StartField::kWorkingDirectory:
      if (has_nul(text)) {
        return fail({Code::kInvalidArgument, "WORKING_DIRECTORY"},
                    "working_directory: holds a zero byte");
      }
      start.working_directory = text;
      break;
    case StartField::kWindowSize:
      start.window = TRY(parse_window(field.bytes));
      break;
  }
  return {};
}

Result<ExecInput> parse_start(std::span<const std::byte> message) {
  ExecStart start;
  WireReader reader(message);
  while (const auto field = TRY(reader.next())) TRY(add_start_field(start, *field));
  if (start.argv.empty() || start.argv[0].empty()) {
    return fail({Code::kInvalidArgument, "ARGV_EMPTY"}, "argv: names no program");
  }
  return start;
}

Result<ExecInput> parse_start_as(std::span<const std::byte> message) {
  constexpr uint32_t kNoId = std::numeric_limits<uint32_t>::max();
  std::span<const std::byte> start;
  User user;
  WireReader reader(message);
  while (const auto field = TRY(reader.next())) {
    if (field->number == StartAsField::kStart) start = TRY(field->message());
    if (field->number == StartAsField::kUid) user.uid = TRY(field->u32());
    if (field->number == StartAsField::kGid) user.gid = TRY(field->u32());
    if (field->number == StartAsField::kGroups) TRY(field->append_u32s(user.groups));
  }
  if (user.groups.size() > kMaxGroups) {
    return fail({Code::kInvalidArgument, "START_AS"}, "groups: %zu is above the limit of %zu",
                user.groups.size(), kMaxGroups);
  }
  if (user.uid == kNoId || user.gid == kNoId ||
      std::ranges::find(user.groups, kNoId) != user.groups.end()) {
    return fail({Code::kInvalidArgument, "START_AS"}, "uid, gid, groups: %u is no id", kNoId);
  }
  ExecInput input = TRY(parse_start(start));
  std::get<ExecStart>(input).user = std::move(user);
  return input;
}

// The last field that `known` accepts: of a oneof given twice the last one counts.
template <typename Known>
Result<WireField> last_field(std::span<const std::byte> message, Known known) {
  std::optional<WireField> last;
  WireReader reader(message);
  while (const auto field = TRY(reader.next())) {
    if (known(*field)) last = field;
  }
  if (!last) {
    return fail({Code::kInvalidArgument, "UNKNOWN_MESSAGE"}, "a message this agent does not know");
  }
  return *last;
}

Result<HostMessage> parse_shutdown(std::span<const std::byte> message) {
  uint64_t mode = 0;
  WireReader reader(message);
  while (const auto field = TRY(reader.next())) {
    if (field->number == kShutdownMode && !field->is_bytes) mode = field->value;
  }
  if (mode == kModePowerOff) return ShutdownMode::kPowerOff;
  if (mode == kModeReboot) return ShutdownMode::kReboot;
  return fail({Code::kInvalidArgument, "SHUTDOWN_MODE"},
              "shutdown.mode: %llu is neither POWEROFF nor REBOOT",
              static_cast<unsigned long long>(mode));
}

Result<HostMessage> parse_restored(std::span<const std::byte> message) {
  constexpr uint64_t kMaxRealtimeNs = std::numeric_limits<int64_t>::max();
  Restored restored;
  WireReader reader(message);
  while (const auto field = TRY(reader.next())) {
    if (field->number == RestoredField::kEntropy && field->is_bytes) {
      restored.entropy = field->text();
    } else if (field->number == RestoredField::kRealtimeNs && !field->is_bytes) {
      restored.realtime_ns = field->value;
    }
  }
  if (const size_t size = restored.entropy.size();
      size < kMinEntropyBytes || size > kMaxEntropyBytes) {
    return fail({Code::kInvalidArgument, "RESTORED_ENTROPY"},
                "restored.entropy: %zu bytes are not %zu to %zu", size, kMinEntropyBytes,
                kMaxEntropyBytes);
  }
  if (restored.realtime_ns == 0 || restored.realtime_ns > kMaxRealtimeNs) {
    return fail({Code::kInvalidArgument, "RESTORED_REALTIME"},
                "restored.realtime_ns: %llu is not 1 to %llu",
                static_cast<unsigned long long>(restored.realtime_ns),
                static_cast<unsigned long long>(kMaxRealtimeNs));
  }
  return restored;
}

Result<Interface> parse_interface(std::span<const std::byte> message) {
  Interface interface;
  uint32_t prefix_bits = 0;
  size_t mac_bytes = 0;
  WireReader reader(message);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case InterfaceField::kMac: {
        const auto mac = TRY(field->message());
        mac_bytes = mac.size();
        std::ranges::transform(mac.first(std::min(mac.size(), interface.mac.size())),
                               interface.mac.begin(),
                               [](std::byte byte) { return static_cast<uint8_t>(byte); });
        break;
      }
      case InterfaceField::kAddress:
        interface.address = TRY(field->u32());
        break;
      case InterfaceField::kPrefixBits:
        prefix_bits = TRY(field->u32());
        break;
      case InterfaceField::kGateway:
        interface.gateway = TRY(field->u32());
        break;
      case InterfaceField::kNameservers:
        TRY(field->append_u32s(interface.nameservers));
        break;
    }
  }
  if (mac_bytes != interface.mac.size()) {
    return fail({Code::kInvalidArgument, "NETWORK_MAC"}, "network.mac: %zu bytes, where %zu belong",
                mac_bytes, interface.mac.size());
  }
  if (interface.address != 0 && (prefix_bits == 0 || prefix_bits > 32)) {
    return fail({Code::kInvalidArgument, "NETWORK_PREFIX"},
                "network.prefix_bits: %u is not 1 to 32", prefix_bits);
  }
  if (interface.nameservers.size() > kMaxNameservers) {
    return fail({Code::kInvalidArgument, "NETWORK_NAMESERVERS"},
                "network.nameservers: %zu are above the limit of %zu", interface.nameservers.size(),
                kMaxNameservers);
  }
  interface.prefix_bits = static_cast<uint8_t>(prefix_bits);
  return interface;
}

Result<HostMessage> parse_network(std::span<const std::byte> message) {
  Network network;
  WireReader reader(message);
  while (const auto field = TRY(reader.next())) {
    if (field->number != kInterfaces) continue;
    if (network.interfaces.size() == kMaxInterfaces) {
      return fail({Code::kInvalidArgument, "NETWORK_INTERFACES"},
                  "network.interfaces: more than the limit of %zu", kMaxInterfaces);
    }
    network.interfaces.push_back(TRY(parse_interface(TRY(field->message()))));
  }
  return network;
}

void add_message(SendQueue& queue, uint32_t field, const WireWriter& inner) {
  WireWriter message;
  message.message(field, inner);
  queue.add_frame(message.bytes());
}

}  // namespace

Result<ExecInput> parse_exec_input(std::span<const std::byte> payload) {
  const WireField field = TRY(last_field(payload, [](const WireField& each) {
    const bool is_number =
        each.number == InputField::kStdinEnd || each.number == InputField::kSignal;
    return each.number <= InputField::kStartAs && each.is_bytes != is_number;
  }));
  switch (field.number) {
    case InputField::kStart:
      return parse_start(field.bytes);
    case InputField::kStdin:
      return StdinBytes{std::string(field.text())};
    case InputField::kStdinEnd:
      return StdinEnd{};
    case InputField::kSignal:
      if (field.value == 0 || field.value > kMaxSignal) {
        return fail({Code::kInvalidArgument, "SIGNAL_NUMBER"}, "signal: %llu is not 1 to %u",
                    static_cast<unsigned long long>(field.value), kMaxSignal);
      }
      return SendSignal{static_cast<int>(field.value)};
    case InputField::kStartAs:
      return parse_start_as(field.bytes);
    default:
      return TRY(parse_window(field.bytes));
  }
}

Result<HostMessage> parse_host_message(std::span<const std::byte> payload) {
  const WireField field = TRY(last_field(payload, [](const WireField& each) {
    return each.is_bytes &&
           ((each.number >= FromHostField::kShutdown && each.number <= FromHostField::kNetwork) ||
            is_metadata_field(each.number));
  }));
  if (is_metadata_field(field.number)) return parse_metadata(field);
  if (field.number == FromHostField::kNetwork) return parse_network(field.bytes);
  if (field.number == FromHostField::kRestored) return parse_restored(field.bytes);
  return parse_shutdown(field.bytes);
}

void add_hello(SendQueue& queue, const Hello& hello) {
  WireWriter out;
  out.number(HelloField::kProtocolVersion, kProtocolVersion);
  out.text(HelloField::kAgentVersion, printable(hello.agent_version));
  out.text(HelloField::kKernelRelease, printable(hello.kernel_release));
  out.number(HelloField::kCpuCount, hello.cpu_count);
  out.number(HelloField::kInitUs, hello.init_us);
  out.number(HelloField::kReadyUs, hello.ready_us);
  out.text(HelloField::kFailure, printable(hello.failure));
  add_message(queue, ToHostField::kHello, out);
}

void add_shutdown_failed(SendQueue& queue, std::string_view text) {
  WireWriter out;
  out.text(1, printable(text));
  add_message(queue, ToHostField::kShutdownFailed, out);
}

void add_reseeded(SendQueue& queue, const Reseeded& reseeded) {
  WireWriter out;
  out.number(ReseededField::kClockStepUs, static_cast<uint64_t>(reseeded.clock_step_us));
  out.text(ReseededField::kFailure, printable(reseeded.failure));
  add_message(queue, ToHostField::kReseeded, out);
}

void add_network_set(SendQueue& queue, std::string_view failure) {
  WireWriter out;
  out.text(kNetworkFailure, printable(failure));
  add_message(queue, ToHostField::kNetworkSet, out);
}

void add_started(SendQueue& queue, uint32_t pid) {
  WireWriter out;
  out.number(1, pid);
  add_message(queue, OutputField::kStarted, out);
}

void add_output(SendQueue& queue, OutputStream stream, std::span<const std::byte> bytes) {
  CHECK(bytes.size() <= kMaxOutputBytes);
  WireWriter head;
  head.begin_bytes(stream == OutputStream::kStdout ? OutputField::kStdout : OutputField::kStderr,
                   bytes.size());
  queue.add_frame(head.bytes(), bytes);
}

void add_exited(SendQueue& queue, const Exited& exited) {
  WireWriter out;
  out.number(1, exited.exit_code);
  out.number(2, exited.signal);
  add_message(queue, OutputField::kExited, out);
}

void add_failed(SendQueue& queue, int guest_errno, std::string_view text) {
  WireWriter out;
  out.number(1, static_cast<uint32_t>(guest_errno));
  out.text(2, printable(text));
  add_message(queue, OutputField::kFailed, out);
}

}  // namespace mayfly::guest
