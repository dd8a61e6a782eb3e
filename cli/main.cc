// SPDX-License-Identifier: Apache-2.0
//
// mayfly: the command line.
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/parse.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <string_view>

namespace mayfly::cli {
namespace {

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
  add_vm_commands(app, all);
  add_snapshot_commands(app, all);
  add_image_commands(app, all);
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
