# SPDX-License-Identifier: Apache-2.0
"""What a measurement's machine is: goes into every result, so that figures can be told apart later."""

import gzip
import os
import pathlib
import platform
import re
import subprocess

from harness import OUT, system_pb, vm_pb


def _read(path):
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


def kernel_setting(name):
    """CONFIG_NAME of the running kernel, or "" where it does not say."""
    release = platform.release()
    for path in ("/proc/config.gz", f"/boot/config-{release}", f"/lib/modules/{release}/config"):
        try:
            data = pathlib.Path(path).read_bytes()
        except OSError:
            continue
        text = (gzip.decompress(data) if path.endswith(".gz") else data).decode()
        found = re.search(rf"^CONFIG_{name}=(.*)$", text, re.MULTILINE)
        return found[1] if found else ""
    return ""


def _commit():
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=OUT.parent, capture_output=True, text=True)
    return done.stdout.strip()


def host_facts():
    cpu = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    status = _read("/proc/self/status")
    return {
        "commit": _commit(),
        "kernel": platform.release(),
        "hz": kernel_setting("HZ"),
        "cpu": cpu[1] if cpu else "",
        "cpus": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "load": os.getloadavg(),
        "uid": os.geteuid(),
        "capabilities": re.search(r"^CapEff:\s*(.*)$", status, re.MULTILINE)[1],
        "scheduler": {0: "other", 1: "fifo"}.get(os.sched_getscheduler(0), "?"),
        "shmem_huge_pages": _read("/sys/kernel/mm/transparent_hugepage/shmem_enabled").strip(),
        "kvm_module": [name for name in ("kvm_intel", "kvm_amd") if os.path.exists(f"/sys/module/{name}")],
        "hardware_virtualisation": bool(re.search(r"^flags.*\b(vmx|svm)\b", _read("/proc/cpuinfo"), re.MULTILINE)),
    }


def daemon_facts(daemon):
    """What mayflyd says of the host; among it how fast KVM runs a guest's kernel, against its user space."""
    answer = daemon.api.CheckHost(system_pb.CheckHostRequest())
    info = daemon.get_info()
    return {
        "runs_linux_guests": answer.runs_linux_guests,
        "jail": vm_pb.JailMode.Name(info.jail_mode),
        "warnings": list(info.warnings),
        "checks": {check.name: check.detail for check in answer.checks},
    }
