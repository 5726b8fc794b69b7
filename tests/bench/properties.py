"""What is measured beside the rows: small requests, the kernel, work while bytes arrive, memory, page faults, latency after silence.

Each function yields (name, value, unit).
"""
import json
import os
import shutil
import statistics
import subprocess

import processes
from processes import Failed, Server

MB = 1_000_000
ROUNDS = 3


class Properties:
    def __init__(self, bin_dir, quick):
        self.bin_dir = bin_dir
        self.quick = quick

    def load(self, address, way, size, requests, *options):
        return [self.program("bench-load"), "--address", address, "--way", way, "--bytes", size,
                "--requests", requests, *options]

    def program(self, name):
        return os.path.join(self.bin_dir, name)

    def server(self, kind):
        return Server(kind, self.bin_dir)

    def rounds(self):
        return range(1 if self.quick else ROUNDS)

    def ratio(self, name, other, measure):
        """Requests a second of Millrace and of another server, in turns, and their ratio."""
        if processes.why_not(other, self.bin_dir):
            return
        rates = {"millrace": [], other: []}
        for _ in self.rounds():
            for kind, values in rates.items():
                with self.server(kind) as server:
                    values.append(measure(server.address))
        medians = {kind: statistics.median(values) for kind, values in rates.items()}
        for kind, rate in medians.items():
            yield f"{name}-{kind}", round(rate), "requests/s"
        yield f"{name}-ratio", round(medians["millrace"] / medians[other], 3), f"of {other}"

    # ---- small requests

    def small_grpc(self):
        """4 bytes, 16 in flight on one connection, against a bare gRPC callback that echoes."""
        requests = 8000 if self.quick else 40_000

        def measure(address):
            client = processes.Client([self.program("bench-small-calls"), address, 16, requests], seconds=60)
            return requests / client.run()["wall_s"]

        yield from self.ratio("small-grpc", "echo", measure)

    def small_http(self):
        """4 bytes, 16 connections of wrk, against nginx answering a constant."""
        seconds = 1 if self.quick else 3

        def measure(address):
            done = subprocess.run(["wrk", "-t", "1", "-c", "16", "-d", f"{seconds}s", "-s",
                                   os.path.join(processes.HERE, "small_post.lua"), f"http://{address}/predict"],
                                  capture_output=True, text=True, timeout=60, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            if result["failed"] or not result["requests"]:
                raise Failed(done.stdout)
            return result["requests"] / result["seconds"]

        if shutil.which("wrk"):
            yield from self.ratio("small-http", "nginx", measure)

    # ---- the kernel

    def kernel(self):
        """row_mean_std's sums on 30 MB in memory, against reading the bytes once."""
        if not os.path.exists(self.program("kernel_bench")):
            return
        done = subprocess.run([self.program("kernel_bench"), "--benchmark_format=json",
                               "--benchmark_filter=BM_(Read|RowMeanStd)/", "--benchmark_repetitions=5",
                               f"--benchmark_min_time={0.05 if self.quick else 0.2}"],
                              capture_output=True, text=True, timeout=120, check=True)
        times = {(run["run_name"].split("/")[0], "images:4" in run["run_name"]): run["real_time"]
                 for run in json.loads(done.stdout)["benchmarks"] if run.get("aggregate_name") == "median"}
        for in_memory, where in ((False, "cached"), (True, "memory")):
            read, ours = times["BM_Read", in_memory], times["BM_RowMeanStd", in_memory]
            yield f"kernel-{where}-us", round(ours, 1), "us"
            yield f"kernel-{where}-by-reading", round(ours / read, 3), "times reading"

    # ---- work while bytes arrive

    def overlap(self):
        """A dense layer on 30 MB over a gRPC stream, worked on while they arrive, and after they all have."""
        times = {}
        for _ in self.rounds():
            with self.server("millrace-dense") as server:
                requests = 5 if self.quick else 40
                client = processes.Client([self.program("bench-overlap"), server.address, 3000, requests], seconds=120)
                for name, some in client.run().items():
                    times.setdefault(name, []).extend(some)
        medians = {name: statistics.median(some) for name, some in times.items()}
        for name, value in medians.items():
            yield f"dense-{name.replace('_ms', '').replace('_', '-')}", round(value, 3), "ms"
        yield "dense-saved-by-overlap", round(1 - medians["overlap_ms"] / medians["wait_ms"], 3), "share"

    # ---- memory

    def memory_of_16_uploads(self):
        """The server's peak over what it holds idle, with 16 uploads of 30 MB at once."""
        for way in ("stream", "http"):
            with self.server("millrace") as server:
                idle = processes.memory(server.pid, "VmRSS")
                report = processes.measure(server, self.load(server.address, way, 30 * MB, 64, "--clients", 16))
            yield f"peak-over-idle-16-uploads-{way}", report["server_peak"] - idle, "bytes"

    def memory_after_many_uploads(self):
        """Resident after 10,000 uploads of a hundred sizes, sent all four ways, against after 100."""
        with self.server("millrace") as server:
            uploads = 900 if self.quick else 9900
            report = processes.measure(server, self.load(server.address, "mixed", 30 * MB, uploads, "--warmup", 100))
        before, after = report["server_resident_before"], report["server_resident_after"]
        yield "resident-after-100-uploads", before, "bytes"
        yield f"resident-after-{100 + uploads}-uploads", after, "bytes"
        yield "resident-growth", round(after / before - 1, 4), "share"

    def page_faults(self):
        """Of the server, for each request of 30 MB, when it is warm."""
        for way in ("stream", "duplex", "unary", "http"):
            with self.server("millrace") as server:
                report = processes.measure(server, self.load(server.address, way, 30 * MB, 100, "--warmup", 20))
            yield f"page-faults-{way}", round(report["server_faults"] / 100, 2), "per request"

    # ---- silence

    def silence(self):
        """The worst of 50 requests of 4 bytes, each after 1 to 3 s of silence, over the median of a busy server.

        Several servers at a time, each with a client of its own, so that it does not take minutes.
        """
        servers, requests = (4, 2) if self.quick else (5, 10)
        for way in ("unary", "http"):
            with self.server("millrace") as server:
                busy = statistics.median(processes.measure(server, self.load(server.address, way, 4, 1000))["ms"])
            worst = max(self.after_silence(way, servers, requests))
            yield f"busy-median-{way}", round(busy, 3), "ms"
            yield f"worst-after-silence-{way}", round(worst, 3), "ms"
            yield f"worst-after-silence-over-busy-{way}", round(worst - busy, 3), "ms"

    def after_silence(self, way, count, requests):
        servers = [self.server("millrace") for _ in range(count)]
        try:
            clients = [processes.Client(self.load(s.address, way, 4, requests, "--silence", 1, 3), seconds=120)
                       for s in servers]
            for client in clients:
                client.go()
            return [ms for client in clients for ms in client.report()["ms"]]
        finally:
            for server in servers:
                server.close()


# The name by which --only picks it, and what measures it.
TABLE = {
    "small-grpc": Properties.small_grpc,
    "small-http": Properties.small_http,
    "kernel": Properties.kernel,
    "overlap": Properties.overlap,
    "peak-over-idle": Properties.memory_of_16_uploads,
    "resident": Properties.memory_after_many_uploads,
    "page-faults": Properties.page_faults,
    "silence": Properties.silence,
}


def measure(names, bin_dir, quick, step):
    properties = Properties(bin_dir, quick)
    results = []
    for name in names:
        step(name)
        results += [{"name": n, "value": value, "unit": unit} for n, value, unit in TABLE[name](properties)]
    return results
