// SPDX-License-Identifier: Apache-2.0
//
// Build tool: compiles the policies into classic BPF with libseccomp, which nothing else links.
//
// usage: compile FILTERS_HEADER POLICIES_JSON
//
// Every policy answers
//   a call that a rule lists           as the rule says
//   any other call                     SECCOMP_RET_TRAP, the policy's number as data
//   another architecture's call, x32   SECCOMP_RET_KILL_PROCESS
// Why a trap and not death at once: vmm/seccomp/README.md.
#include "base/error.h"
#include "vmm/seccomp/policies.h"

#include <seccomp.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <unistd.h>

namespace mayfly::vmm {
namespace {

using Context = std::unique_ptr<void, void (*)(scmp_filter_ctx)>;

void must(int status, const char* what) {
  if (status >= 0) return;
  std::fprintf(stderr, "libseccomp: %s: error %d\n", what, -status);
  std::exit(1);
}

uint32_t action_of(seccomp::Answer answer) {
  return answer == seccomp::Answer::kNoSuchCall ? SCMP_ACT_ERRNO(ENOSYS) : SCMP_ACT_ALLOW;
}

void add_rule(const Context& context, const seccomp::Rule& rule) {
  std::vector<scmp_arg_cmp> comparisons;
  for (size_t i = 0; i < rule.argument_count; ++i) {
    const seccomp::Argument& argument = rule.arguments[i];
    comparisons.push_back({.arg = argument.index,
                           .op = SCMP_CMP_MASKED_EQ,
                           .datum_a = argument.mask,
                           .datum_b = argument.value});
  }
  must(seccomp_rule_add_exact_array(context.get(), action_of(rule.answer),
                                    static_cast<int>(rule.number),
                                    static_cast<unsigned>(comparisons.size()), comparisons.data()),
       rule.reason);
}

// libseccomp writes programs to descriptors only.
std::vector<sock_filter> export_program(const Context& context) {
  std::unique_ptr<FILE, int (*)(FILE*)> file(std::tmpfile(), std::fclose);
  CHECK(file != nullptr);
  must(seccomp_export_bpf(context.get(), fileno(file.get())), "export");
  const long size = std::fseek(file.get(), 0, SEEK_END) == 0 ? std::ftell(file.get()) : 0;
  std::vector<sock_filter> program(static_cast<size_t>(size) / sizeof(sock_filter));
  std::rewind(file.get());
  CHECK(std::fread(program.data(), sizeof(sock_filter), program.size(), file.get()) ==
        program.size());
  return program;
}

std::vector<sock_filter> compile(const Policy& policy) {
  const Context context(seccomp_init(SCMP_ACT_TRAP), seccomp_release);
  CHECK(context != nullptr);
  must(seccomp_attr_set(context.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS), "badarch");
  // A chain in the rules' order. libseccomp's binary tree was longer for the hot calls (47
  // instructions for KVM_RUN, not 34) and slower to install (the kernel tries every number once).
  uint8_t priority = 255;
  for (const seccomp::Rule& rule : policy.rules) {
    add_rule(context, rule);
    // The first of a call's rules counts; later ones do not raise it again.
    const auto first = std::ranges::find(policy.rules, rule.number, &seccomp::Rule::number);
    if (&*first == &rule && priority > 0) {
      must(seccomp_syscall_priority(context.get(), static_cast<int>(rule.number), priority--),
           "priority");
    }
  }
  std::vector<sock_filter> program = export_program(context);
  // libseccomp cannot give a trap data; the kernel hands it to the handler as si_errno.
  for (sock_filter& instruction : program) {
    if (BPF_CLASS(instruction.code) == BPF_RET && instruction.k == SECCOMP_RET_TRAP) {
      instruction.k |= static_cast<uint32_t>(policy.kind);
    }
  }
  return program;
}

std::string header(const std::vector<Policy>& policies) {
  std::ostringstream text;
  text << "// Made by vmm/seccomp/compile.cc from the *_rules.h files.\n#pragma once\n\n"
       << "#include \"base/seccomp/filter_sys.h\"\n\n#include <array>\n\n"
       << "namespace mayfly::vmm::compiled {\n\n";
  std::string table;
  for (const Policy& policy : policies) {
    const std::string name = kThreadKindNames[static_cast<size_t>(policy.kind)];
    std::string pids;
    size_t pid_count = 0;
    const std::vector<sock_filter> program = compile(policy);
    text << "inline constexpr auto " << name << "_program = std::to_array<sock_filter>({\n";
    for (size_t at = 0; at < program.size(); ++at) {
      const sock_filter& line = program[at];
      text << format("    {0x%02x, %u, %u, 0x%08x},\n", line.code, line.jt, line.jf, line.k);
      if (line.code == (BPF_JMP | BPF_JEQ | BPF_K) && line.k == seccomp::kOwnPidPlaceholder) {
        pids += std::to_string(at) + ", ";
        ++pid_count;
      }
    }
    text << "});\n";
    text << "inline constexpr std::array<uint16_t, " << pid_count << "> " << name
         << "_own_pid_at = {" << pids << "};\n\n";
    table += "    seccomp::Filter{" + name + "_program, " + name + "_own_pid_at},\n";
  }
  text << "// By ThreadKind.\ninline constexpr auto filters = std::to_array<seccomp::Filter>({\n"
       << table << "});\n\n}  // namespace mayfly::vmm::compiled\n";
  return text.str();
}

std::string call_name(uint32_t number) {
  const std::unique_ptr<char, void (*)(void*)> name(
      seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, static_cast<int>(number)), std::free);
  return name ? name.get() : "?";
}

std::string rule_json(const seccomp::Rule& rule) {
  const std::string reason = rule.reason;
  CHECK(!reason.empty() && reason.find_first_of("\"\\\n") == std::string::npos);
  std::string text =
      format(R"({"number": %u, "name": "%s", "answer": "%s", "reason": "%s", )", rule.number,
             call_name(rule.number).c_str(),
             rule.answer == seccomp::Answer::kAllow ? "allow" : "no such call", rule.reason);
  text += "\"arguments\": [";
  for (size_t i = 0; i < rule.argument_count; ++i) {
    const seccomp::Argument& argument = rule.arguments[i];
    text += format(
        R"(%s{"index": %u, "mask": %llu, "value": %llu, "own_pid": %s})", i == 0 ? "" : ", ",
        argument.index, static_cast<unsigned long long>(argument.mask),
        static_cast<unsigned long long>(argument.value), argument.is_own_pid ? "true" : "false");
  }
  return text + "]}";
}

std::string json(const std::vector<Policy>& policies) {
  std::string text = "{";
  for (const Policy& policy : policies) {
    text += text.size() == 1 ? "\n" : ",\n";
    text += format("\"%s\": [", kThreadKindNames[static_cast<size_t>(policy.kind)]);
    for (const seccomp::Rule& rule : policy.rules) {
      text += (&rule == &policy.rules.front() ? "\n  " : ",\n  ") + rule_json(rule);
    }
    text += "\n]";
  }
  return text + "\n}\n";
}

bool write(const char* path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return file.good();
}

}  // namespace
}  // namespace mayfly::vmm

int main(int argc, char** argv) {
  using namespace mayfly::vmm;
  if (argc != 3) {
    std::fputs("usage: compile FILTERS_HEADER POLICIES_JSON\n", stderr);
    return 2;
  }
  const std::vector<Policy> policies = make_policies();
  return write(argv[1], header(policies)) && write(argv[2], json(policies)) ? 0 : 1;
}
