"""protoc from Debian as a Bazel rule: Bazel's own proto rules want to build protoc from source."""

def mayfly_proto_library(name, src, deps = [], lite = False, grpc = False, visibility = None):
    """A C++ library from one .proto file; paths are relative to //proto.

    Args:
      name: the target; the header is <src without .proto>.pb.h, included as "proto/...".
      src: the .proto file.
      deps: other mayfly_proto_library targets it imports.
      lite: links the lite runtime (the file itself says optimize_for = LITE_RUNTIME).
      grpc: also generates the gRPC stubs and services.
    """
    stem = "gen/proto/" + src[:-len(".proto")]
    outs = [stem + ".pb.h", stem + ".pb.cc"]
    command = "protoc --cpp_out=$(RULEDIR)/gen -I. $(location %s)" % src
    if grpc:
        outs += [stem + ".grpc.pb.h", stem + ".grpc.pb.cc"]
        command += " --grpc_out=$(RULEDIR)/gen --plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin"
    native.genrule(
        name = name + "_generate",
        srcs = [src],
        outs = outs,
        tools = [dep + "_protos" for dep in deps],
        cmd = command,
    )
    native.filegroup(
        name = name + "_protos",
        srcs = [src] + [dep + "_protos" for dep in deps],
        visibility = visibility,
    )

    # Generated code is not held to our warnings; `includes` makes its headers system headers.
    native.cc_library(
        name = name,
        srcs = [out for out in outs if out.endswith(".cc")],
        hdrs = [out for out in outs if out.endswith(".h")],
        copts = ["-w", "-fPIE", "-ffunction-sections", "-fdata-sections"] +
                (["-fno-exceptions", "-fno-rtti"] if lite else []),
        includes = ["gen"],
        linkstatic = True,
        visibility = visibility,
        deps = deps + ["@system//:" + ("protobuf_lite" if lite else "grpc" if grpc else "protobuf")],
    )
