// SPDX-License-Identifier: Apache-2.0
//
// The loop's ring makes calls without the filter seeing them: what it may do, it was restricted to
// when it was made. Filters do let io_uring_enter() through, on the loop's thread.
#include "tests/security/attempt.h"

#include <cerrno>
#include <cstdio>

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/socket.h>
#include <sys/stat.h>

namespace mayfly::escape {
namespace {

// SAFETY: of this file: addresses in entries of the ring are numbers; what they point to lives
// until the completion, which submit() waits for.
uint64_t address_of(const void* object) { return reinterpret_cast<uint64_t>(object); }

Outcome by_ring(World& world, const char* operation, const io_uring_sqe& entry) {
  const int32_t result = world.ring->try_submit(entry);
  errno = result < 0 ? -result : 0;
  return judge(operation, result);
}

Outcome open_file(World& world) {
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_OPENAT;
  entry.fd = AT_FDCWD;
  entry.addr = address_of("/");
  entry.open_flags = O_RDONLY;
  return by_ring(world, "OPENAT", entry);
}
Outcome open_file_newer(World& world) {
  const open_how how = {};
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_OPENAT2;
  entry.fd = AT_FDCWD;
  entry.addr = address_of("/");
  entry.len = sizeof(how);
  entry.off = address_of(&how);
  return by_ring(world, "OPENAT2", entry);
}
Outcome make_socket(World& world) {
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_SOCKET;
  entry.fd = AF_INET;
  entry.off = SOCK_STREAM;
  return by_ring(world, "SOCKET", entry);
}
Outcome send_message(World& world) {
  char byte = 'x';
  iovec part = {&byte, 1};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_SENDMSG;
  entry.fd = kAgentStream;
  entry.addr = address_of(&message);
  entry.len = 1;
  return by_ring(world, "SENDMSG", entry);
}
Outcome send_bytes(World& world) {
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_SEND;
  entry.fd = kAgentStream;
  entry.addr = address_of("x");
  entry.len = 1;
  return by_ring(world, "SEND", entry);
}
Outcome shut_down(World& world) {
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_SHUTDOWN;
  entry.fd = kAgentStream;
  entry.len = SHUT_RD;
  return by_ring(world, "SHUTDOWN", entry);
}
Outcome look_up(World& world) {
  struct statx found = {};
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_STATX;
  entry.fd = AT_FDCWD;
  entry.addr = address_of("/");
  entry.len = STATX_BASIC_STATS;
  entry.off = address_of(&found);
  return by_ring(world, "STATX", entry);
}

struct Victim {
  char from[128];
  char to[128];

  explicit Victim(const World& world) {
    std::snprintf(from, sizeof(from), "%s/victim", world.targets.host_directory);
    std::snprintf(to, sizeof(to), "%s/renamed", world.targets.host_directory);
  }
};

Outcome rename_file(World& world) {
  const Victim victim(world);
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_RENAMEAT;
  entry.fd = AT_FDCWD;
  entry.addr = address_of(victim.from);
  entry.len = static_cast<uint32_t>(AT_FDCWD);
  entry.addr2 = address_of(victim.to);
  return by_ring(world, "RENAMEAT", entry);
}
Outcome unlink_file(World& world) {
  const Victim victim(world);
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_UNLINKAT;
  entry.fd = AT_FDCWD;
  entry.addr = address_of(victim.from);
  return by_ring(world, "UNLINKAT", entry);
}
Outcome link_file(World& world) {
  const Victim victim(world);
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_LINKAT;
  entry.fd = AT_FDCWD;
  entry.addr = address_of(victim.from);
  entry.len = static_cast<uint32_t>(AT_FDCWD);
  entry.addr2 = address_of(victim.to);
  return by_ring(world, "LINKAT", entry);
}
Outcome make_directory(World& world) {
  const Victim victim(world);
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_MKDIRAT;
  entry.fd = AT_FDCWD;
  entry.addr = address_of(victim.to);
  entry.len = 0700;
  return by_ring(world, "MKDIRAT", entry);
}
Outcome move_pages(World& world) {
  // From the console's input to the agent's stream.
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_SPLICE;
  entry.fd = kAgentStream;
  entry.splice_fd_in = kConsoleInput;
  entry.off = entry.splice_off_in = ~uint64_t{0};
  entry.len = 1;
  return by_ring(world, "SPLICE", entry);
}
Outcome reserve_space(World& world) {
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_FALLOCATE;
  entry.fd = kDisk;
  entry.addr = 4096;
  return by_ring(world, "FALLOCATE", entry);
}
Outcome advise_memory(World& world) {
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_FADVISE;
  entry.fd = kDisk;
  entry.len = 4096;
  return by_ring(world, "FADVISE", entry);
}
Outcome simple_read(World& world) {
  char byte = 0;
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_READ;
  entry.fd = kReadOnlyDisk;
  entry.addr = address_of(&byte);
  entry.len = 1;
  return by_ring(world, "READ", entry);
}
Outcome wait_in_kernel(World& world) {
  const struct {
    int64_t seconds = 0;
    int64_t nanoseconds = 1;
  } time;
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_TIMEOUT;
  entry.fd = -1;
  entry.addr = address_of(&time);
  entry.len = 1;
  const Outcome outcome = by_ring(world, "TIMEOUT", entry);
  return outcome.os_errno == ETIME ? escaped() : outcome;
}
Outcome signal_ring(World& world) {
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_MSG_RING;
  entry.fd = world.ring->descriptor();
  const Outcome outcome = by_ring(world, "MSG_RING", entry);
  // Its own ring is no target: that is found out past the restriction.
  return outcome.os_errno == EINVAL || outcome.os_errno == EBADFD ? escaped() : outcome;
}
Outcome pass_command(World& world) {
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_URING_CMD;
  entry.fd = kKvm;
  // The device has no such commands: that is found out past the restriction.
  const int32_t result = world.ring->try_submit(entry);
  errno = -result;
  return result == -EOPNOTSUPP ? escaped() : judge("URING_CMD", result);
}
Outcome label_file(World& world) {
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_FSETXATTR;
  entry.fd = kDisk;
  entry.addr = address_of("user.mayfly");
  entry.addr2 = address_of("x");
  entry.len = 1;
  return by_ring(world, "FSETXATTR", entry);
}
Outcome give_buffers(World& world) {
  static char buffers[64];
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_PROVIDE_BUFFERS;
  entry.fd = 1;
  entry.addr = address_of(buffers);
  entry.len = sizeof(buffers);
  return by_ring(world, "PROVIDE_BUFFERS", entry);
}
Outcome do_nothing(World& world) {
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_NOP;
  return by_ring(world, "NOP", entry);
}

// An allowed operation, but on a descriptor that was not registered.
Outcome unregistered_file(World& world) {
  char byte = 0;
  iovec part = {&byte, 1};
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_READV;
  entry.fd = kReadOnlyDisk;
  entry.addr = address_of(&part);
  entry.len = 1;
  const int32_t result = world.ring->submit(entry);
  errno = -result;
  return judge("READV", result);
}
// An allowed operation with a flag that hands it to a kernel thread.
Outcome in_kernel_thread(World& world) {
  char byte = 0;
  iovec part = {&byte, 1};
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_READV;
  entry.flags = IOSQE_ASYNC;
  entry.fd = kReadOnlyDisk;
  entry.addr = address_of(&part);
  entry.len = 1;
  return by_ring(world, "READV IOSQE_ASYNC", entry);
}

Outcome by_register(World& world, const char* name, unsigned operation, const void* argument,
                    unsigned count) {
  const int32_t result = world.ring->register_with(operation, argument, count);
  errno = result < 0 ? -result : 0;
  return judge(name, result);
}

Outcome register_personality(World& world) {
  return by_register(world, "REGISTER_PERSONALITY", IORING_REGISTER_PERSONALITY, nullptr, 0);
}
Outcome register_buffers(World& world) {
  static char buffer[4096];
  const iovec part = {buffer, sizeof(buffer)};
  return by_register(world, "REGISTER_BUFFERS", IORING_REGISTER_BUFFERS, &part, 1);
}
Outcome register_probe(World& world) {
  const io_uring_probe probe = {};
  return by_register(world, "REGISTER_PROBE", IORING_REGISTER_PROBE, &probe, 0);
}
Outcome register_workers(World& world) {
  const uint32_t counts[2] = {1000, 1000};
  return by_register(world, "REGISTER_IOWQ_MAX_WORKERS", IORING_REGISTER_IOWQ_MAX_WORKERS, counts,
                     2);
}
Outcome loosen_restrictions(World& world) {
  io_uring_restriction rule = {};
  rule.opcode = IORING_RESTRICTION_SQE_OP;
  rule.sqe_op = IORING_OP_OPENAT;
  const int32_t result = world.ring->register_with(IORING_REGISTER_RESTRICTIONS, &rule, 1);
  // "The ring is not disabled" is what a ring without restrictions says.
  errno = result < 0 ? -result : 0;
  return result == -EBADFD ? escaped() : judge("REGISTER_RESTRICTIONS", result);
}
Outcome forget_files(World& world) {
  const int32_t result = world.ring->register_with(IORING_UNREGISTER_FILES, nullptr, 0);
  errno = result < 0 ? -result : 0;
  // A loose ring has none.
  return result == -ENXIO ? escaped() : judge("UNREGISTER_FILES", result);
}

constexpr Attempt kAttempts[] = {
    {"ring-openat", "a file, past the filter", kRestriction, open_file},
    {"ring-openat2", "a file, past the filter", kRestriction, open_file_newer},
    {"ring-socket", "a socket, past the filter", kRestriction, make_socket},
    {"ring-sendmsg", "a message, past the filter", kRestriction, send_message},
    {"ring-send", "bytes, past the filter", kRestriction, send_bytes},
    {"ring-shutdown", "a dead connection", kRestriction, shut_down},
    {"ring-statx", "what files there are", kRestriction, look_up},
    {"ring-renameat", "another file of that name", kRestriction, rename_file},
    {"ring-unlinkat", "a file gone", kRestriction, unlink_file},
    {"ring-linkat", "a second name", kRestriction, link_file},
    {"ring-mkdirat", "a directory", kRestriction, make_directory},
    {"ring-splice", "the kernel's copying code", kRestriction, move_pages},
    {"ring-fallocate", "the host's space", kRestriction, reserve_space},
    {"ring-fadvise", "the host's page cache", kRestriction, advise_memory},
    {"ring-read", "an operation that we do not use", kRestriction, simple_read},
    {"ring-timeout", "a timer", kRestriction, wait_in_kernel},
    {"ring-msg-ring", "another ring", kRestriction, signal_ring},
    {"ring-uring-cmd", "commands of drivers", kRestriction, pass_command},
    {"ring-fsetxattr", "an attribute", kRestriction, label_file},
    {"ring-provide-buffers", "kernel memory", kRestriction, give_buffers},
    {"ring-nop", "the least that is not on the list", kRestriction, do_nothing},
    {"ring-unregistered-file", "any descriptor", kRestriction, unregistered_file},
    {"ring-kernel-thread", "threads of the kernel", kRestriction, in_kernel_thread},
    {"ring-register-personality", "other credentials", kSeccomp | kRestriction,
     register_personality},
    {"ring-register-buffers", "locked memory", kSeccomp | kRestriction, register_buffers},
    {"ring-register-probe", "what the kernel can do", kSeccomp | kRestriction, register_probe},
    {"ring-register-workers", "a thousand kernel threads", kSeccomp | kRestriction,
     register_workers},
    {"ring-loosen-restrictions", "everything above", kSeccomp | kRestriction, loosen_restrictions},
    {"ring-forget-files", "a table of its own", kSeccomp | kRestriction, forget_files},
};

}  // namespace

std::span<const Attempt> ring_attempts() { return kAttempts; }

}  // namespace mayfly::escape
