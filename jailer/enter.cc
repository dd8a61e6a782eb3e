// SPDX-License-Identifier: Apache-2.0
#include "jailer/enter.h"

#include <cerrno>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

namespace mayfly::jailer {

std::unexpected<Error> enter(const JailSpec& spec) {
  std::vector<char*> arguments;
  for (const std::string& argument : spec.arguments) {
    // SAFETY: execveat() does not write to its arguments.
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  char* const no_environment[] = {nullptr};
  ::execveat(spec.exec_fd, "", arguments.data(), no_environment, AT_EMPTY_PATH);
  return fail_errno({Code::kFailedPrecondition, "EXEC"}, errno, "execute descriptor %d (%s)",
                    spec.exec_fd, spec.arguments[0].c_str());
}

}  // namespace mayfly::jailer
