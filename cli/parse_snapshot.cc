// SPDX-License-Identifier: Apache-2.0
#include "cli/memory.h"
#include "cli/parse.h"
#include "cli/snapshots.h"
#include "cli/templates.h"

namespace mayfly::cli {
namespace {

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
  create_command->add_flag("--compress", all.snapshot.compress,
                           "compress the memory: less on the disk, a slower restore");
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
  command->add_flag(
      "--net{auto}", flags.nets,
      "for the next of its network devices, as in `mayfly create --help` (default: auto)");
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
  add_metadata_flag(command, flags.metadata);
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
  restore_command->add_flag("--lazy", all.restore.lazy_memory,
                            "run before the memory is there: it comes as it is touched");
  restore_command
      ->add_option("--memory-source", all.restore.memory_handler,
                   "the socket of a program that provides the memory as it is touched")
      ->type_name("SOCKET");
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

}  // namespace

void add_snapshot_commands(CLI::App& app, Everything& all) {
  add_snapshot(app, all);
  add_template(app, all);
  add_restore_clone(app, all);
  add_memory(app, all);
}

}  // namespace mayfly::cli
