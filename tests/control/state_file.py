# SPDX-License-Identifier: Apache-2.0
"""The part `state` of a snapshot (docs/snapshots.md) as a message of proto/state.proto and back, by the library."""

import ctypes
import os
import struct
import subprocess
import sys
import tempfile

import harness

HEADER = struct.Struct("<8sHHIIIQ16s")


def _load():
    with tempfile.TemporaryDirectory(prefix="mayfly-proto-") as folder:
        subprocess.run(["protoc", f"-I{harness.ROOT / 'proto'}", f"--python_out={folder}", "state.proto"], check=True)
        sys.path.insert(0, folder)
        try:
            import state_pb2
        finally:
            sys.path.remove(folder)
    return state_pb2


state_pb = _load()


class _Xxh128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


_xxhash = ctypes.CDLL("libxxhash.so.0")
_xxhash.XXH3_128bits.restype = _Xxh128
_xxhash.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def digest(data):
    found = _xxhash.XXH3_128bits(data, len(data))
    return struct.pack(">QQ", found.high, found.low)


def read(fd):
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    assert data[48:64] == digest(data[:48] + data[64:]), "the digest"
    return state_pb.MachineState.FromString(data[64:])


def bytes_of(message, part=2):
    payload = message.SerializeToString()
    header = HEADER.pack(b"MAYFLYSN", 1, 0, part, 64, 1, len(payload), bytes(16))
    return header + digest(header + payload) + payload


def file_of(data):
    """Bytes as a file."""
    fd = os.memfd_create("state")
    os.pwrite(fd, data, 0)
    return fd
