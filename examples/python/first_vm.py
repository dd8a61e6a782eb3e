#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Creates a VM, waits until its guest is ready, prints its console, and removes it.

    examples/python/first_vm.py [--socket unix:/run/mayfly/mayflyd.sock]
                                [--kernel out/guest/vmlinux] [--rootfs out/guest/rootfs.ext4]

Needs Debian's python3-grpcio and python3-protobuf, and no generated code: the messages come from the daemon
itself, by server reflection. mayflyd must be running.
"""
import argparse
import os
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


class Mayfly:
    """A channel to mayflyd, and its messages and calls by their names."""

    def __init__(self, target):
        self.channel = grpc.insecure_channel(target, options=[("grpc.default_authority", "localhost")])
        self.pool = descriptor_pool.DescriptorPool()
        for symbol in ("VmService", "ConsoleService", "ExecService"):
            self._learn(4, "mayfly.v1." + symbol)

    def _learn(self, field, name):
        """Asks the server's reflection for a file, by its name (field 3) or a symbol in it (field 4).

        Request and response are small enough to write and read by hand: the response's field 4 holds, as field 1,
        the serialized file and those it imports.
        """
        call = self.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        request = bytes([field << 3 | 2, len(name)]) + name.encode()
        response = next(call(iter([request])))
        files = {}
        for serialized in _fields(_fields(response, 4)[0], 1):
            file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
            files[file.name] = file
        for file in files.values():
            self._add(file, files)

    def _add(self, file, files):
        """Imports go first."""
        try:
            self.pool.FindFileByName(file.name)
            return
        except KeyError:
            pass
        for name in file.dependency:
            if name in files:
                self._add(files[name], files)
            else:
                self._learn(3, name)
        self.pool.Add(file)

    def message(self, name, **fields):
        factory = message_factory.MessageFactory(self.pool)
        return factory.GetPrototype(self.pool.FindMessageTypeByName("mayfly.v1." + name))(**fields)

    def call(self, service, method, request, timeout=None):
        """One unary call; the response message."""
        invoke = self.channel.unary_unary(
            f"/mayfly.v1.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=type(self.message(method + "Response")).FromString,
        )
        return invoke(request, timeout=timeout)

    def stream(self, service, method, request, timeout=None):
        """One call with a stream of responses."""
        invoke = self.channel.unary_stream(
            f"/mayfly.v1.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=type(self.message(method + "Response")).FromString,
        )
        return invoke(request, timeout=timeout)

    def run(self, vm_id, argv, timeout=None):
        """A command in the guest: its exit code, output and errors."""
        response_type = type(self.message("ExecResponse"))
        invoke = self.channel.stream_stream(
            "/mayfly.v1.ExecService/Exec",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_type.FromString,
        )
        start = self.message("ExecRequest")
        start.start.vm_id = vm_id
        start.start.argv.extend(argv)
        out, err, code = b"", b"", None
        for response in invoke(iter([start]), timeout=timeout):
            out += response.stdout
            err += response.stderr
            if response.HasField("exited"):
                code = response.exited.exit_code
        return code, out, err


def _fields(data, wanted):
    """The length-delimited fields of one number in a serialized message."""
    found, at = [], 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 2:
            size = varint()
            if key >> 3 == wanted:
                found.append(data[at : at + size])
            at += size
        elif key & 7 == 0:
            varint()
        else:
            at += 8 if key & 7 == 1 else 4
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", default=os.environ.get("MAYFLY_SOCKET", "unix:/run/mayfly/mayflyd.sock"))
    parser.add_argument("--kernel", default="out/guest/vmlinux")
    parser.add_argument("--rootfs", default="out/guest/rootfs.ext4")
    parser.add_argument("--vm-id", default="first")
    parser.add_argument("--timeout", type=float, default=60, help="seconds to wait for the guest")
    parser.add_argument("--allow-slow-kvm", action="store_true")
    args = parser.parse_args()

    mayfly = Mayfly(args.socket)
    request = mayfly.message("CreateVmRequest", vm_id=args.vm_id, start=True)
    request.spec.vcpus = 1
    request.spec.memory_mib = 128
    request.spec.kernel_path = os.path.abspath(args.kernel)
    request.spec.rootfs.path = os.path.abspath(args.rootfs)
    request.spec.rootfs.read_only = True
    request.spec.allow_slow_kvm = args.allow_slow_kvm
    created = mayfly.call("VmService", "CreateVm", request)
    print(f"created {created.vm.vm_id} in {created.times.total_us / 1000:.1f} ms")
    try:
        ready = mayfly.call(
            "VmService",
            "WaitVm",
            mayfly.message("WaitVmRequest", vm_id=args.vm_id, guest_ready=True),
            timeout=args.timeout,
        )
        print(f"ready: Linux {ready.vm.guest.kernel_release}, after {ready.vm.guest.start_to_ready_us / 1000:.1f} ms")
        code, out, _ = mayfly.run(args.vm_id, ["uname", "-a"], timeout=args.timeout)
        print(f"uname -a, exit code {code}: {out.decode().strip()}")
        print("console:")
        for response in mayfly.stream(
            "ConsoleService", "ReadConsole", mayfly.message("ReadConsoleRequest", vm_id=args.vm_id)
        ):
            sys.stdout.write(response.chunk.data.decode(errors="replace"))
    finally:
        mayfly.call("VmService", "DeleteVm", mayfly.message("DeleteVmRequest", vm_id=args.vm_id, force=True))
    print(f"deleted {args.vm_id}")


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
