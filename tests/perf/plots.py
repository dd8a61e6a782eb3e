# SPDX-License-Identifier: Apache-2.0
"""The charts of a result: what each shows is its title."""

from perf import plot


def _starts(samples):
    yield "starts.svg", plot.cdf("From spawn to reaped, a VM that ends at once", "ms (logarithmic)",
                                 {name: [ns / 1e6 for ns in each["wall_ns"]] for name, each in samples.items()})


def _restores(samples):
    yield "restores.svg", plot.cdf("In a monitor that runs, from the order to the first guest exit", "µs (logarithmic)",
                                   {name: [row["exit"] for row in rows] for name, rows in samples.items()})


def _rate(samples):
    names = {"received_ns": "order at the monitor", "ended_ns": "first exit", "restored_ns": "RestoreVm answered",
             "stopped_ns": "end known", "deleted_ns": "deleted"}
    yield "launch.svg", plot.cdf("A VM's life through the daemon, since the RestoreVm call", "ms (logarithmic)",
                                 {name: [ns / 1e6 for ns in samples["lives"][key]] for key, name in names.items()})
    yield "call.svg", plot.cdf("RestoreVm call to first guest exit", "ms (logarithmic)",
                               {name: [ns / 1e6 for ns in samples[key]["ended_ns"]] for name, key in (
                                   ("template", "lives, template"), ("snapshot", "lives, rested"),
                                   ("one after the other", "lives"), ("four at once", "lives, parallel"))})


def _many(samples):
    yield "latency.svg", plot.cdf(
        "RestoreVm call to first guest exit", "ms (logarithmic)",
        {f"{samples[key]['live']} VMs live": [ns / 1e6 for ns in samples[key]["lives"]["ended_ns"]]
         for key in ("few", "many")})
    yield "fan_out.svg", plot.line_chart(
        "Clones of one snapshot, as they come up", "ms since the call", "VMs up",
        {"CloneVm": [(0, 0), *((at * 1e3, number + 1) for number, at in enumerate(samples["clones_up_s"]))]})


def _footprint(samples):
    ours, qemu = samples["mayfly"], samples["qemu"]
    rows = {"mayfly-vmm": ours["private"] / 2**20, "beside another": ours["private_of_many"] / 2**20}
    if qemu:
        rows["QEMU microvm"] = qemu["private"] / 2**20
    yield "footprint.svg", plot.bar_chart("Private memory of a monitor, without its guest's RAM", "MiB", rows)


def _linux(samples):
    yield "linux.svg", plot.cdf("Linux guests, from the call or spawn", "ms (logarithmic)",
                                {name: [value * 1e3 for value in values] for name, values in samples.items()})


CHARTS = {"restores": _restores, "starts": _starts, "footprint": _footprint, "rate": _rate, "many": _many,
          "linux": _linux}


def write(result, directory):
    """The paths written."""
    for name, section in result["sections"].items():
        for file, text in CHARTS.get(name, lambda _: ())(section["samples"]):
            path = directory / file
            path.write_text(text)
            yield path
