// SPDX-License-Identifier: Apache-2.0
//
// mayfly: the command line. Each subcommand fills its flags and leaves one call to make.
#include "cli/commands.h"
#include "cli/memory.h"
#include "cli/output.h"
#include "cli/run.h"
#include "cli/snapshots.h"
#include "cli/templates.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string_view>

namespace mayfly::cli {
namespace {

using Action = std::function<int()>;

/// What the subcommands fill; one of them sets `action`.
struct Everything {
  GlobalFlags global;
  RunFlags run;
  CreateFlags create;
  ConsoleFlags console;
  WaitFlags wait;
  EventFlags events;
  StopFlags stop;
  RemoveFlags remove;
  SnapshotFlags snapshot;
  MemoryFlags memory;
  RestoreFlags restore;
  RebaseFlags rebase;
  std::vector<std::string> snapshot_ids;
  TemplateFlags made_template;
  std::vector<std::string> template_ids;
  CommandFlags exec;
  std::string vm_id;
  // What follows the first `--`: a command for the guest, whose flags are not ours.
  std::vector<std::string> guest_command;
  Action action;
};

void take_command(Everything& all, CommandFlags& flags) {
  flags.argv.insert(flags.argv.end(), all.guest_command.begin(), all.guest_command.end());
  if (flags.argv.empty()) throw CLI::RequiredError("a command after --");
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
  command->add_flag("-t,--tty", flags.terminal, "give the command a terminal");
  command->add_flag("-n,--no-stdin", flags.no_stdin, "do not forward standard input");
}

void add_run(CLI::App& app, Everything& all) {
  CLI::App* command =
      app.add_subcommand("run", "Boot a microVM, run a command in it, and remove it again");
  add_vm_flags(command, all.run.vm);
  add_command_flags(command, all.run.command);
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
      "  mayfly run --rootfs disk.ext4 -- sh -c 'echo kept > /file'\n"
      "  tar c src | mayfly run -- sh -c 'tar x -C /tmp && ls /tmp/src'\n"
      "  mayfly run --kernel bzImage --initrd initramfs.img --console -- true");
  command->callback([&] {
    take_command(all, all.run.command);
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

void add_snapshot_id(CLI::App& app, Everything& all, const char* name, const char* description,
                     int (*action)(const GlobalFlags&, const std::string&)) {
  CLI::App* command = app.add_subcommand(name, description);
  command->add_option("snapshot", all.snapshot.snapshot_id, "the snapshot's id")->required();
  command->callback([&all, action] {
    all.action = [&all, action] { return action(all.global, all.snapshot.snapshot_id); };
  });
}

void add_rebase(CLI::App& snapshot, Everything& all) {
  CLI::App* command = snapshot.add_subcommand(
      "rebase", "Merge a diff with snapshots that it stands on, so that it stands on fewer");
  command->add_option("snapshot", all.rebase.snapshot_id, "the diff's id")->required();
  CLI::Option* onto = command
                          ->add_option("--onto", all.rebase.onto_id,
                                       "one of those that it stands on, which it shall stand on "
                                       "directly")
                          ->type_name("ID");
  command->add_flag("--full", all.rebase.full, "it shall stand on none (the default)")
      ->excludes(onto);
  command
      ->add_option("--as", all.rebase.new_snapshot_id,
                   "make another snapshot of it, and leave this one (default: replace it)")
      ->type_name("NEW");
  command->footer(
      "  mayfly snapshot rebase later --full\n  mayfly snapshot rebase later --onto warm --as two");
  command->callback([&] { all.action = [&] { return rebase_snapshot(all.global, all.rebase); }; });
}

void add_record(CLI::App& app, Everything& all) {
  CLI::App* command = app.add_subcommand(
      "record", "Let a snapshot's next VMs have at hand what this VM of it has touched");
  command->add_option("vm", all.snapshot.vm_id, "the VM's id")->required();
  command->footer(
      "  mayfly restore warm w --record-working-set && curl http://w/ && mayfly snapshot record w");
  command->callback(
      [&] { all.action = [&] { return record_working_set(all.global, all.snapshot.vm_id); }; });
}

void add_snapshot(CLI::App& app, Everything& all) {
  CLI::App* snapshot =
      app.add_subcommand("snapshot", "Save VMs, and look after what was saved of them");
  snapshot->require_subcommand(1);
  CLI::App* create_command =
      snapshot->add_subcommand("create", "Save a running or paused VM, which goes on");
  create_command->add_option("vm", all.snapshot.vm_id, "the VM's id")->required();
  create_command
      ->add_option("snapshot", all.snapshot.snapshot_id,
                   "the snapshot's id: [a-z0-9][a-z0-9-_.]{0,62}")
      ->required();
  CLI::Option* diff = create_command->add_flag(
      "--diff", all.snapshot.diff,
      "only the memory that changed since the VM's first snapshot, or the one that it was restored "
      "from");
  create_command
      ->add_flag("--state-only", all.snapshot.state_only,
                 "without the memory, which is yours to keep: with --stay-paused")
      ->excludes(diff);
  create_command->add_flag("--stay-paused", all.snapshot.stay_paused,
                           "leave the VM paused afterwards");
  create_command->add_flag("--caller-keeps-disks", all.snapshot.caller_keeps_disks,
                           "what is on disks that it can write to is not saved: you keep a copy");
  create_command->footer("  mayfly snapshot create web warm && mayfly restore warm web2");
  create_command->callback(
      [&] { all.action = [&] { return create_snapshot(all.global, all.snapshot); }; });
  CLI::App* cancel_command = snapshot->add_subcommand(
      "cancel", "End the making of a snapshot; nothing of it is left, and its VM goes on");
  cancel_command->add_option("snapshot", all.snapshot.snapshot_id, "the snapshot's id");
  cancel_command->add_option("--vm", all.snapshot.vm_id, "of this VM")->type_name("ID");
  cancel_command->callback(
      [&] { all.action = [&] { return cancel_snapshot(all.global, all.snapshot); }; });
  snapshot->add_subcommand("list", "List snapshots")->callback([&] {
    all.action = [&] { return list_snapshots(all.global); };
  });
  add_snapshot_id(*snapshot, all, "inspect", "Print everything about a snapshot, as JSON",
                  inspect_snapshot);
  add_snapshot_id(*snapshot, all, "verify",
                  "Read every byte of a snapshot, and of those that it stands on", verify_snapshot);
  add_rebase(*snapshot, all);
  add_record(*snapshot, all);
  CLI::App* delete_command = snapshot->add_subcommand("delete", "Remove snapshots");
  delete_command->add_option("snapshot", all.snapshot_ids, "the snapshots' ids")->required();
  delete_command->callback(
      [&] { all.action = [&] { return delete_snapshots(all.global, all.snapshot_ids); }; });
}

void add_template(CLI::App& app, Everything& all) {
  CLI::App* parent = app.add_subcommand(
      "template", "Keep snapshots in memory, for VMs that shall go on from them soon");
  parent->require_subcommand(1);
  CLI::App* prepare_command =
      parent->add_subcommand("prepare", "Read a snapshot, check it, and keep it in memory");
  prepare_command->add_option("snapshot", all.made_template.snapshot_id, "the snapshot's id")
      ->required();
  prepare_command
      ->add_option("template", all.made_template.template_id,
                   "the template's id: [a-z0-9][a-z0-9-_.]{0,62}")
      ->required();
  prepare_command
      ->add_option("--shells", all.made_template.shells,
                   "keep so many monitors ready, each for one VM: up to 1000 (default: 0)")
      ->type_name("N");
  prepare_command->footer(
      "It lasts until `template rm`, or until the daemon ends.\n"
      "  mayfly template prepare warm web --shells 8 && mayfly clone --template web a b c");
  prepare_command->callback(
      [&] { all.action = [&] { return prepare_template(all.global, all.made_template); }; });
  parent->add_subcommand("ls", "List templates")->callback([&] {
    all.action = [&] { return list_templates(all.global); };
  });
  CLI::App* inspect_command =
      parent->add_subcommand("inspect", "Print everything about a template, as JSON");
  inspect_command->add_option("template", all.made_template.template_id, "the template's id")
      ->required();
  inspect_command->callback([&] {
    all.action = [&] { return inspect_template(all.global, all.made_template.template_id); };
  });
  CLI::App* remove_command =
      parent->add_subcommand("rm", "Forget templates; VMs that were made from them stay");
  remove_command->add_option("template", all.template_ids, "the templates' ids")->required();
  remove_command->callback(
      [&] { all.action = [&] { return delete_templates(all.global, all.template_ids); }; });
}

void add_memory(CLI::App& app, Everything& all) {
  CLI::App* memory = app.add_subcommand("memory", "Look at the memory of VMs, and export it");
  memory->require_subcommand(1);
  const auto add = [&](const char* name, const char* description,
                       int (*action)(const GlobalFlags&, const MemoryFlags&)) {
    CLI::App* command = memory->add_subcommand(name, description);
    command->add_option("vm", all.memory.vm_id, "the VM's id")->required();
    command->callback(
        [&all, action] { all.action = [&all, action] { return action(all.global, all.memory); }; });
    return command;
  };
  add("describe", "Print what a VM's memory is made of, as JSON", describe_memory)
      ->add_flag("--count", all.memory.count_pages, "look at every page, and count them");
  CLI::App* query = add("query", "Print runs of pages: kind, first page, number", query_pages);
  query
      ->add_option("--kind", all.memory.kinds,
                   "changed, resident, swapped or zero; may be repeated (default: changed)")
      ->allow_extra_args(false);
  query->add_option("--first", all.memory.first_page, "from this page on (default: 0)");
  query->add_option("--pages", all.memory.page_count, "so many (default: to the end)");
  CLI::App* to_file = add("export", "Write a VM's memory to a new file", export_memory);
  to_file->add_option("file", all.memory.file, "the file, which must not exist")->required();
  to_file->add_flag("--frozen", all.memory.frozen,
                    "as it is at one moment, also where the VM never was saved or cloned");
  memory->add_subcommand("usage", "List what VMs take of the host's memory")->callback([&] {
    all.action = [&] { return memory_usage(all.global); };
  });
}

void add_restore_flags(CLI::App* command, RestoreFlags& flags) {
  command->add_option("--template", flags.template_id, "go on from this template")->type_name("ID");
  command
      ->add_option("--disk", flags.disks,
                   "a file for the next of its disks, or for the one named; needed for those that "
                   "were not captured")
      ->type_name("[vdX=]IMG")
      ->allow_extra_args(false);
  command->add_option("--guest-cid", flags.guest_cid, "its vsock address (default: a random one)");
  command->add_flag("--paused", flags.paused, "do not run it yet");
  command->add_flag("--wait-reseeded", flags.wait_reseeded,
                    "until its guest has taken fresh entropy and the time; else end it");
  command->add_option("--reseed-timeout", flags.reseed_timeout_s, "seconds (default: 30)")
      ->type_name("S");
  command->add_flag("--allow-slow-kvm", flags.allow_slow_kvm,
                    "try although this host's KVM only emulates a guest's kernel");
  command
      ->add_option("--memory-policy", flags.memory_policy,
                   "what of its working set is copied beforehand (default: balanced)")
      ->check(CLI::IsMember({"lazy", "balanced", "latency"}));
  command->add_flag("--record-working-set", flags.record_working_set,
                    "for `snapshot record`: slower, and it can tell what memory it touches");
  add_limit_flags(command, flags.limits);
}

void add_restore_clone(CLI::App& app, Everything& all) {
  CLI::App* restore_command =
      app.add_subcommand("restore", "Make a VM that goes on from a snapshot or a template");
  restore_command
      ->add_option("ids", all.restore.restore_ids,
                   "the snapshot's id, without --template; then the new VM's id")
      ->required()
      ->expected(1, 2)
      ->type_name("[SNAPSHOT] VM");
  add_restore_flags(restore_command, all.restore);
  restore_command->add_flag("--verify-memory", all.restore.verify_memory,
                            "read all of the memory, and of captured disks, first");
  restore_command
      ->add_option("--memory", all.restore.memory,
                   "of a snapshot made with --state-only: a file with its memory")
      ->type_name("FILE");
  restore_command->add_option("--request-id", all.restore.request_id,
                              "make repeating this very command harmless: same id, same answer");
  restore_command->footer(
      "  mayfly restore warm web2 --disk web.ext4\n  mayfly restore --template web web2");
  restore_command->callback([&] { all.action = [&] { return restore(all.global, all.restore); }; });

  CLI::App* clone_command = app.add_subcommand(
      "clone", "Make many VMs that go on from one snapshot, template or live VM");
  clone_command->add_option("vms", all.restore.clone_ids, "the new VMs' ids")->required();
  clone_command->add_option("--snapshot", all.restore.snapshot_id, "clone this snapshot")
      ->type_name("ID");
  clone_command->add_option("--vm", all.restore.source_vm_id, "clone this VM, which goes on")
      ->type_name("ID");
  add_restore_flags(clone_command, all.restore);
  clone_command->add_flag("--caller-keeps-disks", all.restore.caller_keeps_disks,
                          "disks that the VM can write to are not copied for the clones");
  clone_command->footer("  mayfly clone --snapshot warm a b c\n  mayfly clone --vm web a b c");
  clone_command->callback([&] { all.action = [&] { return clone(all.global, all.restore); }; });
}

int run_program(int argc, char** argv) {
  Everything all;
  CLI::App app("mayfly runs microVMs.");
  app.add_option("--socket", all.global.socket,
                 "the daemon's socket, unix:/PATH (default: $MAYFLY_SOCKET, else "
                 "$XDG_RUNTIME_DIR/mayfly/mayflyd.sock, "
                 "for root /run/mayfly/mayflyd.sock)")
      ->type_name("unix:/PATH");
  app.add_flag("--json", all.global.json, "print JSON");
  app.add_option("--timeout", all.global.timeout_s,
                 "give up after this many seconds, with exit code 124")
      ->type_name("S");
  app.require_subcommand(0, 1);  // None is dealt with below: CLI11 would not name a wrong one.
  app.fallthrough();             // The flags above may also follow the subcommand.
  add_run(app, all);
  add_create(app, all);
  add_simple(app, all, "start", "Run a created VM", start);
  add_simple(app, all, "pause", "Pause a running VM", pause);
  add_simple(app, all, "resume", "Resume a paused VM", resume);
  CLI::App* list_command = app.add_subcommand("ls", "List VMs");
  list_command->callback([&] { all.action = [&] { return list(all.global); }; });
  add_simple(app, all, "inspect", "Print everything about a VM, as JSON", inspect);
  add_wait_stop_rm(app, all);
  add_exec(app, all);
  add_streams(app, all);
  add_snapshot(app, all);
  add_template(app, all);
  add_restore_clone(app, all);
  add_memory(app, all);
  app.add_subcommand("doctor", "Tell what this host can do, what it lacks, and what mends it")
      ->callback([&] { all.action = [&] { return doctor(all.global); }; });
  app.add_subcommand("version", "Print versions")->callback([&] {
    all.action = [&] { return version(all.global); };
  });
  app.footer(
      "Start here:\n  mayfly doctor\n  mayfly run -- uname -a\n`mayfly COMMAND --help` tells "
      "more.");
  char** const split = std::find(argv, argv + argc, std::string_view("--"));
  if (split != argv + argc) all.guest_command.assign(split + 1, argv + argc);
  try {
    app.parse(static_cast<int>(split - argv), argv);
    if (!all.action) throw CLI::RequiredError("a command; see mayfly --help");
  } catch (const CLI::ParseError& error) {
    // What was parsed before the mistake is not filled in yet.
    all.global.json = std::find(argv, split, std::string_view("--json")) != split;
    if (error.get_exit_code() != 0 && all.global.json) {
      return report_error(all.global,
                          fail({Code::kInvalidArgument, "USAGE"}, "%s", error.what()).error());
    }
    return app.exit(error) == 0 ? 0 : kExitFailure;
  }
  return all.action();
}

}  // namespace
}  // namespace mayfly::cli

int main(int argc, char** argv) { return mayfly::cli::run_program(argc, argv); }
