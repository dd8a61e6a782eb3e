#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The rules of the tree that a pattern can check. Prints `file:line: what` for each breach; exits 1 if there is one."""

import pathlib
import re
import subprocess
import sys

MAX_FILE_LINES = 500
MAX_COLUMNS = {".cc": 100, ".h": 100, ".proto": 120, ".py": 120, ".bzl": 120}
CODE = (".cc", ".h")

# What only *_sys files may contain, each with a SAFETY comment in the file (tests may look into bytes).
RAW = re.compile(r"\breinterpret_cast\b|::ioctl\(|::mmap\(|::munmap\(|\bsyscall\(|\basm\b")
# Which folders may include what (the arrows of ARCHITECTURE.md).
INCLUDE_ONLY = {
    r'<(grpc|grpcpp)/': ("daemon/", "cli/", "tests/"),
    r'<liburing\.h>': ("base/event/", "tests/perf/"),
    r'<seccomp\.h>': ("base/seccomp/make_syscall_names.cc", "vmm/seccomp/compile.cc"),
    r'<(archive|archive_entry)\.h>|<ext2fs/': ("image/",),
    r'<nlohmann/': ("image/", "daemon/metadata.cc"),
    r'<linux/kvm\.h>': ("vmm/kvm/", "daemon/kvm_probe_sys", "tests/"),
}
GENERATED = re.compile(r'#include "proto/.*\.pb\.h"')
# Where generated protobuf code is the subject itself.
GENERATED_ALLOWED = re.compile(
    r"(^|/)(convert|[a-z_]*codec)\.(cc|h)$|_test\.cc$|_fuzz\.cc$|/testing/|^cli/|^tests/"
    r"|^daemon/[a-z_]*(service|call|rpc|view|server)")
TOP_FOLDERS_WITHOUT_README = {"build", ".ci", "out"}


def tracked():
    out = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                         check=True, capture_output=True, text=True).stdout
    return [pathlib.Path(name) for name in out.split("\0") if name and pathlib.Path(name).is_file()]


def check_text(path, text):
    lines = text.splitlines()
    limit = MAX_COLUMNS.get(path.suffix)
    for number, line in enumerate(lines, 1):
        if limit and len(line) > limit and "http" not in line:
            yield number, f"line of {len(line)} columns, the limit is {limit}"
        if line != line.rstrip():
            yield number, "trailing white space"
    if path.suffix in (*CODE, ".proto") and len(lines) > MAX_FILE_LINES:
        yield 1, f"{len(lines)} lines, the limit is {MAX_FILE_LINES}"
    if path.suffix in (*CODE, ".proto", ".py") and "SPDX-License-Identifier: Apache-2.0" not in text[:200]:
        yield 1, "no SPDX line at the top"


def check_code(path, text):
    name = str(path)
    is_test = re.search(r"_(test|fuzz)\.cc$|/testing/|^tests/|^build/", name)
    is_sys = re.search(r"_sys\.(cc|h)$", name)
    for number, line in enumerate(text.splitlines(), 1):
        code = line.split("//")[0]
        if RAW.search(code) and not code.startswith("#include") and not is_sys and not is_test:
            yield number, "raw pointer cast or system call outside a *_sys file"
        for pattern, folders in INCLUDE_ONLY.items():
            if code.startswith("#include") and re.search(pattern, code) and not name.startswith(folders):
                yield number, f"only {', '.join(folders)} may include this"
        if GENERATED.match(code) and not GENERATED_ALLOWED.search(name):
            yield number, "generated protobuf code is for convert and codec files"
    if is_sys and not is_test and RAW.search(text) and "SAFETY" not in text:
        yield 1, "raw accesses without a SAFETY comment"
    if path.suffix == ".h" and "#pragma once" not in text:
        yield 1, "no #pragma once"


def check_dead(files):
    """C++ sources that no BUILD file names."""
    builds = {path.parent: path.read_text() for path in files if path.name == "BUILD"}
    for path in files:
        if path.suffix not in CODE:
            continue
        folder = next((parent for parent in path.parents if parent in builds), None)
        if folder is None:
            yield path, "no BUILD file above it"
            continue
        if f'"{path.relative_to(folder)}"' not in builds[folder] and "glob(" not in builds[folder]:
            yield path, "not named in its BUILD file"


def main():
    files = tracked()
    broken = []
    for path in files:
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if path.name == "LICENSE" or "corpus" in path.parts:
            continue
        broken += [f"{path}:{number}: {what}" for number, what in check_text(path, text)]
        if path.suffix in CODE:
            broken += [f"{path}:{number}: {what}" for number, what in check_code(path, text)]
    broken += [f"{path}: {what}" for path, what in check_dead(files)]
    tops = {path.parts[0] for path in files if len(path.parts) > 1} - TOP_FOLDERS_WITHOUT_README
    broken += [f"{top}/: no README.md" for top in sorted(tops) if not pathlib.Path(top, "README.md").is_file()]
    print("\n".join(broken))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
