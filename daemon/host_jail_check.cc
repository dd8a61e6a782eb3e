// SPDX-License-Identifier: Apache-2.0
#include "daemon/host_jail_check.h"

#include "base/landlock_sys.h"
#include "daemon/host_probe_sys.h"

#include <cstring>

#include <unistd.h>

namespace mayfly::daemon {

namespace {

HostCheck ok(std::string name, std::string detail) {
  return {.name = std::move(name),
          .status = CheckStatus::kOk,
          .detail = std::move(detail),
          .remedy = {}};
}

HostCheck warning(std::string name, std::string detail, std::string remedy) {
  return {.name = std::move(name),
          .status = CheckStatus::kWarning,
          .detail = std::move(detail),
          .remedy = std::move(remedy)};
}

HostCheck check_mode(const JailHost& jails) {
  if (jails.mode() == JailMode::kOff)
    return warning("jail", "off: " + jails.warnings().at(0), "start mayflyd without --jail=off");
  std::string detail = jail_mode_name(jails.mode());
  if (!jails.reason().empty()) detail += ", by --jail=auto: " + jails.reason();
  return ok("jail", detail);
}

HostCheck check_ids(const JailHost& jails) {
  if (jails.ids() == nullptr) {
    return ok("uid-range",
              format("not used: monitors run as user %u", static_cast<unsigned>(::geteuid())));
  }
  const IdRange& range = jails.ids()->range();
  return ok("uid-range", format("%u-%u, nobody else's", range.first, range.last));
}

HostCheck check_seccomp() {
  if (const int error = try_seccomp(); error != 0) {
    return {.name = "seccomp",
            .status = CheckStatus::kMissing,
            .detail = format("no filters: %s", std::strerror(error)),
            .remedy = "use a kernel with CONFIG_SECCOMP_FILTER"};
  }
  return ok("seccomp", "filters that kill the process");
}

HostCheck check_landlock() {
  if (const int abi = landlock::version(); abi > 0) return ok("landlock", format("ABI %d", abi));
  return warning("landlock", "not in this kernel, or not switched on; the empty root still holds",
                 "boot a kernel with CONFIG_SECURITY_LANDLOCK, and landlock in its lsm= parameter");
}

HostCheck check_user_namespaces(const JailHost& jails) {
  if (jails.user_namespace_error() == 0) return ok("user-namespaces", "allowed");
  const auto [setting, remedy] = user_namespace_advice();
  return warning(
      "user-namespaces",
      format("refused: %s; %s", std::strerror(jails.user_namespace_error()), setting.c_str()),
      remedy);
}

void check_cgroups(const JailHost& jails, std::vector<HostCheck>& checks) {
  const CgroupParent* cgroups = jails.cgroups();
  if (cgroups == nullptr) return;
  for (const Controller controller : kControllers) {
    const int version = cgroups->version(controller);
    const std::string name = format("cgroup-%s", controller_name(controller));
    if (version != 0) {
      checks.push_back(
          ok(name, format("version %d, %s", version, cgroups->dir(controller).c_str())));
      continue;
    }
    checks.push_back(warning(
        name, format("no such limit: %s", cgroups->problem(controller).c_str()),
        ::geteuid() == 0 ? "install examples/systemd/mayflyd.service, or name a group of your own "
                           "with --cgroup-parent"
                         : "systemd-run --user --scope -p Delegate=yes mayflyd"));
  }
  const CgroupTree* tree = &cgroups->layout().unified;
  if (tree->version == 0) tree = &cgroups->layout().v1_of(Controller::kMemory);
  if (tree->version == 0) return;
  // The option of any tree holds for all of them.
  bool favored = cgroups->layout().unified.favors_dynamic_mods;
  for (const CgroupTree& each : cgroups->layout().v1) favored |= each.favors_dynamic_mods;
  if (favored) {
    checks.push_back(ok("cgroup-favordynmods", "on"));
  } else {
    checks.push_back(warning(
        "cgroup-favordynmods",
        cgroups->joins_by_move()
            ? "off: each VM's move into its group waits some 13 ms for the kernel"
            : "off: KVM's own thread of each VM may wait for the kernel to move it into the group",
        format("sudo mount -o remount,favordynmods %s", tree->mount_point.c_str())));
  }
}

}  // namespace

std::vector<HostCheck> check_jail(const JailHost& jails) {
  std::vector<HostCheck> checks = {check_mode(jails), check_ids(jails), check_seccomp(),
                                   check_landlock(), check_user_namespaces(jails)};
  check_cgroups(jails, checks);
  return checks;
}

}  // namespace mayfly::daemon
