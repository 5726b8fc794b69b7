"""What is measured: the table of rows, and how one turn of a row is run."""
import collections
import os
import statistics
import sys

import processes

MB = 1_000_000
GIB = 1 << 30
READ_SIZES = (64 << 10, 256 << 10, 1 << 20)  # of the ceiling's server; the best of them counts

# server: a kind of processes.SERVERS.  client: "load" is bench-load, "python" python_client.py.
Way = collections.namedtuple("Way", "server client way unix", defaults=(False,))
WAYS = {
    "ceiling-tcp": Way("ceiling", "load", "ceiling"),
    "ceiling-unix": Way("ceiling", "load", "ceiling", unix=True),
    "grpc-stream": Way("millrace", "load", "stream"),
    "grpc-stream-unix": Way("millrace", "load", "stream", unix=True),
    "grpc-duplex": Way("millrace", "load", "duplex"),
    "grpc-unary": Way("millrace", "load", "unary"),
    "http-raw": Way("millrace", "load", "http"),
    "http-npy": Way("millrace", "load", "npy"),
    "http-json": Way("millrace", "load", "json"),
    "python-requests": Way("millrace", "python", "requests"),
    "python-http-client": Way("millrace", "python", "http-client"),
    "python-grpcio-stream": Way("millrace", "python", "grpcio-stream"),
    "flask-dev": Way("flask-dev", "python", "requests"),
    "flask-json": Way("flask-dev", "load", "json"),
    "waitress": Way("waitress", "python", "requests"),
    "gunicorn-1-worker": Way("gunicorn-1-worker", "python", "requests"),
    "gunicorn-workers-threads": Way("gunicorn-workers-threads", "python", "requests"),
    "gevent": Way("gevent", "python", "requests"),
}

CEILINGS = "ceiling-tcp ceiling-unix "
CPP = "grpc-stream grpc-stream-unix grpc-duplex grpc-unary http-raw http-npy "
PYTHON = "python-requests python-http-client python-grpcio-stream "
OTHERS = "flask-dev waitress gunicorn-1-worker gunicorn-workers-threads gevent "

# rounds: in how many of the rounds.  quick: whether in a quick run, too.
Group = collections.namedtuple("Group", "bytes clients requests rounds quick names")
ALL = 1000
GROUPS = [
    Group(30 * MB, 1, 20, ALL, True, CEILINGS + CPP),
    Group(30 * MB, 1, 10, ALL, True, PYTHON + OTHERS),
    Group(30 * MB, 1, 2, ALL, True, "http-json"),
    Group(30 * MB, 1, 1, 3, True, "flask-json"),
    Group(30 * MB, 4, 60, ALL, True, "ceiling-tcp grpc-stream grpc-unary http-raw"),
    Group(30 * MB, 16, 96, ALL, True, "ceiling-tcp grpc-stream grpc-unary http-raw"),
    Group(30 * MB, 4, 60, ALL, False, "ceiling-unix grpc-stream-unix"),
    Group(30 * MB, 16, 96, ALL, False, "ceiling-unix grpc-stream-unix"),
    Group(1 * MB, 1, 200, ALL, True, CEILINGS + "grpc-stream grpc-stream-unix grpc-unary http-raw"),
    Group(1 * MB, 1, 20, ALL, False, "python-requests python-http-client flask-dev waitress gunicorn-1-worker"),
    Group(4, 1, 1000, ALL, True, CEILINGS + "grpc-stream grpc-stream-unix grpc-unary http-raw"),
    Group(4, 16, 8000, ALL, True, "ceiling-tcp grpc-unary http-raw"),
    Group(4, 1, 20, ALL, False, "python-requests python-http-client flask-dev"),
    Group(300 * MB, 1, 5, ALL, False, CEILINGS + "grpc-stream grpc-stream-unix http-raw python-http-client"),
    Group(8 * GIB, 1, 2, 2, False, "ceiling-tcp grpc-stream"),
]

Row = collections.namedtuple("Row", "name bytes clients requests rounds")


def ceiling_of(row):
    """The name of the row that this one is compared with."""
    return "ceiling-unix" if WAYS[row.name].unix else "ceiling-tcp"


def chosen(quick, fits):
    """The rows whose name `fits`, and their ceilings."""
    rows = [Row(name, group.bytes, group.clients, group.requests, group.rounds)
            for group in GROUPS if group.quick or not quick for name in group.names.split()]
    wanted = [row for row in rows if fits(row.name)]
    needed = {(ceiling_of(row), row.bytes, row.clients) for row in wanted}
    return [row for row in rows if row in wanted or (row.name, row.bytes, row.clients) in needed]


def why_not(row, bin_dir):
    """What is missing here to measure the row; None if nothing is."""
    needed = 1.5 * row.bytes * min(row.clients, 4)
    if needed > processes.available_memory():
        return f"needs {needed / GIB:.1f} GiB of free memory"
    return processes.why_not(WAYS[row.name].server, bin_dir)


def read_sizes(row):
    """How often a row is measured in a round, and with what; a reading size means something to the ceiling alone."""
    if WAYS[row.name].server != "ceiling" or row.bytes <= min(READ_SIZES):
        return (READ_SIZES[1],)
    return READ_SIZES[1:2] if row.bytes > GIB else READ_SIZES


class Turns:
    """Runs turns of rows: each on a server of its own, which is warm when the clock starts."""

    def __init__(self, bin_dir, stubs, quick):
        self.bin_dir = bin_dir
        self.stubs = stubs
        self.quick = quick

    def run(self, row, read_size):
        way = WAYS[row.name]
        kind = "millrace-large" if row.bytes > GIB and way.server == "millrace" else way.server
        with processes.Server(kind, self.bin_dir, way.unix) as server:
            report = processes.measure(server, self._client(row, way, server.address, read_size), seconds=180,
                                       env={"PYTHONPATH": self.stubs, "no_proxy": "127.0.0.1"})
        return {"row": row, "read_size": read_size, **report}

    def _client(self, row, way, address, read_size):
        requests = max(1, row.requests // 2) if self.quick else row.requests
        few = row.bytes > GIB or "json" in row.name
        options = ["--address", address, "--way", way.way, "--bytes", row.bytes, "--requests", requests,
                   "--warmup", 1 if few else 3 if row.bytes > MB else 20]
        if way.client == "python":
            return [sys.executable, os.path.join(processes.HERE, "python_client.py"), *options]
        return [os.path.join(self.bin_dir, "bench-load"), *options, "--clients", row.clients, "--read-size", read_size]


# ---- from turns to rows


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median_ms(turns):
    return statistics.median(ms for turn in turns for ms in turn["ms"])


def gb_per_s(row, turns):
    """Of one client from the median; of several what all of them had together, in the median turn."""
    if row.clients == 1:
        return row.bytes / median_ms(turns) / 1e6
    return statistics.median(row.bytes * len(turn["ms"]) / turn["wall_s"] / 1e9 for turn in turns)


def summary(row, turns):
    """One row of the results, but for the ratio; of a ceiling's turns, those with the best reading size."""
    by_size = collections.defaultdict(list)
    for turn in turns:
        by_size[turn["read_size"]].append(turn)
    turns = max(by_size.values(), key=lambda some: gb_per_s(row, some))
    samples = [ms for turn in turns for ms in turn["ms"]]
    gb = row.bytes * len(samples) / 1e9
    return {"name": row.name, "bytes": row.bytes, "clients": row.clients,
            "median_ms": round(median_ms(turns), 4), "p99_ms": round(percentile(samples, 0.99), 4),
            "gb_per_s": round(gb_per_s(row, turns), 6),
            "client_cpu_s_per_gb": round(sum(t["cpu_s"] for t in turns) / gb, 4),
            "server_cpu_s_per_gb": round(sum(t["server_cpu_s"] for t in turns) / gb, 4),
            "server_peak_bytes": max(t["server_peak"] for t in turns)}


def ratio(row, ceiling):
    """Of one client the ceiling's median time by ours; of several, our GB/s by the ceiling's."""
    if row["clients"] == 1:
        return round(ceiling["median_ms"] / row["median_ms"], 4)
    return round(row["gb_per_s"] / ceiling["gb_per_s"], 4)


def summarise(turns):
    """The rows of the results, in the order of the table above."""
    by_row = collections.defaultdict(list)
    for turn in turns:
        by_row[turn["row"]].append(turn)
    results = {(row.name, row.bytes, row.clients): summary(row, some) for row, some in by_row.items()}
    for row in by_row:
        result = results[row.name, row.bytes, row.clients]
        ceiling = results.get((ceiling_of(row), row.bytes, row.clients))
        result["ratio_to_ceiling"] = ratio(result, ceiling) if ceiling else None
    return list(results.values())
