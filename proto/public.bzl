"""The public API's .proto files as one C++ library, named as clients import them: mayfly/v1/vm.proto."""

def mayfly_public_proto_library(name, srcs, grpc_srcs = [], visibility = None):
    """Headers are included as "mayfly/v1/vm.pb.h".

    Args:
      name: the target.
      srcs: .proto files of messages only, relative to //proto.
      grpc_srcs: .proto files with services.
      visibility: as usual.
    """
    outs = []
    for src in srcs + grpc_srcs:
        outs += [("gen/" + src).replace(".proto", end) for end in [".pb.h", ".pb.cc"]]
    for src in grpc_srcs:
        outs += [("gen/" + src).replace(".proto", end) for end in [".grpc.pb.h", ".grpc.pb.cc"]]
    native.genrule(
        name = name + "_generate",
        srcs = srcs + grpc_srcs,
        outs = outs,
        cmd = " && ".join([
            "protoc -Iproto --cpp_out=$(RULEDIR)/gen $(SRCS)",
            "protoc -Iproto --grpc_out=$(RULEDIR)/gen " +
            "--plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin " +
            " ".join(["$(location %s)" % src for src in grpc_srcs]),
        ]),
    )
    native.filegroup(
        name = name + "_protos",
        srcs = srcs + grpc_srcs,
        visibility = visibility,
    )
    native.cc_library(
        name = name,
        srcs = [out for out in outs if out.endswith(".cc")],
        hdrs = [out for out in outs if out.endswith(".h")],
        copts = ["-w", "-fPIE", "-ffunction-sections", "-fdata-sections"],
        includes = ["gen"],
        linkstatic = True,
        visibility = visibility,
        deps = ["@system//:grpc"],
    )
