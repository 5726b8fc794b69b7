"""The numbers to reach, and whether the results do."""
import collections

MB = 1_000_000
MIB = 1 << 20
GIB = 1 << 30


class Results:
    """The JSON by name; KeyError for what was not measured."""

    def __init__(self, results):
        self.rows = {(row["name"], row["bytes"], row["clients"]): row for row in results["rows"]}
        self.properties = {p["name"]: p["value"] for p in results["properties"]}

    def ratio(self, name, size=30 * MB, clients=1):
        value = self.rows[name, size, clients]["ratio_to_ceiling"]
        if value is None:
            raise KeyError(name)
        return value

    def gb_per_s(self, name, size=30 * MB, clients=1):
        return self.rows[name, size, clients]["gb_per_s"]

    def times_as_fast(self, name, other):
        return self.rows[other, 30 * MB, 1]["median_ms"] / self.rows[name, 30 * MB, 1]["median_ms"]

    def property(self, name):
        return self.properties[name]


def row(name, size=30 * MB, clients=1):
    return lambda results: results.ratio(name, size, clients)


def times(name, other):
    return lambda results: results.times_as_fast(name, other)


def measured(name):
    return lambda results: results.property(name)


Target = collections.namedtuple("Target", "text sign goal value")
TARGETS = [
    Target("gRPC stream, C++, TCP: of the ceiling", ">=", 1.00, row("grpc-stream")),
    Target("gRPC stream, C++, unix socket: of its ceiling", ">=", 0.95, row("grpc-stream-unix")),
    Target("HTTP POST raw, C++: of the ceiling", ">=", 1.00, row("http-raw")),
    Target("gRPC unary, one 30 MB message, C++: of the ceiling", ">=", 0.65, row("grpc-unary")),
    Target("grpcio stream, Python: of the ceiling", ">=", 0.50, row("python-grpcio-stream")),
    Target("http.client with a memoryview, Python: of the ceiling", ">=", 0.80, row("python-http-client")),
    Target("requests.post, Python: times Flask's development server", ">=", 1.1, times("python-requests", "flask-dev")),
    Target("requests.post, Python: times gevent", ">=", 1.1, times("python-requests", "gevent")),
    Target("requests.post, Python: times gunicorn, 1 worker", ">=", 3.5, times("python-requests", "gunicorn-1-worker")),
    Target("requests.post, Python: times gunicorn, workers and threads", ">=", 3.5,
           times("python-requests", "gunicorn-workers-threads")),
    Target("requests.post, Python: times waitress", ">=", 3.5, times("python-requests", "waitress")),
    Target("HTTP JSON, 7.5 million numbers: times Flask", ">=", 8, times("http-json", "flask-json")),
    Target("8 GiB stream: GB/s of those at 30 MB", ">=", 0.9,
           lambda results: results.gb_per_s("grpc-stream", 8 * GIB) / results.gb_per_s("grpc-stream")),
    Target("gRPC stream, 1 MB: of the ceiling", ">=", 0.8, row("grpc-stream", MB)),
    Target("HTTP POST raw, 1 MB: of the ceiling", ">=", 0.8, row("http-raw", MB)),
    Target("gRPC stream, 4 clients: of the ceiling", ">=", 0.9, row("grpc-stream", clients=4)),
    Target("gRPC stream, 16 clients: of the ceiling", ">=", 0.9, row("grpc-stream", clients=16)),
    Target("HTTP POST raw, 4 clients: of the ceiling", ">=", 0.9, row("http-raw", clients=4)),
    Target("HTTP POST raw, 16 clients: of the ceiling", ">=", 0.9, row("http-raw", clients=16)),
    Target("4 bytes, gRPC unary, 16 in flight: of a bare echo", ">=", 0.9, measured("small-grpc-ratio")),
    Target("4 bytes, HTTP, 16 connections of wrk: of nginx", ">=", 0.6, measured("small-http-ratio")),
    Target("row_mean_std in memory: times reading it once", "<=", 1.3, measured("kernel-memory-by-reading")),
    Target("row_mean_std in the cache: times reading it once", "<=", 1.3, measured("kernel-cached-by-reading")),
    Target("dense layer on 30 MB, gRPC stream: share of the time saved by working while they arrive", ">=", 0.2,
           measured("dense-saved-by-overlap")),
    Target("peak over idle, 16 gRPC streams of 30 MB: bytes", "<=", 16 * 30 * MB * 1.05 + 64 * MB,
           measured("peak-over-idle-16-uploads-stream")),
    Target("peak over idle, 16 HTTP uploads of 30 MB: bytes", "<=", 16 * 30 * MB * 1.05 + 64 * MB,
           measured("peak-over-idle-16-uploads-http")),
    Target("resident after many uploads: growth", "<=", 0.02, measured("resident-growth")),
    Target("page faults for each 30 MB request, gRPC stream", "<", 20, measured("page-faults-stream")),
    Target("page faults for each 30 MB request, gRPC unary", "<", 20, measured("page-faults-unary")),
    Target("page faults for each 30 MB request, HTTP", "<", 20, measured("page-faults-http")),
    Target("worst after silence over busy, gRPC: ms", "<", 3, measured("worst-after-silence-over-busy-unary")),
    Target("worst after silence over busy, HTTP: ms", "<", 3, measured("worst-after-silence-over-busy-http")),
]

REACHED = {">=": lambda value, goal: value >= goal, "<=": lambda value, goal: value <= goal,
           "<": lambda value, goal: value < goal}


def judge(results):
    """(text, sign, goal, value, whether it is reached) for each target that was measured."""
    known = Results(results)
    for target in TARGETS:
        try:
            value = target.value(known)
        except KeyError:
            continue
        yield target.text, target.sign, target.goal, value, REACHED[target.sign](value, target.goal)
