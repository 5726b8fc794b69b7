"""What people read, made of the results' JSON: tables for the terminal, docs/PERFORMANCE.md.

    python3 tests/bench/report.py build/bench/results.json    writes docs/PERFORMANCE.md and its charts anew
"""
import json
import pathlib
import sys

import charts
import targets
from processes import ROOT

BEGIN = "<!-- measured: scripts/bench writes from here on -->"
END = "<!-- measured: to here; the rest is written by hand -->"

COLUMNS = ["row", "size", "clients", "median ms", "p99 ms", "GB/s", "client CPU s/GB", "server CPU s/GB", "server peak MB",
           "of the ceiling"]


def size_of(count):
    for unit, name in ((1 << 30, "GiB"), (10**6, "MB")):
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} B"


def significant(value):
    """Three digits, or all before the point."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def cells(row):
    large = row["bytes"] >= 10**6  # figures by the GB say nothing of small requests
    ratio = row["ratio_to_ceiling"]
    return [row["name"], size_of(row["bytes"]), str(row["clients"]), significant(row["median_ms"]),
            significant(row["p99_ms"]), f"{row['gb_per_s']:.2f}" if large else "",
            f"{row['client_cpu_s_per_gb']:.2f}" if large else "", f"{row['server_cpu_s_per_gb']:.2f}" if large else "",
            f"{row['server_peak_bytes'] / 1e6:,.0f}", "" if ratio is None else f"{ratio:.2f}"]


def target_cells(text, sign, goal, value, reached):
    return [text, f"{sign} {significant(goal)}", significant(value), "" if reached else "short"]


def property_cells(of):
    return [of["name"], f"{of['value']:,}", of["unit"]]


# ---- the terminal


def text_table(head, lines, left=(0,)):
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) if i in left else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(line, widths))).rstrip()
                     for line in [head, *lines])


def text_report(results):
    parts = [text_table(COLUMNS, [cells(row) for row in results["rows"]])]
    if results["properties"]:
        parts.append(text_table(["property", "value", "unit"], [property_cells(p) for p in results["properties"]], (0, 2)))
    judged = [target_cells(*judgement) for judgement in targets.judge(results)]
    if judged:
        parts.append(text_table(["target", "goal", "measured", ""], judged, (0, 3)))
    parts += [f"not measured: {name}: {why}" for name, why in results["skipped"].items()]
    return "\n\n".join(parts)


# ---- docs/PERFORMANCE.md


def markdown_table(head, lines, left=(0,)):
    rule = ["---" if i in left else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])


def machine_lines(results):
    machine, run = results["machine"], results["run"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (f"Measured on {machine['date']} at commit {machine['commit']}: {machine['cpu']}, {machine['cores']} cores, "
            f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}, Linux {machine['kernel']}; {versions}. "
            f"{run['rounds']} rounds, {run['minutes']:.0f} minutes.")


def measured_part(results):
    short = sum(not reached for *_, reached in targets.judge(results))
    judged = [target_cells(*judgement) for judgement in targets.judge(results)]
    return "\n\n".join([
        BEGIN,
        machine_lines(results),
        "![GB/s of every way in, one client, 30 MB](performance-speed.svg)",
        "![GB/s by number of clients and by size](performance-scaling.svg)",
        "## Targets",
        f"{len(judged) - short} of {len(judged)} are reached.",
        markdown_table(["target", "goal", "measured", ""], judged, (0, 3)),
        "## Rows",
        markdown_table(COLUMNS, [cells(row) for row in results["rows"]]),
        "## Properties",
        markdown_table(["property", "value", "unit"], [property_cells(p) for p in results["properties"]], (0, 2)),
        END])


def replace_measured(page, results):
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + measured_part(results) + after


def write_charts(results, folder, prefix=""):
    (folder / f"{prefix}speed.svg").write_text(charts.speed(results), encoding="utf-8")
    (folder / f"{prefix}scaling.svg").write_text(charts.scaling(results), encoding="utf-8")


def write_docs(results):
    page = ROOT / "docs/PERFORMANCE.md"
    page.write_text(replace_measured(page.read_text(encoding="utf-8"), results), encoding="utf-8")
    write_charts(results, page.parent, "performance-")


if __name__ == "__main__":
    write_docs(json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")))
