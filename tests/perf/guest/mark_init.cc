// SPDX-License-Identifier: Apache-2.0
//
// The shortest init there is: says that user space runs, and reboots. Put into a root image and
// named by init=, it is the end mark of a boot, the same for every monitor.
#include <fcntl.h>
#include <sys/reboot.h>
#include <unistd.h>

int main() {
  constexpr char kMark[] = "MAYFLY-INIT\n";
  const int console = ::open("/dev/console", O_WRONLY);
  [[maybe_unused]] const ssize_t written = ::write(console, kMark, sizeof(kMark) - 1);
  ::fsync(console);
  ::reboot(RB_AUTOBOOT);
}
