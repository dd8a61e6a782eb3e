// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/guest_sys.h"

#include <cerrno>
#include <cstring>

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::guest {

Result<> load_module(FdRef file, const char* name) {
  // SAFETY: finit_module(fd, params, flags) reads the file and the empty string.
  if (::syscall(SYS_finit_module, file.number(), "", 0) != 0 && errno != EEXIST) {
    return fail_errno({Code::kUnavailable, "MODULE"}, errno, "module %s", name);
  }
  return {};
}

Result<> bring_up_loopback() {
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail_errno({Code::kUnavailable, "LOOPBACK"}, errno, "inet socket");
  ifreq request{};
  std::memcpy(request.ifr_name, "lo", sizeof("lo"));
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  // SAFETY: SIOCSIFFLAGS reads one ifreq.
  if (::ioctl(socket.number(), SIOCSIFFLAGS, &request) != 0) {
    return fail_errno({Code::kUnavailable, "LOOPBACK"}, errno, "bring up lo");
  }
  return {};
}

Error power_down(ShutdownMode mode) {
  ::reboot(mode == ShutdownMode::kPowerOff ? RB_POWER_OFF : RB_AUTOBOOT);
  return fail_errno({Code::kInternal, "REBOOT"}, errno, "reboot").error();
}

}  // namespace mayfly::guest
