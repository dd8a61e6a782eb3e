// SPDX-License-Identifier: Apache-2.0
// The compiled programs against the rules they were made from, instruction by instruction, by a
// matcher that knows nothing of BPF.
#include "vmm/seccomp/policies.h"

#include "base/seccomp/testing/evaluate.h"
#include "vmm/kvm/kvm_abi.h"
#include "vmm/seccomp/compiled_filters.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <random>
#include <set>
#include <string>

#include <asm/unistd.h>
#include <linux/audit.h>
#include <sys/mman.h>

namespace mayfly::vmm {
namespace {

using seccomp::Argument;
using seccomp::Rule;

constexpr uint32_t kPid = 4321;
constexpr uint32_t kX32Bit = 0x4000'0000;
constexpr uint32_t kLastNumber = 600;
constexpr size_t kArguments = 6;

seccomp_data call_of(uint32_t number) {
  seccomp_data call = {};
  call.nr = static_cast<int>(number);
  call.arch = AUDIT_ARCH_X86_64;
  return call;
}

uint64_t value_of(const Argument& argument) { return argument.is_own_pid ? kPid : argument.value; }

// The rule's call; what the rule does not look at is `rest`.
seccomp_data call_of(const Rule& rule, uint64_t rest = 0) {
  seccomp_data call = call_of(rule.number);
  std::ranges::fill(call.args, rest);
  for (size_t i = 0; i < rule.argument_count; ++i) {
    const Argument& argument = rule.arguments[i];
    call.args[argument.index] = (rest & ~argument.mask) | value_of(argument);
  }
  return call;
}

uint32_t denied(const Policy& policy) {
  return SECCOMP_RET_TRAP | static_cast<uint32_t>(policy.kind);
}

bool matches(const Rule& rule, const seccomp_data& call) {
  if (rule.number != static_cast<uint32_t>(call.nr)) return false;
  for (size_t i = 0; i < rule.argument_count; ++i) {
    const Argument& argument = rule.arguments[i];
    if ((call.args[argument.index] & argument.mask) != value_of(argument)) return false;
  }
  return true;
}

uint32_t expected(const Policy& policy, const seccomp_data& call) {
  const auto rule =
      std::ranges::find_if(policy.rules, [&](const Rule& one) { return matches(one, call); });
  if (rule == policy.rules.end()) return denied(policy);
  return rule->answer == seccomp::Answer::kAllow ? uint32_t{SECCOMP_RET_ALLOW}
                                                 : SECCOMP_RET_ERRNO | uint32_t{ENOSYS};
}

seccomp::Evaluation run(const Policy& policy, const seccomp_data& call) {
  return seccomp::evaluate(compiled::filters[static_cast<size_t>(policy.kind)], call, kPid);
}

std::string describe(const Policy& policy, const Rule& rule) {
  return std::string(kThreadKindNames[static_cast<size_t>(policy.kind)]) + ", call " +
         std::to_string(rule.number) + ": " + rule.reason;
}

TEST_CASE("there is a policy for each kind of thread, in order, and each fits") {
  const std::vector<Policy> policies = make_policies();
  REQUIRE_EQ(policies.size(), kThreadKindCount);
  for (size_t i = 0; i < policies.size(); ++i) {
    CHECK_EQ(static_cast<size_t>(policies[i].kind), i);
    CHECK_LE(compiled::filters[i].program.size(), seccomp::Filter::kMaxInstructions);
  }
}

TEST_CASE("a call passes as its rule says, whatever the arguments the rule does not name") {
  for (const Policy& policy : make_policies()) {
    for (const Rule& rule : policy.rules) {
      INFO(describe(policy, rule));
      const uint32_t answer = expected(policy, call_of(rule));
      CHECK_NE(answer, denied(policy));
      for (const uint64_t rest : {uint64_t{0}, ~uint64_t{0}, uint64_t{0xdead'beef'1234'5678}}) {
        CHECK_EQ(run(policy, call_of(rule, rest)).answer, answer);
      }
    }
  }
}

TEST_CASE("each compared bit counts, and no other does") {
  for (const Policy& policy : make_policies()) {
    for (const Rule& rule : policy.rules) {
      INFO(describe(policy, rule));
      for (size_t i = 0; i < rule.argument_count; ++i) {
        size_t denials = 0;
        for (unsigned bit = 0; bit < 64; ++bit) {
          seccomp_data call = call_of(rule);
          call.args[rule.arguments[i].index] ^= uint64_t{1} << bit;
          CHECK_EQ(run(policy, call).answer, expected(policy, call));
          if ((rule.arguments[i].mask >> bit & 1) == 0) {
            CHECK_NE(run(policy, call).answer, denied(policy));
          } else if (run(policy, call).answer == denied(policy)) {
            ++denials;
          }
        }
        // A flipped bit may make the call of another rule, but only few do.
        CHECK_GE(denials, 20);
      }
    }
  }
}

TEST_CASE("every call without a rule is denied, with the policy's tag") {
  for (const Policy& policy : make_policies()) {
    std::set<uint32_t> listed;
    for (const Rule& rule : policy.rules) listed.insert(rule.number);
    for (uint32_t number = 0; number <= kLastNumber; ++number) {
      if (listed.contains(number)) continue;
      INFO(number);
      CHECK_EQ(run(policy, call_of(number)).answer, denied(policy));
    }
    CHECK_EQ(run(policy, call_of(0xffff'ffff)).answer, denied(policy));
  }
}

TEST_CASE("x32 calls and those of other architectures kill") {
  for (const Policy& policy : make_policies()) {
    for (uint32_t number = 0; number <= kLastNumber; ++number) {
      CHECK_EQ(run(policy, call_of(number | kX32Bit)).answer, SECCOMP_RET_KILL_PROCESS);
      for (const uint32_t arch : {uint32_t{AUDIT_ARCH_I386}, uint32_t{AUDIT_ARCH_AARCH64}, 0u}) {
        seccomp_data call = call_of(number);
        call.arch = arch;
        CHECK_EQ(run(policy, call).answer, SECCOMP_RET_KILL_PROCESS);
      }
    }
  }
}

TEST_CASE("no policy has a rule for what an attacker would go on with") {
  constexpr uint32_t kNever[] = {__NR_execve,
                                 __NR_execveat,
                                 __NR_fork,
                                 __NR_vfork,
                                 __NR_open,
                                 __NR_openat,
                                 __NR_openat2,
                                 __NR_open_by_handle_at,
                                 __NR_creat,
                                 __NR_socket,
                                 __NR_socketpair,
                                 __NR_connect,
                                 __NR_bind,
                                 __NR_listen,
                                 __NR_ptrace,
                                 __NR_process_vm_readv,
                                 __NR_process_vm_writev,
                                 __NR_pidfd_open,
                                 __NR_pidfd_getfd,
                                 __NR_kill,
                                 __NR_bpf,
                                 __NR_perf_event_open,
                                 __NR_userfaultfd,
                                 __NR_mount,
                                 __NR_umount2,
                                 __NR_pivot_root,
                                 __NR_chroot,
                                 __NR_setns,
                                 __NR_unshare,
                                 __NR_setuid,
                                 __NR_setresuid,
                                 __NR_capset,
                                 __NR_keyctl,
                                 __NR_add_key,
                                 __NR_init_module,
                                 __NR_finit_module,
                                 __NR_kexec_load,
                                 __NR_io_uring_setup,
                                 __NR_memfd_create,
                                 __NR_mremap,
                                 __NR_remap_file_pages,
                                 __NR_pkey_mprotect,
                                 __NR_personality,
                                 __NR_modify_ldt,
                                 __NR_arch_prctl,
                                 __NR_prlimit64};
  for (const Policy& policy : make_policies()) {
    for (const uint32_t number : kNever) {
      CHECK(std::ranges::find(policy.rules, number, &Rule::number) == policy.rules.end());
    }
  }
}

TEST_CASE("no policy makes memory executable, whatever the flags") {
  for (const Policy& policy : make_policies()) {
    for (uint64_t protection = 0; protection < 16; ++protection) {
      if ((protection & PROT_EXEC) == 0) continue;
      for (const uint32_t number : {__NR_mmap, __NR_mprotect}) {
        seccomp_data call = call_of(number);
        call.args[2] = protection;
        // Every kind of mapping, and those that some rule names.
        std::set<uint64_t> flags = {MAP_FIXED_NOREPLACE | MAP_PRIVATE, MAP_HUGETLB | MAP_SHARED};
        for (uint64_t low = 0; low < 256; ++low) flags.insert(low);
        for (const Rule& rule : policy.rules) {
          for (const Argument& argument : rule.arguments) flags.insert(argument.value);
        }
        for (const uint64_t each : flags) {
          call.args[3] = each;
          CHECK_EQ(run(policy, call).answer, denied(policy));
        }
      }
    }
  }
}

TEST_CASE("a thread under stacked filters may make all calls of the newer one") {
  const std::vector<Policy> policies = make_policies();
  const Policy& start = policies[static_cast<size_t>(ThreadKind::kStart)];
  for (const Policy& policy : policies) {
    for (const Rule& rule : policy.rules) {
      INFO(describe(policy, rule));
      CHECK_NE(run(start, call_of(rule)).answer, denied(start));
    }
  }
}

TEST_CASE("once the machine is built nobody starts threads, builds machines or adds filters") {
  for (const Policy& policy : make_policies()) {
    if (policy.kind == ThreadKind::kStart) continue;
    for (const uint32_t number : {__NR_clone, __NR_clone3, __NR_mprotect, __NR_munmap, __NR_seccomp,
                                  __NR_prctl, __NR_newfstatat, __NR_preadv}) {
      CHECK(std::ranges::find(policy.rules, number, &Rule::number) == policy.rules.end());
    }
    constexpr uint64_t kRequests[] = {KVM_CREATE_VM,     KVM_SET_USER_MEMORY_REGION,
                                      KVM_SET_REGS,      KVM_CREATE_VCPU,
                                      KVM_CREATE_DEVICE, KVM_SET_SREGS,
                                      kvm::kSetMsrs,     KVM_SET_CLOCK};
    for (const uint64_t request : kRequests) {
      seccomp_data call = call_of(__NR_ioctl);
      call.args[1] = request;
      CHECK_EQ(run(policy, call).answer, denied(policy));
    }
  }
}

TEST_CASE("a million calls made of the rules' own numbers are answered as the rules say") {
  const std::vector<Policy> policies = make_policies();
  std::vector<uint64_t> values = {0, 1, ~uint64_t{0}, kPid};
  std::vector<uint32_t> numbers;
  for (const Rule& rule : policies.front().rules) {
    numbers.push_back(rule.number);
    for (size_t i = 0; i < rule.argument_count; ++i) values.push_back(rule.arguments[i].value);
  }
  std::minstd_rand random(1);
  const auto any_of = [&](const auto& list) { return list[random() % list.size()]; };
  size_t passed = 0;
  for (int i = 0; i < 1'000'000; ++i) {
    const Policy& policy = policies[random() % policies.size()];
    // Half of them a rule's call with one argument of another rule.
    const Rule& rule = any_of(policy.rules);
    seccomp_data call = random() % 2 == 0 ? call_of(rule) : call_of(any_of(numbers));
    if (random() % 2 == 0) call.args[random() % kArguments] = any_of(values);
    const uint32_t answer = run(policy, call).answer;
    if (answer != expected(policy, call)) FAIL(describe(policy, rule));
    passed += answer == SECCOMP_RET_ALLOW ? 1 : 0;
  }
  CHECK_GE(passed, 100'000);
}

uint32_t instructions(const char* name, ThreadKind kind, const seccomp_data& call) {
  const std::vector<Policy> policies = make_policies();
  uint32_t sum = 0;
  for (const ThreadKind each : {ThreadKind::kStart, kind}) {
    const auto evaluation = run(policies[static_cast<size_t>(each)], call);
    CHECK_EQ(evaluation.answer, SECCOMP_RET_ALLOW);
    sum += evaluation.instructions;
  }
  std::printf("figures: filters: %s, both filters: %u instructions\n", name, sum);
  return sum;
}

TEST_CASE("the hot calls are answered after few instructions") {
  seccomp_data kvm_run = call_of(__NR_ioctl);
  kvm_run.args[1] = KVM_RUN;
  seccomp_data signal_msi = call_of(__NR_ioctl);
  signal_msi.args[1] = KVM_SIGNAL_MSI;
  CHECK_LE(instructions("KVM_RUN", ThreadKind::kVcpu, kvm_run), 64);
  CHECK_LE(instructions("vCPU's write", ThreadKind::kVcpu, call_of(__NR_write)), 24);
  CHECK_LE(instructions("io_uring_enter", ThreadKind::kLoop, call_of(__NR_io_uring_enter)), 16);
  CHECK_LE(instructions("KVM_SIGNAL_MSI", ThreadKind::kLoop, signal_msi), 64);
}

}  // namespace
}  // namespace mayfly::vmm
