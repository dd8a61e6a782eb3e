# SPDX-License-Identifier: Apache-2.0
"""Writes the agent's initramfs: an uncompressed newc archive with fixed times and owners.

make_cpio.py AGENT OUT
"""
import sys

DIRECTORY = 0o040755
PROGRAM = 0o100755
CHARACTER_DEVICE = 0o020600


def pad(data):
    return data + b"\0" * (-len(data) % 4)


def entry(inode, name, mode, data=b"", device=(0, 0)):
    links = 2 if mode & 0o170000 == 0o040000 else 1
    path = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return pad(header + path) + pad(data)


def main():
    agent_path, out_path = sys.argv[1:]
    with open(agent_path, "rb") as file:
        agent = file.read()
    archive = b"".join([
        entry(1, "dev", DIRECTORY),
        entry(2, "dev/console", CHARACTER_DEVICE, device=(5, 1)),
        entry(3, ".mayfly", 0o040700),
        entry(4, ".mayfly/agent", PROGRAM, agent),
        entry(0, "TRAILER!!!", 0),
    ])
    with open(out_path, "wb") as file:
        file.write(archive)


if __name__ == "__main__":
    main()
