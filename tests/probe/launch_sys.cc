// SPDX-License-Identifier: Apache-2.0
#include "tests/probe/launch_sys.h"

#include "base/clock.h"
#include "base/console_ring.h"
#include "proto/control.pb.h"

#include <cerrno>
#include <csignal>
#include <cstring>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::probe {
namespace {

constexpr int kControlNumber = 3;
constexpr size_t kMaxDescriptors = 32;
constexpr size_t kMaxPacket = 64 * 1024;
constexpr uint64_t kRingBytes = 64 * 1024;
constexpr uint64_t kRingHeaderBytes = 4096;

// What the launcher keeps of what it hands out.
struct Kept {
  Fd ring;
  Fd report;
  Fd control;
};

// The Configure request as it is being put together: descriptors are named by their place in the
// list.
struct Outgoing {
  control::Request request;
  std::vector<Fd> descriptors;

  uint32_t add(Fd fd) {
    descriptors.push_back(std::move(fd));
    return static_cast<uint32_t>(descriptors.size() - 1);
  }
};

Result<Outgoing> build(const LaunchOptions& options, Kept& kept) {
  Outgoing out;
  out.request.set_id(1);
  control::Configure& configure = *out.request.mutable_configure();
  configure.set_vcpu_count(1);
  configure.set_memory_bytes(options.memory_bytes);
  configure.set_cmdline(options.command_line);
  configure.set_kvm_fd(out.add(TRY(Fd::open("/dev/kvm", O_RDWR))));
  if (options.saved) {
    configure.set_memory_fd(out.add(TRY(Fd::open(options.saved->memory.c_str(), O_RDONLY))));
    control::Restore& restore = *configure.mutable_restore();
    restore.set_state_fd(out.add(TRY(Fd::open(options.saved->state.c_str(), O_RDONLY))));
    restore.set_private_memory(true);
  } else {
    configure.set_memory_fd(out.add(TRY(Fd::memfd("guest", options.memory_bytes))));
    configure.set_kernel_fd(out.add(TRY(Fd::open(options.kernel.c_str(), O_RDONLY))));
  }
  for (const LaunchDisk& disk : options.disks) {
    control::Disk& to = *configure.add_disks();
    to.set_fd(out.add(TRY(Fd::open(disk.path.c_str(), disk.read_only ? O_RDONLY : O_RDWR))));
    to.set_read_only(disk.read_only);
    to.set_serial("probe");
  }
  kept.ring = TRY(Fd::memfd("console", kRingHeaderBytes + kRingBytes));
  kept.report = TRY(Fd::memfd("report", 0));
  auto input = TRY(Fd::pipe());
  control::Console& console = *configure.mutable_console();
  console.set_ring_fd(out.add(TRY(Fd::duplicate(kept.ring.ref()))));
  console.set_output_event_fd(out.add(TRY(Fd::event())));
  console.set_input_fd(out.add(std::move(input.first)));
  configure.set_exit_report_fd(out.add(TRY(Fd::duplicate(kept.report.ref()))));
  configure.set_no_rng(!options.has_rng);
  if (options.guest_cid != 0) configure.mutable_vsock()->set_guest_cid(options.guest_cid);
  configure.set_start(true);
  configure.set_end_on_disconnect(true);
  return out;
}

Result<> send(FdRef socket, const Outgoing& out) {
  std::string bytes = out.request.SerializeAsString();
  iovec part{bytes.data(), bytes.size()};
  alignas(cmsghdr) char space[CMSG_SPACE(kMaxDescriptors * sizeof(int))] = {};
  CHECK(out.descriptors.size() <= kMaxDescriptors);
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = space;
  message.msg_controllen = CMSG_SPACE(out.descriptors.size() * sizeof(int));
  // SAFETY: the control space is aligned for a cmsghdr and large enough for what is put into it.
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(out.descriptors.size() * sizeof(int));
  for (size_t i = 0; i < out.descriptors.size(); ++i) {
    const int number = out.descriptors[i].number();
    std::memcpy(CMSG_DATA(header) + i * sizeof(int), &number, sizeof(number));
  }
  if (::sendmsg(socket.number(), &message, MSG_NOSIGNAL) < 0) {
    return fail_errno({Code::kUnavailable, "SEND"}, errno, "send Configure");
  }
  return {};
}

// A listening socket without a name in the file system, and a connection to it that waits to be
// accepted.
Result<Fd> listen_and_connect(Fd& connection) {
  Fd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  connection = Fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socklen_t size = sizeof(sa_family_t);
  // SAFETY: a sockaddr_un where sockets of this family want one; with the family alone the kernel
  // chooses an abstract name, which getsockname returns within `size`.
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  const bool listening =
      ::bind(listener.number(), generic, size) == 0 && ::listen(listener.number(), 1) == 0;
  size = sizeof(address);
  if (!listening || ::getsockname(listener.number(), generic, &size) != 0 ||
      ::connect(connection.number(), generic, size) != 0) {
    return fail_errno({Code::kUnavailable, "SOCKET"}, errno, "control socket");
  }
  return listener;
}

Result<pid_t> spawn(const std::string& program, FdRef listener) {
  std::string arguments[] = {program, format("--control-fd=%d", kControlNumber)};
  char* argv[] = {arguments[0].data(), arguments[1].data(), nullptr};
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, listener.number(), kControlNumber);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, program.c_str(), &actions, nullptr, argv, environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return fail_errno({Code::kNotFound, "SPAWN"}, error, "%s", program.c_str());
  }
  return pid;
}

Result<pid_t> spawn_jailed(const LaunchJail& jail, FdRef listener) {
  const jailer::LaunchPlan plan = {
      .jailer = jail.jailer,
      .program = jail.monitor,
      .arguments = {"mayfly-vmm", format("--control-fd=%d", kControlNumber)},
      .inherited = {listener},
      .jail = {.mode = jailer::JailMode::kRoot,
               .uid = jail.uid,
               .gid = jail.uid,
               .namespaces = jail.namespaces},
  };
  return TRY(jailer::launch(plan)).pid;
}

// Kills the process when its time is over.
void wait_for(pid_t pid, uint64_t timeout_ms, LaunchResult& result) {
  // SAFETY: pidfd_open(pid, flags); the process is a child that has not been reaped.
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  pollfd entry{process.number(), POLLIN, 0};
  if (::poll(&entry, 1, static_cast<int>(timeout_ms)) == 0) ::kill(pid, SIGKILL);
  rusage usage{};
  while (::wait4(pid, &result.wait_status, 0, &usage) < 0 && errno == EINTR) {
  }
  const auto ns_of = [](const timeval& time) {
    return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 +
           static_cast<uint64_t>(time.tv_usec) * 1000;
  };
  result.cpu_ns = ns_of(usage.ru_utime) + ns_of(usage.ru_stime);
  result.minor_faults = static_cast<uint64_t>(usage.ru_minflt);
}

Result<> collect(const Kept& kept, uint64_t begin_ns, LaunchResult& result) {
  std::string bytes(TRY(file_size(kept.report.ref())), '\0');
  TRY(pread_exact(kept.report.ref(), std::as_writable_bytes(std::span(bytes)), 0));
  control::ExitReport report;
  if (!bytes.empty() && report.ParseFromString(bytes)) {
    const auto since = [begin_ns](uint64_t at) { return at > begin_ns ? at - begin_ns : 0; };
    result.exit_reason = report.reason();
    result.exit_reason_name = control::ExitReason_Name(report.reason());
    result.detail = report.detail();
    result.main_ns = since(report.phases().main_ns());
    result.running_ns = since(report.phases().running_ns());
    result.ended_ns = since(report.ended_ns());
    result.exits_io = report.stats().exits_io();
    result.exits_mmio = report.stats().exits_mmio();
  }
  char packet[kMaxPacket];
  const ssize_t count = ::recv(kept.control.number(), packet, sizeof(packet), MSG_DONTWAIT);
  control::Reply reply;
  if (count > 0 && reply.ParseFromArray(packet, static_cast<int>(count)) && reply.has_status()) {
    result.refusal = reply.status().reason() + ": " + reply.status().message();
  }
  const ConsoleRingReader ring = TRY(ConsoleRingReader::create(kept.ring.ref()));
  result.console.resize(kRingBytes);
  const ConsoleRead read = ring.read(0, std::as_writable_bytes(std::span(result.console)));
  result.console.resize(read.bytes);
  return {};
}

}  // namespace

Result<LaunchResult> launch(const LaunchOptions& options) {
  const uint64_t begin_ns = monotonic_ns();
  Kept kept;
  {
    const Outgoing out = TRY(build(options, kept));
    const Fd listener = TRY(listen_and_connect(kept.control));
    // The packet waits in the socket until the monitor reads it; the descriptors travel with it.
    TRY(send(kept.control.ref(), out));
    LaunchResult result;
    const pid_t pid = TRY(options.jail ? spawn_jailed(*options.jail, listener.ref())
                                       : spawn(options.monitor, listener.ref()));
    wait_for(pid, options.timeout_ms, result);
    result.wall_ns = monotonic_ns() - begin_ns;
    TRY(collect(kept, begin_ns, result));
    return result;
  }
}

}  // namespace mayfly::probe
