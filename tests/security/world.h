// SPDX-License-Identifier: Apache-2.0
//
// What a monitor that has been taken over has in its hands, and what it would like to reach. The
// launcher (try_escape.cc) makes both; an attempt only looks at them.
#pragma once

#include <array>
#include <cstdint>

#include <sys/types.h>

namespace mayfly::escape {

/// What a monitor holds once it is configured, by the numbers under which it inherits them here.
enum Inherited : int {
  kControl = 3,   // its end of a connection, SOCK_SEQPACKET
  kKvm,           // /dev/kvm
  kMemory,        // the guest's RAM, a memfd
  kKernel,        // open for reading
  kReadOnlyDisk,  // open for reading; its content is a program, and its mode lets everyone execute
                  // it
  kDisk,          // open for reading and writing
  kConsoleRing,
  kConsoleInput,  // the reading end of a pipe
  kAgentStream,   // its end of a stream socket
  kTargets,       // a Targets, which a monitor would have found out by itself
  kExtra,         // nothing of use; in a loose world a directory
  kInheritedEnd,
  // Its own directory of /proc, in a jail only; closed before the attempt.
  kProcSelf = kInheritedEnd,
};

/// Of each disk. A jail lets no file grow beyond it.
inline constexpr uint64_t kDiskBytes = uint64_t{1} << 20;

inline constexpr std::array<char, 16> kSecret = {"mayfly's secret"};

/// What to go for. Made by the launcher, written to a file as it is.
struct Targets {
  pid_t daemon = 0;            // a process with the launcher's privileges, outside of the jail
  pid_t neighbour = 0;         // another jailed program
  uint64_t daemon_secret = 0;  // where kSecret is in the daemon's memory
  uint16_t tcp_port = 0;       // of a listener on 127.0.0.1
  int32_t ipc_key = 0;  // of a System V segment, queue and semaphore set that everyone may use
  char host_directory[108] = {};  // everyone may write in it
  char host_file[108] = {};       // everyone may read and write it; begins with kSecret
  char host_socket[108] = {};     // a listening Unix socket that everyone may connect to
  char abstract_name[64] = {};    // of a listening abstract Unix socket
  char queue_name[64] = {};       // of a POSIX message queue that everyone may open
};

}  // namespace mayfly::escape
