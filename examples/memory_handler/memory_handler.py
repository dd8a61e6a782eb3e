#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Serves the memory of VMs out of a snapshot's `memory` file, as they touch it: an example of docs/lazy-memory.md.

usage: memory_handler.py SOCKET MEMORY_FILE
"""

import argparse
import ctypes
import fcntl
import mmap
import os
import select
import socket
import struct

HELLO = struct.Struct("<8sIIQII64s")
REGION = struct.Struct("<QQQQ")
WORD = struct.Struct("<II")
READY, COMPLETE, FAILED = 1, 2, 3
MAGIC, VERSION = b"MAYFLYMS", 1

# <linux/userfaultfd.h>
UFFD_EVENT_PAGEFAULT = 0x12
UFFD_MSG = struct.Struct("<B7xQQ8x")  # struct uffd_msg: its event; of a page fault, flags and address
UFFDIO_COPY_ARGUMENTS = struct.Struct("<QQQQq")  # struct uffdio_copy: dst, src, len, mode, copy
UFFDIO_COPY = 0xC028AA03

PIECE = 256 << 10  # what one fault brings: 64 pages


class Image:
    """A memory file, mapped, so that the kernel can copy pages out of it."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            self.map = mmap.mmap(file.fileno(), self.size, flags=mmap.MAP_PRIVATE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))


class Vm:
    """One VM's memory: what the daemon said of it, and which pieces are there."""

    def __init__(self, connection, image):
        packet, descriptors, _, _ = socket.recv_fds(connection, 4096, 2)
        magic, version, count, self.size, page, _, name = HELLO.unpack_from(packet)
        if (magic, version, page, len(descriptors)) != (MAGIC, VERSION, 4096, 2):
            raise ValueError("no hello of a version that this handler knows")
        self.connection, self.image = connection, image
        self.name = name.rstrip(b"\0").decode()
        self.userfault, memfd = descriptors
        # This handler has no use for it: it could fill the memory by writing there, and wake who waits.
        os.close(memfd)
        self.regions = [REGION.unpack_from(packet, HELLO.size + i * REGION.size) for i in range(count)]
        self.missing = set(range((self.size + PIECE - 1) // PIECE))
        self.faults = self.filled_for_faults = 0

    def say(self, word, text=b""):
        self.connection.send(WORD.pack(word, len(text)) + text)

    def fill(self, piece):
        """Puts a piece in place, whole, and wakes who waits for it. False: the VM has ended."""
        self.missing.discard(piece)
        offset = piece * PIECE
        _, size, first, address = next(region for region in self.regions if 0 <= offset - region[2] < region[1])
        done, length = 0, min(PIECE, first + size - offset)
        while done < length:
            arguments = bytearray(UFFDIO_COPY_ARGUMENTS.pack(
                address + offset - first + done, self.image.address + offset + done, length - done, 0, 0))
            try:
                fcntl.ioctl(self.userfault, UFFDIO_COPY, arguments)
            except BlockingIOError:  # the kernel asks to go on from where it is
                pass
            except (ProcessLookupError, FileNotFoundError):
                return False
            done += max(0, UFFDIO_COPY_ARGUMENTS.unpack(arguments)[4])
        return True

    def serve_faults(self):
        """What is waited for now."""
        messages = os.read(self.userfault, 32 * UFFD_MSG.size)
        for event, _, address in UFFD_MSG.iter_unpack(messages):
            if event != UFFD_EVENT_PAGEFAULT:
                continue
            self.faults += 1
            offset = next(address - start + first for _, size, first, start in self.regions
                          if 0 <= address - start < size)
            if offset // PIECE in self.missing:
                self.filled_for_faults += 1
                if not self.fill(offset // PIECE):
                    return False
        return True

    def run(self, in_background):
        """Until all is there, or the VM has ended."""
        if self.image.size < self.size:
            self.say(FAILED, b"the memory file is shorter than the VM's memory")
            return
        self.say(READY)
        while self.missing:
            ready, _, _ = select.select([self.userfault, self.connection], [], [], 0 if in_background else None)
            if self.connection in ready:
                return  # the daemon says nothing more: the VM has ended
            if self.userfault in ready:
                if not self.serve_faults():
                    return
            elif not self.fill(min(self.missing)):
                return
        self.say(COMPLETE)

    def close(self):
        os.close(self.userfault)
        self.connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("socket", help="where to listen; made, and removed at the end")
    parser.add_argument("memory", help="a snapshot's memory file, not compressed")
    parser.add_argument("--only-faults", action="store_true", help="fill nothing that nobody has touched")
    arguments = parser.parse_args()
    image = Image(arguments.memory)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(arguments.socket)
        try:
            listener.listen()
            while True:  # one VM after the other, to keep the example short
                vm = Vm(listener.accept()[0], image)
                vm.run(not arguments.only_faults)
                print(f"{vm.name}: {vm.faults} faults, {vm.filled_for_faults} pieces filled for them", flush=True)
                vm.close()
        finally:
            os.unlink(arguments.socket)


if __name__ == "__main__":
    main()
