# SPDX-License-Identifier: Apache-2.0
"""A program of this host on a disk for a guest whose own image does not have it."""

import pathlib
import re
import shutil
import subprocess


def make_program_disk(directory, name, size="32M"):
    """An image with the program and the libraries that it needs, and the command that runs it where the image is
    mounted on /mnt. scripts/setup test installs the programs that tests use."""
    program = shutil.which(name)
    if program is None:
        raise AssertionError(f"{name} is missing: scripts/setup test installs it")
    folder = pathlib.Path(directory) / f"{name}.files"
    folder.mkdir()
    shutil.copy(program, folder)
    loaded = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    libraries = re.findall(r"(/\S+) \(0x", loaded)
    for library in libraries:
        shutil.copy(library, folder)
    loader = next(pathlib.Path(library).name for library in libraries if "ld-linux" in library)
    image = pathlib.Path(directory) / f"{name}.ext4"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", folder, image, size], check=True)
    return image, f"/mnt/{loader} --library-path /mnt /mnt/{name}"
