// SPDX-License-Identifier: Apache-2.0
#include "base/seccomp/testing/evaluate.h"

#include <algorithm>
#include <cstring>

namespace mayfly::seccomp {
namespace {

uint32_t load(const seccomp_data& call, uint32_t offset) {
  uint32_t word = 0;
  CHECK(offset % sizeof(word) == 0 && offset <= sizeof(call) - sizeof(word));
  std::memcpy(&word, reinterpret_cast<const char*>(&call) + offset, sizeof(word));
  return word;
}

bool jumps(uint16_t code, uint32_t accumulator, uint32_t operand) {
  switch (BPF_OP(code)) {
    case BPF_JEQ:
      return accumulator == operand;
    case BPF_JGT:
      return accumulator > operand;
    case BPF_JGE:
      return accumulator >= operand;
    case BPF_JSET:
      return (accumulator & operand) != 0;
    default:
      CHECK(false);  // a jump that libseccomp does not make
      return false;
  }
}

}  // namespace

Evaluation evaluate(const Filter& filter, const seccomp_data& call, uint32_t pid) {
  uint32_t accumulator = 0;
  uint32_t executed = 0;
  // Jumps only go forward, so this ends.
  for (size_t at = 0;; ++at) {
    CHECK(at < filter.program.size());
    const sock_filter& line = filter.program[at];
    const bool is_own_pid = std::ranges::find(filter.own_pid_at, at) != filter.own_pid_at.end();
    const uint32_t operand = is_own_pid ? pid : line.k;
    ++executed;
    switch (line.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        accumulator = load(call, operand);
        break;
      case BPF_ALU | BPF_AND | BPF_K:
        accumulator &= operand;
        break;
      case BPF_RET | BPF_K:
        return {operand, executed};
      case BPF_JMP | BPF_JA:
        at += operand;
        break;
      default:
        CHECK(BPF_CLASS(line.code) == BPF_JMP && BPF_SRC(line.code) == BPF_K);
        at += jumps(line.code, accumulator, operand) ? line.jt : line.jf;
    }
  }
}

}  // namespace mayfly::seccomp
