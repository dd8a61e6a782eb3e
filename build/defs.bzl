"""The flags every Mayfly target is built with, in one place.

mayfly_cc_library / mayfly_cc_binary: no exceptions, no RTTI (style rule 2). `exceptions = True` is for
daemon/ and cli/, whose libraries throw. Static programs are static-PIE.
mayfly_cc_test: a doctest binary. mayfly_cc_fuzz: one body, libFuzzer under --config=fuzz, and a replay of
its corpus as a plain test otherwise.
"""

WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wshadow",
    "-Wnon-virtual-dtor",
    "-Wimplicit-fallthrough",
    # clang counts it as -Wconversion; GCC, the reference, does not.
    "-Wno-sign-conversion",
    "-Werror",
]

HARDENING = [
    "-D_GLIBCXX_ASSERTIONS",
    "-fstack-protector-strong",
    "-ftrivial-auto-var-init=zero",
    "-fPIE",
    "-ffunction-sections",
    "-fdata-sections",
    "-g0",
]

NO_EXCEPTIONS = [
    "-fno-exceptions",
    "-fno-rtti",
]

LINK = [
    "-Wl,-z,relro,-z,now",
    "-Wl,--gc-sections",
]

def _copts(exceptions):
    return WARNINGS + HARDENING + ([] if exceptions else NO_EXCEPTIONS)

def mayfly_cc_library(name, exceptions = False, small = False, copts = [], **kwargs):
    """small = True: in every monitor, and seldom run there, so that its size counts and not its speed."""
    native.cc_library(
        name = name,
        copts = _copts(exceptions) + (["-Os"] if small else []) + copts,
        linkstatic = True,
        **kwargs
    )

def mayfly_cc_binary(name, exceptions = False, static = False, copts = [], linkopts = [], **kwargs):
    """static = True makes a static-PIE program (plain under a sanitizer, which cannot be static)."""
    if static:
        linkopts = linkopts + select({
            "//build:sanitizer": [],
            # Bazel asks for gold, which does not know static-PIE.
            "//conditions:default": ["-static-pie", "-fuse-ld=bfd", "-s"],
        })
    native.cc_binary(
        name = name,
        copts = _copts(exceptions) + copts,
        linkopts = LINK + linkopts,
        linkstatic = True,
        **kwargs
    )

def mayfly_cc_test(name, deps = [], copts = [], size = "small", **kwargs):
    native.cc_test(
        name = name,
        size = size,
        copts = _copts(True) + copts,
        linkopts = LINK,
        linkstatic = True,
        deps = deps + [
            "//build:doctest_main",
            "@system//:doctest",
        ],
        **kwargs
    )

def mayfly_cc_fuzz(name, srcs, deps = [], corpus = None, **kwargs):
    """A fuzz target NAME and, outside --config=fuzz, a test that replays corpus/ and 2,000 mutations.

    The source defines `extern "C" int LLVMFuzzerTestOneInput(const uint8_t*, size_t)`.
    """
    native.cc_test(
        name = name,
        size = "small",
        srcs = srcs,
        copts = _copts(True),
        linkopts = LINK + select({
            "//build:fuzz": ["-fsanitize=fuzzer"],
            "//conditions:default": [],
        }),
        linkstatic = True,
        args = select({
            "//build:fuzz": [],
            "//conditions:default": ["$(location %s)" % f for f in corpus or []],
        }),
        data = corpus or [],
        deps = deps + select({
            "//build:fuzz": [],
            "//conditions:default": ["//build:fuzz_replay_main"],
        }),
        **kwargs
    )
