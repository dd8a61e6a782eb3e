// SPDX-License-Identifier: Apache-2.0
//
// What the command line is parsed into. Each subcommand fills its flags and leaves one call to
// make.
#pragma once

#include "cli/flags.h"

#include <CLI/CLI.hpp>

#include <functional>
#include <string>
#include <vector>

namespace mayfly::cli {

using Action = std::function<int()>;

/// What the subcommands fill; one of them sets `action`.
struct Everything {
  GlobalFlags global;
  RunFlags run;
  CreateFlags create;
  ConsoleFlags console;
  WaitFlags wait;
  EventFlags events;
  UpdateFlags update;
  StopFlags stop;
  RemoveFlags remove;
  SnapshotFlags snapshot;
  MemoryFlags memory;
  ImageFlags image;
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

void add_limit_flags(CLI::App* command, LimitFlags& flags);
void add_metadata_flag(CLI::App* command, std::string& file);

/// Adds the subcommands for VMs, those for what is saved of them, and those for images; parse_*.cc.
/// `all` outlives the action.
void add_vm_commands(CLI::App& app, Everything& all);
void add_snapshot_commands(CLI::App& app, Everything& all);
void add_image_commands(CLI::App& app, Everything& all);

}  // namespace mayfly::cli
