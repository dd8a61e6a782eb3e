// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/guest_sys.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <string_view>

#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::guest {
namespace {

// Its bytes count as random in full: the generator is ready at once, and nothing that it gives out
// from now on follows from what it was when the guest was saved.
Result<> mix_entropy(std::string_view entropy) {
  CHECK(entropy.size() <= kMaxEntropyBytes);
  // rand_pool_info: bits, bytes, and the bytes.
  std::array<uint32_t, 2 + kMaxEntropyBytes / sizeof(uint32_t)> pool = {
      static_cast<uint32_t>(entropy.size() * 8), static_cast<uint32_t>(entropy.size())};
  std::memcpy(&pool[2], entropy.data(), entropy.size());
  const Fd random(::open("/dev/random", O_RDONLY | O_CLOEXEC));
  if (!random.valid()) return fail_errno({Code::kUnavailable, "ENTROPY"}, errno, "/dev/random");
  // SAFETY: RNDADDENTROPY reads two ints and as many bytes as the second says.
  if (::ioctl(random.number(), RNDADDENTROPY, pool.data()) != 0) {
    return fail_errno({Code::kUnavailable, "ENTROPY"}, errno, "add entropy");
  }
  // SAFETY: RNDRESEEDCRNG has no argument.
  if (::ioctl(random.number(), RNDRESEEDCRNG) != 0) {
    return fail_errno({Code::kUnavailable, "ENTROPY"}, errno, "reseed the random generator");
  }
  return {};
}

Result<int64_t> set_clock(uint64_t realtime_ns) {
  constexpr uint64_t kSecond = 1'000'000'000;
  timespec before{};
  ::clock_gettime(CLOCK_REALTIME, &before);
  const timespec now = {.tv_sec = static_cast<time_t>(realtime_ns / kSecond),
                        .tv_nsec = static_cast<long>(realtime_ns % kSecond)};
  if (::clock_settime(CLOCK_REALTIME, &now) != 0) {
    return fail_errno({Code::kUnavailable, "CLOCK"}, errno, "set the clock");
  }
  return (now.tv_sec - before.tv_sec) * 1'000'000 + (now.tv_nsec - before.tv_nsec) / 1000;
}

}  // namespace

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

Reseeded reseed(const Restored& restored) {
  Reseeded done;
  if (const Result<> mixed = mix_entropy(restored.entropy); !mixed) {
    done.failure = mixed.error().message();
  }
  const Result<int64_t> step_us = set_clock(restored.realtime_ns);
  if (step_us) {
    done.clock_step_us = *step_us;
  } else {
    done.failure += (done.failure.empty() ? "" : "; ") + step_us.error().message();
  }
  return done;
}

Error power_down(ShutdownMode mode) {
  ::reboot(mode == ShutdownMode::kPowerOff ? RB_POWER_OFF : RB_AUTOBOOT);
  return fail_errno({Code::kInternal, "REBOOT"}, errno, "reboot").error();
}

}  // namespace mayfly::guest
