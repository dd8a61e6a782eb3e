// SPDX-License-Identifier: Apache-2.0
#include "cli/commands.h"
#include "cli/parse.h"
#include "cli/run.h"

#include <charconv>
#include <system_error>

namespace mayfly::cli {
namespace {

UserFlags parse_user(const std::string& text) {
  UserFlags made;
  const char* const end = text.data() + text.size();
  auto at = std::from_chars(text.data(), end, made.uid);
  if (at.ec == std::errc() && at.ptr != end && *at.ptr == ':') {
    at = std::from_chars(at.ptr + 1, end, made.gid);
  }
  if (at.ec != std::errc() || at.ptr != end) {
    throw CLI::ValidationError("--user", "\"" + text + "\" is not UID or UID:GID, two numbers");
  }
  return made;
}

void take_command(Everything& all, CommandFlags& flags, bool needed = true) {
  flags.argv.insert(flags.argv.end(), all.guest_command.begin(), all.guest_command.end());
  if (!flags.user.empty()) flags.ids = parse_user(flags.user);
  if (flags.argv.empty() && needed) throw CLI::RequiredError("a command after --");
}

void add_vm_flags(CLI::App* command, VmFlags& flags) {
  command
      ->add_option("--kernel", flags.kernel,
                   "ELF vmlinux or bzImage (default: guest/vmlinux beside mayfly)")
      ->type_name("FILE");
  command
      ->add_option("--rootfs", flags.rootfs,
                   "root image, /dev/vda, read-write unless --read-only; `none` for none (default: "
                   "the image "
                   "guest/rootfs.ext4 beside mayfly, read-only; none with --initrd)")
      ->type_name("IMG");
  command->add_flag("--read-only", flags.read_only, "attach the root image read-only");
  command
      ->add_option("--disk", flags.disks, "one more disk, in order; `:ro` at its end for read-only")
      ->type_name("IMG[:ro]")
      ->allow_extra_args(false);
  command->add_flag(
      "--net{auto}", flags.nets,
      "a network device; its addresses are the daemon's choice, or --net=KEY=VALUE,... "
      "with any of tap, netns, bridge, host (its address), mac, mtu, address, gateway, "
      "dns (the guest's); an ordinary user's, or with `user`, is by passt, and forwards with "
      "tcp=[ADDRESS/]PORT[:GUEST]; may be repeated");
  add_metadata_flag(command, flags.metadata);
  command->add_option("--initrd", flags.initrds, "an initrd; several are loaded as one")
      ->type_name("FILE")
      ->allow_extra_args(false);
  command->add_option("--vcpus", flags.vcpus, "1 to 32 (default: 1)")->type_name("N");
  command->add_option("--memory-mib", flags.memory_mib, "from 16 (default: 128)")->type_name("M");
  command->add_option("--cmdline", flags.cmdline, "appended to the kernel's command line")
      ->type_name("TEXT");
  command->add_flag("--replace-cmdline", flags.replace_cmdline,
                    "--cmdline is the whole command line");
  command->add_flag("--allow-slow-kvm", flags.allow_slow_kvm,
                    "try although this host's KVM only emulates a guest's kernel");
  command->add_flag("--debug-serial", flags.debug_serial,
                    "an 8250 serial port, for a kernel that dies early");
  command
      ->add_option("--balloon", flags.balloon,
                   "a memory balloon: the MiB that the guest is to give back at first, then any of "
                   "deflate-on-oom, reporting, stats=SECONDS: 0,deflate-on-oom,reporting,stats=10")
      ->type_name("MIB[,WORD...]");
  add_limit_flags(command, flags.limits);
  command
      ->add_option("--disk-limit", flags.disk_limits,
                   "vda, vdb, ... then any of read-bytes, write-bytes, read-ops, write-ops, by "
                   "second: vda,read-bytes=10000000,write-ops=100")
      ->type_name("DISK,KEY=N...")
      ->allow_extra_args(false);
}

void add_command_flags(CLI::App* command, CommandFlags& flags) {
  command->add_option("--env", flags.env, "KEY=VALUE for the command; may be repeated")
      ->type_name("K=V")
      ->allow_extra_args(false);
  command->add_option("--workdir", flags.workdir, "the command's directory (default: /)")
      ->type_name("DIR");
  command
      ->add_option("--user", flags.user, "who runs the command (default: 0:0, or the image's user)")
      ->type_name("UID[:GID]");
  command->add_flag("-t,--tty", flags.terminal, "give the command a terminal");
  command->add_flag("-n,--no-stdin", flags.no_stdin, "do not forward standard input");
}

void add_run(CLI::App& app, Everything& all) {
  CLI::App* command =
      app.add_subcommand("run", "Boot a microVM, run a command in it, and remove it again");
  add_vm_flags(command, all.run.vm);
  add_command_flags(command, all.run.command);
  command
      ->add_option(
          "--image", all.run.image,
          "an imported image is the root, read-only; without a command it runs the image's")
      ->type_name("NAME")
      ->excludes("--rootfs");
  command->add_flag("--writable", all.run.writable, "the root is a copy of the image for this run")
      ->needs("--image");
  command
      ->add_option("--jail", all.run.jail,
                   "of the daemon that this command starts for itself: auto, root, user, off "
                   "(default: $MAYFLY_JAIL, else auto)")
      ->type_name("MODE");
  command->add_flag("--timing", all.run.timing, "print where the time went, on standard error");
  command->add_flag("--console", all.run.console, "print the guest's console on standard error");
  command->add_option("command", all.run.command.argv, "the command and its arguments, after --")
      ->type_name("CMD ARGS...");
  command->positionals_at_end();
  command->footer(
      "Standard output and error are the command's, and so is the exit code; 125 says that mayfly "
      "itself\n"
      "failed, 124 that --timeout passed, 126 and 127 that the guest could not run the command.\n"
      "Needs no daemon: unless --socket or $MAYFLY_SOCKET names one, it starts its own and ends "
      "it.\n\n"
      "  mayfly run -- uname -a\n"
      "  mayfly run --timing --vcpus 2 --memory-mib 512 -- nproc\n"
      "  mayfly run --net -- ip address show eth0\n"
      "  mayfly run --rootfs disk.ext4 -- sh -c 'echo kept > /file'\n"
      "  tar c src | mayfly run -- sh -c 'tar x -C /tmp && ls /tmp/src'\n"
      "  mayfly run --image web --writable\n"
      "  mayfly run --kernel bzImage --initrd initramfs.img --console -- true");
  command->callback([&] {
    take_command(all, all.run.command, all.run.image.empty());
    all.action = [&] { return run(all.global, all.run); };
  });
}

void add_create(CLI::App& app, Everything& all) {
  CLI::App* command = app.add_subcommand("create", "Make a VM");
  command->add_option("vm", all.create.vm_id, "its id: [a-z0-9][a-z0-9-_.]{0,62}")->required();
  add_vm_flags(command, all.create.vm);
  command->add_flag("--no-agent", all.create.vm.no_agent,
                    "boot the image's own init, without mayfly-agent");
  command->add_flag("--start", all.create.start, "run it at once");
  command->add_option("--request-id", all.create.request_id,
                      "make repeating this very command harmless: same id, same answer");
  command->footer(
      "  mayfly create web --rootfs web.ext4 --vcpus 2 --memory-mib 256 --start && mayfly wait web "
      "--ready");
  command->callback([&] { all.action = [&] { return create(all.global, all.create); }; });
}

void add_simple(CLI::App& app, Everything& all, const char* name, const char* description,
                int (*action)(const GlobalFlags&, const std::string&)) {
  CLI::App* command = app.add_subcommand(name, description);
  command->add_option("vm", all.vm_id, "the VM's id")->required();
  command->callback(
      [&all, action] { all.action = [&all, action] { return action(all.global, all.vm_id); }; });
}

void add_update(CLI::App& app, Everything& all) {
  CLI::App* command = app.add_subcommand("update", "Change what can be changed of a VM");
  command->add_option("vm", all.update.vm_id, "the VM's id")->required();
  command
      ->add_option("--balloon-target", all.update.balloon_target_mib,
                   "how much memory the guest is to give back")
      ->type_name("MIB");
  add_metadata_flag(command, all.update.metadata);
  command->add_flag("--no-metadata", all.update.no_metadata, "it has none from now on")
      ->excludes("--metadata");
  command->footer(
      "  mayfly update web --balloon-target 512\n"
      "  mayfly update web --metadata new.json");
  command->callback([&] { all.action = [&] { return update(all.global, all.update); }; });
}

void add_exec(CLI::App& app, Everything& all) {
  CLI::App* command =
      app.add_subcommand("exec", "Run a command in a running VM, once its guest is ready");
  command->add_option("vm", all.vm_id, "the VM's id")->required();
  add_command_flags(command, all.exec);
  command->add_option("command", all.exec.argv, "the command and its arguments, after --");
  command->footer("  mayfly exec web -- ps\n  mayfly exec web -t -- sh");
  command->callback([&] {
    take_command(all, all.exec);
    all.action = [&] { return exec(all.global, all.vm_id, all.exec); };
  });
}

void add_wait_stop_rm(CLI::App& app, Everything& all) {
  CLI::App* wait_command =
      app.add_subcommand("wait", "Wait for a VM to stop, to be ready, or to be in a state");
  wait_command->add_option("vm", all.wait.vm_id, "the VM's id")->required();
  wait_command->add_flag("--ready", all.wait.ready, "until its guest's agent has reported");
  wait_command
      ->add_option("--state", all.wait.states,
                   "created, running, paused or stopped; may be repeated")
      ->allow_extra_args(false);
  wait_command->footer(
      "  mayfly wait web --ready --timeout 10\n  mayfly wait web          until it has stopped");
  wait_command->callback([&] { all.action = [&] { return wait(all.global, all.wait); }; });

  CLI::App* stop_command =
      app.add_subcommand("stop", "Let a guest power off; end the VM when the grace is over");
  stop_command->add_option("vm", all.stop.vm_id, "the VM's id")->required();
  stop_command->add_option("--grace", all.stop.grace_s, "seconds; 0: at once (default: 5)");
  stop_command->callback([&] { all.action = [&] { return stop(all.global, all.stop); }; });

  CLI::App* remove_command =
      app.add_subcommand("rm", "Forget stopped VMs and what they have on the host");
  remove_command->add_option("vm", all.remove.vm_ids, "the VMs' ids")->required();
  remove_command->add_flag("-f,--force", all.remove.force, "end them first");
  remove_command->callback([&] { all.action = [&] { return remove(all.global, all.remove); }; });
}

void add_streams(CLI::App& app, Everything& all) {
  CLI::App* console_command = app.add_subcommand("console", "Read a VM's console, or attach to it");
  console_command->add_option("vm", all.console.vm_id, "the VM's id")->required();
  console_command->add_option("--offset", all.console.offset,
                              "from this byte of the output on (default: 0)");
  console_command->add_flag("-f,--follow", all.console.follow, "until the VM has stopped");
  console_command->add_flag("-a,--attach", all.console.attach,
                            "follow, and forward standard input");
  console_command->callback([&] { all.action = [&] { return console(all.global, all.console); }; });

  CLI::App* events_command = app.add_subcommand("events", "Follow what happens to VMs");
  events_command->add_option("--vm", all.events.vm_id, "of this VM only");
  events_command->add_option("--resume", all.events.resume_token,
                             "go on after the event that carried this token");
  events_command->add_flag("--all", all.events.from_oldest,
                           "from the oldest event kept, not from now");
  events_command->callback([&] { all.action = [&] { return events(all.global, all.events); }; });
}

}  // namespace

void add_metadata_flag(CLI::App* command, std::string& file) {
  command
      ->add_option("--metadata", file,
                   "a JSON object that the guest can read at http://169.254.169.254/, by a token")
      ->type_name("FILE");
}

void add_limit_flags(CLI::App* command, LimitFlags& flags) {
  command
      ->add_option("--cpus", flags.cpus,
                   "CPU time it may use, in CPUs: 0.01 to 1024 (default: no limit)")
      ->type_name("N.N");
  command->add_option("--cpu-weight", flags.cpu_weight,
                      "its share where CPUs are short: 1 to 10000 (default: 100)");
  command
      ->add_option("--memory-limit-mib", flags.memory_limit_mib,
                   "memory for guest and monitor together (default: the guest's and 64 MiB, and "
                   "1/128 of it)")
      ->type_name("M");
  command
      ->add_option("--pids-max", flags.pids_max,
                   "threads of the monitor (default: its vCPUs and 64)")
      ->type_name("N");
}

void add_vm_commands(CLI::App& app, Everything& all) {
  add_run(app, all);
  add_create(app, all);
  add_simple(app, all, "start", "Run a created VM", start);
  add_simple(app, all, "pause", "Pause a running VM", pause);
  add_simple(app, all, "resume", "Resume a paused VM", resume);
  CLI::App* list_command = app.add_subcommand("ls", "List VMs");
  list_command->callback([&] { all.action = [&] { return list(all.global); }; });
  add_simple(app, all, "inspect", "Print everything about a VM, as JSON", inspect);
  add_update(app, all);
  add_wait_stop_rm(app, all);
  add_exec(app, all);
  add_streams(app, all);
}

}  // namespace mayfly::cli
