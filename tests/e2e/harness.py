"""Starts the real server as a process, and asks it what its users would.

The build says where things are: MILLRACE_BIN_DIR has the binaries, PYTHONPATH the gRPC stubs.  Every wait has an end,
traffic stays on this machine, and only processes that were started here are ended here.
"""

import collections
import contextlib
import functools
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import grpc
import numpy as np

from millrace.v1 import prediction_pb2 as pb
from millrace.v1 import prediction_pb2_grpc

BIN_DIR = os.environ["MILLRACE_BIN_DIR"]
SERVER = os.path.join(BIN_DIR, "millrace-server")
CLI = os.path.join(BIN_DIR, "millrace")

# What sanitizers are built in; they make everything slower, and memory figures meaningless.
SANITIZER = os.environ.get("MILLRACE_SANITIZER", "")
PATIENCE = 8 if SANITIZER else 1

MIB = 1 << 20

DTYPES = {
    "bool": pb.DATA_TYPE_BOOL,
    "int8": pb.DATA_TYPE_INT8,
    "int16": pb.DATA_TYPE_INT16,
    "int32": pb.DATA_TYPE_INT32,
    "int64": pb.DATA_TYPE_INT64,
    "uint8": pb.DATA_TYPE_UINT8,
    "uint16": pb.DATA_TYPE_UINT16,
    "uint32": pb.DATA_TYPE_UINT32,
    "uint64": pb.DATA_TYPE_UINT64,
    "float16": pb.DATA_TYPE_FLOAT16,
    "float32": pb.DATA_TYPE_FLOAT32,
    "float64": pb.DATA_TYPE_FLOAT64,
}
NAMES = {value: name for name, value in DTYPES.items()}


# ---- what is sent, and what must come back


@functools.lru_cache(maxsize=1)
def image():
    """The case that started it: value i / 7,500,000 at flat index i."""
    return (np.arange(7_500_000, dtype=np.float64) / 7_500_000).astype(np.float32).reshape(3000, 2500)


IMAGE_ANSWER = 0.2886751
TWIN = np.array([0.25], dtype=np.float32)  # one number that stands for a whole image
TWIN_ANSWER = 0.0


def row_mean_std(array):
    """What the model of this name must answer."""
    return np.std(np.mean(array.astype(np.float64), axis=1))


def small_image():
    return np.linspace(-3, 5, 40 * 30, dtype=np.float32).reshape(40, 30)


# ---- waiting


def wait_until(condition, what, seconds=10):
    """For what no event tells, such as memory figures: asks until it holds, for so long at most."""
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {seconds * PATIENCE} s: {what}")
        time.sleep(0.01)


class Stopwatch:
    def __init__(self):
        self.start = time.monotonic()

    def seconds(self):
        return time.monotonic() - self.start


# ---- the server

Memory = collections.namedtuple("Memory", "peak rss anon shmem")


def _free_of_millrace(environment):
    return {key: value for key, value in environment.items() if not key.startswith("MILLRACE_")}


def run_server(*options, env=None, timeout=20, cwd=None):
    """A server that is expected to end by itself."""
    return subprocess.run([SERVER, *options], env={**_free_of_millrace(os.environ), **(env or {})}, text=True,
                          capture_output=True, timeout=timeout * PATIENCE, check=False, cwd=cwd)


class Server:
    """A millrace-server on a free port and a unix socket, from construction until stop()."""

    def __init__(self, *options, env=None, wrapper=(), cwd=None):
        self.directory = tempfile.mkdtemp(prefix="millrace-e2e-")
        self.unix_path = os.path.join(self.directory, "socket")
        binds = [] if any(o.startswith("--bind") for o in options) else [
            "--bind", "127.0.0.1:0", "--bind", "unix:" + self.unix_path]
        self.lines = []
        self._lines_changed = threading.Condition()
        self._log_ended = False
        self.process = subprocess.Popen([*wrapper, SERVER, *binds, *options], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                        env={**_free_of_millrace(os.environ), **(env or {})}, cwd=cwd)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        try:
            self.start_line = self.wait_for_line("listening on ")
        except AssertionError:
            self.kill()
            raise
        self.addresses = re.search(r"listening on (.*?);", self.start_line).group(1).split(", ")
        tcp = next((a for a in self.addresses if not a.startswith("unix:")), None)
        self.tcp = tcp
        self.port = int(tcp.rsplit(":", 1)[1]) if tcp else None
        self.unix = next((a for a in self.addresses if a.startswith("unix:")), None)
        self._client = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            self.kill()

    @property
    def pid(self):
        return self.process.pid

    def _read_log(self):
        for line in self.process.stderr:
            with self._lines_changed:
                self.lines.append(line.rstrip("\n"))
                self._lines_changed.notify_all()
        with self._lines_changed:
            self._log_ended = True
            self._lines_changed.notify_all()

    def log(self):
        return "\n".join(self.lines)

    def wait_for_line(self, text, seconds=20):
        """The first line of the log that has the text."""
        def found():
            return next((line for line in self.lines if text in line), None)

        with self._lines_changed:
            self._lines_changed.wait_for(lambda: found() or self._log_ended, seconds * PATIENCE)
            if found() is None:
                raise AssertionError(f"the log has no line with {text!r}:\n{self.log()}")
            return found()

    def alive(self):
        return self.process.poll() is None

    # -- the end

    def terminate(self):
        """Asks it to drain; returns at once."""
        self.process.send_signal(signal.SIGTERM)

    def drain(self, client):
        """Asks it to drain; returns when it takes no more requests, as `client`, a gRPC client, has seen."""
        health = client.health()
        assert next(health) == "SERVING"
        self.terminate()
        assert next(health) == "NOT_SERVING"

    def wait(self, seconds=20):
        """The exit status of a server that was asked to end."""
        try:
            status = self.process.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not end in {seconds * PATIENCE} s:\n{self.log()}") from None
        self._clean_up()
        return status

    def stop(self, seconds=20):
        """Ends it as an operator does, and insists that it ends well and that no sanitizer spoke."""
        if self.alive():
            self.terminate()
        status = self.wait(seconds)
        complaint = re.search(r"Sanitizer|runtime error:", self.log())
        if status != 0 or complaint:
            raise AssertionError(f"the server ended with status {status}:\n{self.log()}")

    def kill(self):
        if self.alive():
            self.process.kill()
        self.process.wait(20)
        self._clean_up()

    def _clean_up(self):
        self._reader.join(5)
        self.process.stderr.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- what the kernel knows of it

    def memory(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii") as status:
            kilobytes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", status.read(), re.MULTILINE))
        return Memory(*(int(kilobytes[key]) * 1024 for key in ("VmHWM", "VmRSS", "RssAnon", "RssShmem")))

    def held(self):
        """Bytes of memory that are its own and not files."""
        memory = self.memory()
        return memory.anon + memory.shmem

    def minor_faults(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as stat:
            return int(stat.read().rsplit(")", 1)[1].split()[7])

    def cpu_seconds(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def children(self):
        """Its child processes, zombies among them."""
        found = []
        for task in os.listdir(f"/proc/{self.pid}/task"):
            with contextlib.suppress(FileNotFoundError), \
                    open(f"/proc/{self.pid}/task/{task}/children", encoding="ascii") as children:
                found += map(int, children.read().split())
        return found

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    # -- clients

    def grpc(self, address=None):
        return GrpcClient(address or self.tcp)

    def http(self, address=None):
        return HttpClient(address or self.tcp)

    def socket(self, timeout=10):
        return socket.create_connection(("127.0.0.1", self.port), timeout * PATIENCE)

    def alive_and_correct(self):
        """The rule of the house: after whatever happened, a normal request is answered right within a second."""
        assert self.alive(), f"the server has ended:\n{self.log()}"
        expected = row_mean_std(small_image())
        watch = Stopwatch()
        with contextlib.closing(self.http()) as client:
            answer = client.predict_raw(small_image())
        assert abs(answer - expected) < 1e-6, f"HTTP answers {answer} and not {expected}"
        with contextlib.closing(self.grpc()) as client:
            answer = client.predict("stream", "row_mean_std", [small_image()])[0]
        assert abs(answer - expected) < 1e-6, f"gRPC answers {answer} and not {expected}"
        assert watch.seconds() < 1 * PATIENCE, f"two small requests took {watch.seconds():.2f} s"


class ServerTestCase(unittest.TestCase):
    """Tests of one server, which follows the rule of the house after each of them."""

    OPTIONS = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.OPTIONS)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def tearDown(self):
        self.server.alive_and_correct()


# ---- gRPC

CHANNEL_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each channel
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]

GRPC_WAYS = ("unary", "stream", "duplex")


def tensor(array, name=""):
    return pb.Tensor(name=name, data_type=DTYPES[array.dtype.name], shape=array.shape)


def header_of(model, arrays, names=None, **fields):
    names = names or [""] * len(arrays)
    return pb.RequestHeader(model=model, tensors=[tensor(a, n) for a, n in zip(arrays, names)], **fields)


def payload_of(arrays):
    return b"".join(a.tobytes() for a in arrays)


def to_arrays(tensors, payload):
    arrays = []
    offset = 0
    for described in tensors:
        dtype = np.dtype(NAMES.get(described.data_type, "uint16"))  # NumPy has no bfloat16
        size = int(np.prod(described.shape, dtype=np.int64)) * dtype.itemsize
        arrays.append(np.frombuffer(payload[offset:offset + size], dtype).reshape(tuple(described.shape)))
        offset += size
    assert offset == len(payload), f"{len(payload)} bytes for tensors of {offset}"
    return arrays


class GrpcClient:
    """A channel, and the three ways to predict on it."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self.stub = prediction_pb2_grpc.PredictionServiceStub(self.channel)

    def close(self):
        self.channel.close()

    def predict(self, way, model, arrays, names=None, piece=512 << 10, timeout=20, **fields):
        header = header_of(model, arrays, names, **fields)
        return to_arrays(*self.send(way, header, payload_of(arrays), piece, timeout))

    def send(self, way, header, payload, piece=512 << 10, timeout=20):
        """The tensors of the answer and their bytes; raises grpc.RpcError."""
        return getattr(self, "_" + way)(header, payload, piece, timeout * PATIENCE)

    def _unary(self, header, payload, _, timeout):
        answer = self.stub.Predict(pb.PredictRequest(header=header, payload=payload), timeout=timeout)
        return answer.header.tensors, answer.payload

    def _stream(self, header, payload, piece, timeout):
        answer = self.stub.PredictStream(messages(pb.PredictStreamRequest, header, payload, piece), timeout=timeout)
        return answer.header.tensors, answer.payload

    def _duplex(self, header, payload, piece, timeout):
        answer = list(self.stub.PredictDuplex(messages(pb.PredictDuplexRequest, header, payload, piece),
                                              timeout=timeout))
        assert answer[0].HasField("header") and not any(part.HasField("header") for part in answer[1:])
        return answer[0].header.tensors, b"".join(part.payload for part in answer[1:])

    def health(self, timeout=10):
        """The serving status as the server reports it, again at each change (grpc.health.v1.Health.Watch)."""
        watch = self.channel.unary_stream("/grpc.health.v1.Health/Watch")
        for answer in watch(b"", timeout=timeout * PATIENCE):
            yield {b"\x08\x01": "SERVING", b"\x08\x02": "NOT_SERVING"}.get(answer, repr(answer))


def messages(kind, header, payload, piece=512 << 10):
    yield kind(header=header)
    view = memoryview(payload)
    for start in range(0, len(view), piece):
        yield kind(payload=bytes(view[start:start + piece]))


class OpenStream:
    """A PredictDuplex call whose messages the test sends one by one."""

    def __init__(self, client, timeout=60):
        self._messages = collections.deque()
        self._changed = threading.Condition()
        self._done = False
        self.call = client.stub.PredictDuplex(self._feed(), timeout=timeout * PATIENCE)

    def _feed(self):
        while True:
            with self._changed:
                while not self._messages and not self._done:
                    self._changed.wait(1)
                if not self._messages:
                    return
                message = self._messages.popleft()
            yield message

    def send(self, **part):
        with self._changed:
            self._messages.append(pb.PredictDuplexRequest(**part))
            self._changed.notify()

    def half_close(self):
        with self._changed:
            self._done = True
            self._changed.notify()

    def cancel(self):
        self.call.cancel()
        self.half_close()

    def answer(self):
        """Blocks until the call ends; raises grpc.RpcError."""
        parts = list(self.call)
        return to_arrays(parts[0].header.tensors, b"".join(part.payload for part in parts[1:]))

    def error(self):
        """The error that the call ends with."""
        try:
            list(self.call)
        except grpc.RpcError as error:
            self.half_close()
            return error
        raise AssertionError("the call succeeded")


# ---- HTTP

HttpAnswer = collections.namedtuple("HttpAnswer", "status headers body")


class UnixHttpConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class HttpClient:
    """One connection, kept."""

    def __init__(self, address, timeout=20):
        timeout *= PATIENCE
        if address.startswith("unix:"):
            self.connection = UnixHttpConnection(address[5:], timeout)
        else:
            self.connection = http.client.HTTPConnection(address, timeout=timeout)

    def close(self):
        self.connection.close()

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, body, headers=None):
        return self.request("POST", path, body, headers)

    def request(self, method, path, body=None, headers=None):
        self.connection.request(method, path, body, headers or {})
        response = self.connection.getresponse()
        return HttpAnswer(response.status, response.headers, response.read())

    def predict_raw(self, array, model="row_mean_std", path=None):
        """The values that come back, raw."""
        shape = ",".join(map(str, array.shape))
        path = path or f"/v1/models/{model}:predict?shape={shape}&dtype={array.dtype.name}"
        answer = self.post(path, memoryview(array).cast("B") if array.size else b"",
                           {"Content-Type": "application/octet-stream"})
        assert answer.status == 200, answer
        dtype = np.dtype(answer.headers["Millrace-Dtype"])
        shape = [int(size) for size in answer.headers["Millrace-Shape"].split(",") if size]
        return np.frombuffer(answer.body, dtype).reshape(shape)


def error_of(answer):
    """(status, code, message) of an HTTP answer that is an error."""
    body = json.loads(answer.body)
    return answer.status, body["code"], body["error"]


# What a message must not give away: files, addresses, names inside the server.
SECRETS = re.compile(r"(?<![\w.])/(tmp|home|usr|proc|dev|var|run|etc|root|work|build|src)/|\.(cc|h)\b|\b0x[0-9a-f]{4,}|"
                     r"\b\d+\.\d+\.\d+\.\d+|millrace::|memfd|std::")


def run_tests():
    unittest.main(verbosity=2)
