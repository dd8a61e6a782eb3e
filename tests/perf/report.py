# SPDX-License-Identifier: Apache-2.0
"""A result as text: the goals, then each section's table."""

from perf import goals


def columns(rows):
    """Rows of words as aligned lines: numbers to the right, text to the left."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(word.rjust(width) if word[:1].isdigit() else word.ljust(width)
                        for word, width in zip(row, widths)).rstrip()


def goal_rows(result):
    rows = [["goal", "what", "figure", "95 %", "line", "", ""]]
    figures = {key: figure for section in result["sections"].values() for key, figure in section["figures"].items()}
    for goal in goals.GOALS:
        if goal.section not in result["asked"]:
            continue
        figure, line = figures.get(goal.key), f"{goal.sense} {goal.line:g} {goal.unit}"
        if figure is None:
            rows.append([goal.number, goal.what, "-", "", line, "not measured", ""])
            continue
        value = figure["value"]
        spread = f"{figure['low']:.3g}-{figure['high']:.3g}" if figure["count"] > 1 else ""
        rows.append([goal.number, goal.what, f"{value:.3g} {goal.unit}", spread, line,
                     "met" if goal.is_met(value) else "missed", goal.distance(value)])
    return rows


def text(result):
    host = result["host"]
    lines = [f"commit {host['commit']}, kernel {host['kernel']}, HZ {host['hz'] or '?'}, {host['cpus']} CPUs, load "
             f"{host['load'][0]:.1f}, scheduler {host['scheduler']}"]
    check = result.get("daemon", {}).get("checks", {}).get("guest-kernel-speed")
    if check:
        lines.append(f"KVM: {check}")
    lines += ["", *columns(goal_rows(result))]
    for name, section in result["sections"].items():
        lines += ["", f"{name} ({section['seconds']:.0f} s)", *columns(section["table"]), *section["notes"]]
    if result["skipped"]:
        lines += ["", *(f"skipped: {name}: {why}" for name, why in result["skipped"].items())]
    for name, why in result["failed"].items():
        lines += ["", f"failed: {name}:", why.rstrip()]
    return "\n".join(lines) + "\n"
