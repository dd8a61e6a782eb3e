// SPDX-License-Identifier: Apache-2.0
#include "cli/images.h"
#include "cli/parse.h"

namespace mayfly::cli {

void add_image_commands(CLI::App& app, Everything& all) {
  CLI::App* group = app.add_subcommand("image", "Root images from container images");
  group->require_subcommand(1);
  CLI::App* import_command =
      group->add_subcommand("import", "Make a root image from a container image in files");
  import_command
      ->add_option("source", all.image.source,
                   "an OCI layout's directory, an archive of one or of `docker save`, or - for "
                   "standard input")
      ->required();
  import_command
      ->add_option("--name", all.image.name,
                   "[a-z0-9][a-z0-9-_.]{0,62}; one that exists is replaced (default: the source's "
                   "own, without .tar)")
      ->type_name("NAME");
  import_command
      ->add_option("--size", all.image.size_mib,
                   "of the file system (default: what the files need, a quarter more, and 128)")
      ->type_name("MIB");
  import_command->add_option("--ref", all.image.ref, "the name or tag of one of several images")
      ->type_name("REF");
  import_command->footer(
      "  skopeo copy docker-daemon:web:latest oci:web && mayfly image import web\n"
      "  docker save web | mayfly image import - --name web\n  mayfly run --image web");
  import_command->callback(
      [&] { all.action = [&] { return import_image(all.global, all.image); }; });
  group->add_subcommand("ls", "List images")->callback([&] {
    all.action = [&] { return list_images(all.global); };
  });
  CLI::App* inspect_command =
      group->add_subcommand("inspect", "Print everything about an image, as JSON");
  inspect_command->add_option("image", all.image.names, "its name")->required()->expected(1);
  inspect_command->callback(
      [&] { all.action = [&] { return inspect_image(all.global, all.image); }; });
  CLI::App* remove_command =
      group->add_subcommand("rm", "Delete images; VMs that run on them go on");
  remove_command->add_option("images", all.image.names, "their names")->required();
  remove_command->callback(
      [&] { all.action = [&] { return remove_images(all.global, all.image); }; });
  group->footer(
      "Kept in $MAYFLY_IMAGE_DIR (default: $XDG_DATA_HOME/mayfly/images or "
      "~/.local/share/mayfly/images;\nfor root /var/lib/mayfly/images).");
}

}  // namespace mayfly::cli
