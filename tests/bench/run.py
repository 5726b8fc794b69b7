"""The benchmark: runs rows in interleaved rounds, then the properties; prints the tables, writes results.json and charts.

scripts/bench builds what this needs, and says what the options are.  All of it is a folder of the tests because a short run is
one of them (test_bench.py), and what holds for tests holds here: format, layers, warnings.

    rows.py        what is measured, as a table, and how one row is
    properties.py  what is measured beside it
    targets.py     the numbers to reach
    processes.py   servers and clients, and what the kernel knows of them
    report.py      the tables and docs/PERFORMANCE.md; charts.py the pictures
    load.cc        the C++ clients; python_client.py those in Python
    app.py         the application for the other servers
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import time

import processes
import properties
import report
import rows
from processes import ROOT, Failed

ROUNDS, QUICK_ROUNDS = 5, 2


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench",
                                     description="Measures Millrace beside its ceiling and other servers.")
    parser.add_argument("--quick", action="store_true", help="fewer rows, sizes and requests: under two minutes")
    parser.add_argument("--only", metavar="PATTERN", help="rows and properties whose name has this regular expression")
    parser.add_argument("--rounds", type=int, help=f"how often each row has its turn; default {ROUNDS}, or {QUICK_ROUNDS}")
    parser.add_argument("--bin", default=str(ROOT / "build/release/bin"), help="where the programs are")
    parser.add_argument("--out", default=str(ROOT / "build/bench"), help="where the results go")
    options = parser.parse_args()
    options.bin = os.path.abspath(options.bin)
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    return options


# ---- what is measured with


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def field(path, pattern):
    found = re.search(pattern, pathlib.Path(path).read_text(encoding="utf-8"), re.MULTILINE)
    return found.group(1) if found else "unknown"


def module_versions():
    import importlib.metadata

    for name in ("numpy", "grpcio", "requests", "flask", "waitress", "gunicorn", "gevent"):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass


def versions(bin_dir):
    found = {"millrace": output(f"{bin_dir}/millrace-server", "--version").split()[-1:],
             "gRPC": output("pkg-config", "--modversion", "grpc++").split(),
             "compiler": output("c++", "-dumpfullversion").split(),
             "Python": [platform.python_version()]}
    return {**{name: some[0] for name, some in found.items() if some}, **dict(module_versions())}


def machine(bin_dir):
    changed = output("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return {"cpu": field("/proc/cpuinfo", r"^model name\s*: (.*)$"),
            "cores": os.cpu_count(),
            "memory_bytes": int(field("/proc/meminfo", r"^MemTotal:\s+(\d+)")) * 1024,
            "kernel": re.match(r"[\d.]*\d", platform.release()).group(),
            "system": field("/etc/os-release", r'^PRETTY_NAME="?([^"\n]*)'),
            "versions": versions(bin_dir),
            "commit": (output("git", "rev-parse", "--short=12", "HEAD") or "unknown") + (" and changes" if changed else ""),
            "date": datetime.date.today().isoformat()}


def make_stubs(out):
    """The Python stubs that any user generates."""
    folder = out / "stubs"
    folder.mkdir(parents=True, exist_ok=True)
    plugin = shutil.which("grpc_python_plugin")
    subprocess.run(["protoc", f"-I{ROOT}/proto", f"--python_out={folder}", f"--grpc_python_out={folder}",
                    f"--plugin=protoc-gen-grpc_python={plugin}", "millrace/v1/prediction.proto"], check=True, timeout=60)
    return str(folder)


# ---- progress


class Progress:
    """A bar on a terminal; else a line for every tenth."""

    WIDTH = 30

    def __init__(self, total):
        self.total = total
        self.done = -1
        self.start = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def step(self, what):
        self.done += 1
        share = self.done / self.total
        line = f"{share:4.0%} {self.time_left(share)} {what}"
        if self.terminal:
            bar = "#" * int(share * self.WIDTH)
            print(f"\r[{bar:<{self.WIDTH}}] {line:<60.60}", end="", file=sys.stderr, flush=True)
        elif self.done % max(1, self.total // 10) == 0:
            print(line, file=sys.stderr, flush=True)

    def time_left(self, share):
        if share < 0.02:
            return "      "
        seconds = (time.monotonic() - self.start) * (1 - share) / share
        return f"-{int(seconds) // 60:2d}:{int(seconds) % 60:02d}"

    def end(self):
        if self.terminal:
            print(f"\r{'':<95}\r", end="", file=sys.stderr, flush=True)


# ---- the run


def divide(chosen, bin_dir):
    """The rows that can be measured here, and for the others by name why not."""
    skipped = {row.name + f" {report.size_of(row.bytes)}": rows.why_not(row, bin_dir) for row in chosen}
    skipped = {name: why for name, why in skipped.items() if why}
    return [row for row in chosen if not rows.why_not(row, bin_dir)], skipped


def plan(chosen, rounds):
    """All turns, in order."""
    return [(row, size) for i in range(rounds) for row in chosen if i < row.rounds for size in rows.read_sizes(row)]


def run_turns(turns, runner, progress):
    for row, size in turns:
        progress.step(f"{row.name}, {report.size_of(row.bytes)}, {row.clients} at a time")
        yield runner.run(row, size)


def run(options, out):
    def fits(name):
        return not options.only or re.search(options.only, name)

    started = time.monotonic()
    measurable, skipped = divide(rows.chosen(options.quick, fits), options.bin)
    names = [name for name in properties.TABLE if fits(name)]
    turns = plan(measurable, options.rounds)
    progress = Progress(len(turns) + len(names))
    runner = rows.Turns(options.bin, make_stubs(out), options.quick)
    done = list(run_turns(turns, runner, progress))
    found = properties.measure(names, options.bin, options.quick, progress.step)
    progress.end()
    return {"machine": machine(options.bin), "rows": rows.summarise(done), "properties": found, "skipped": skipped,
            "run": {"rounds": options.rounds, "quick": options.quick, "only": options.only,
                    "minutes": round((time.monotonic() - started) / 60, 1)}}


def main():
    options = parse_arguments()
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        results = run(options, out)
    except Failed as failure:
        sys.exit(f"\nscripts/bench: {failure}")
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    report.write_charts(results, out)
    print(report.text_report(results))
    print(f"\n{results['run']['minutes']:.1f} minutes; all answers are right.  {out}/results.json, speed.svg, scaling.svg")
    if not options.quick and not options.only:
        report.write_docs(results)
        print("docs/PERFORMANCE.md is written anew")


if __name__ == "__main__":
    main()
