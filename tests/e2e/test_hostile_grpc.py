"""What the network may send over gRPC, as tables; after each case the rule of the house, after all of them memory."""

import contextlib
import resource
import signal
import struct
import subprocess
import sys
import unittest
import zlib

import grpc

import harness
import http2
from harness import GRPC_WAYS, MIB, PATIENCE, SANITIZER, OpenStream, Server, TWIN, header_of, image, pb, \
    wait_until

SERVICE = "/millrace.v1.PredictionService/"
FLOAT = pb.DATA_TYPE_FLOAT32

INVALID = grpc.StatusCode.INVALID_ARGUMENT
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def shaped(*shape, dtype=FLOAT, model="identity", **fields):
    return pb.RequestHeader(model=model, tensors=[pb.Tensor(data_type=dtype, shape=shape)], **fields)


def many(count, **fields):
    return pb.RequestHeader(model="identity", tensors=[
        pb.Tensor(name=str(i), data_type=FLOAT, **fields) for i in range(count)])


# (case, header, payload, expected)
DECLARATIONS = [
    ("a negative dimension", shaped(-1), b"1234", INVALID),
    ("two negative dimensions, whose product is right", shaped(-1, -1), b"1234", INVALID),
    ("the smallest dimension there is", shaped(-2**63), b"1234", INVALID),
    ("a product of 2^64", shaped(2**32, 2**32), b"", INVALID),
    ("a product of 2^64 + 1 element", shaped(2**33, 2**31 + 1), b"1234", INVALID),
    ("a product below 2^63 whose bytes are above", shaped(2**61), b"", INVALID),
    ("a product of 2^63 - 1", shaped(2**63 - 1, dtype=pb.DATA_TYPE_INT8), b"", EXHAUSTED),
    ("zero times too much", shaped(0, 2**62, 2**62), b"1234", INVALID),
    ("more bytes than the server has", shaped(2**40), b"", EXHAUSTED),
    ("seventeen dimensions", shaped(*[1] * 17), b"1234", INVALID),
    ("a thousand dimensions", shaped(*[1] * 1000), b"1234", INVALID),
    ("a hundred thousand dimensions", shaped(*[1] * 100_000), b"1234", INVALID),
    ("no type", shaped(1, dtype=0), b"1234", INVALID),
    ("a type that is none", shaped(1, dtype=14), b"1234", INVALID),
    ("a negative type", shaped(1, dtype=-1), b"1234", INVALID),
    ("257 tensors", many(257), bytes(4 * 257), INVALID),
    ("100,000 tensors", many(100_000), b"", INVALID),
    ("tensors whose sizes overflow together", many(4, shape=[2**60]), b"", INVALID),
    ("two tensors of one name", pb.RequestHeader(model="identity", tensors=[
        pb.Tensor(name="a", data_type=FLOAT), pb.Tensor(name="a", data_type=FLOAT)]), b"12345678", INVALID),
    ("a name of 1 MB", pb.RequestHeader(model="row_mean_std", tensors=[
        pb.Tensor(name="n" * 1_000_000, data_type=FLOAT)]), b"1234", INVALID),
    ("a model of 1 MB", shaped(1, model="m" * 1_000_000), b"1234", grpc.StatusCode.NOT_FOUND),
    ("a long request id", shaped(1, request_id="r" * 129), b"1234", INVALID),
    ("65 parameters", shaped(1, parameters={str(i): "" for i in range(65)}), b"1234", INVALID),
    ("a long parameter", shaped(1, parameters={"p" * 1025: ""}), b"1234", INVALID),
    ("a long value", shaped(1, parameters={"p": "v" * 1025}), b"1234", INVALID),
    ("too few bytes", shaped(2), b"1234567", INVALID),
    ("no bytes", shaped(2), b"", INVALID),
    ("one byte too many", shaped(2), b"123456789", INVALID),
    ("bytes for no tensor", pb.RequestHeader(model="identity"), b"1", INVALID),
    ("a million bytes too many", shaped(2), bytes(1_000_000), INVALID),
]

# What is at the limit and right: (case, header, payload)
AT_THE_LIMIT = [
    ("sixteen dimensions", shaped(*[1] * 16), b"1234"),
    ("256 tensors", many(256), bytes(4 * 256)),
    ("no tensors for identity", pb.RequestHeader(model="identity"), b""),
    ("a request id of 128 bytes", shaped(1, request_id="r" * 128), b"1234"),
    ("64 parameters", shaped(1, parameters={str(i): "v" * 1024 for i in range(64)}), b"1234"),
    ("a tensor of nothing", shaped(0, 2**40), b""),
]

GOOD = header_of("", [TWIN]).SerializeToString()
PAYLOAD = TWIN.tobytes()


def part(field, data):
    """One length-delimited protobuf field with a one-byte number."""
    size = len(data)
    varint = b""
    while size >= 128:
        varint += bytes([size % 128 + 128])
        size //= 128
    return bytes([field << 3 | 2]) + varint + bytes([size]) + data


HEADER = part(1, GOOD)
PIECE = part(2, PAYLOAD)

# (case, the bytes of one message)
MALFORMED = [
    ("a broken tag", b"\xff" * 11),
    ("a field of number 0", b"\x02\x00"),
    ("a header that ends early", HEADER[:-1]),
    ("a header without its length", b"\x0a"),
    ("a length of 2^31", b"\x0a\x80\x80\x80\x80\x08"),
    ("a length of 2^63", b"\x0a" + b"\xff" * 9 + b"\x01"),
    ("a payload longer than the message", HEADER + b"\x12\x7f1234"),
    ("a group of a header", b"\x0b" + HEADER),
    ("a header of garbage", part(1, b"\xff\xff\xff\xff")),
    ("a header with a broken tensor", part(1, part(3, b"\x1a\x7f"))),
    ("a name that is not UTF-8", part(1, part(1, b"\xff\xfe"))),
    ("an end of a group", HEADER + b"\x1c" + PIECE),
    ("a group without an end", HEADER + b"\x1b"),
    ("ten thousand groups", b"\x1b" * 10_000),
    ("a header twice", HEADER + HEADER + PIECE),
    ("a payload twice", HEADER + PIECE + PIECE),
]

# (case, the messages of a stream)
ORDERS = [
    ("nothing", []),
    ("an empty message", [b""]),
    ("data before the header", [PIECE, HEADER]),
    ("header and data at once", [HEADER + PIECE]),
    ("a second header", [HEADER, HEADER, PIECE]),
    ("a header after data", [HEADER, part(2, PAYLOAD[:2]), HEADER, part(2, PAYLOAD[2:])]),
    ("a header after the end", [HEADER, PIECE, HEADER]),
    ("data after the end", [HEADER, PIECE, part(2, b"1")]),
    ("an end in the middle", [HEADER, part(2, PAYLOAD[:3])]),
    ("no data", [HEADER]),
    ("a header that is a number, and thus an unknown field", [b"\x08\x01", HEADER, PIECE]),
    ("a broken message in the middle", [HEADER, part(2, PAYLOAD[:2]), b"\x12\x7f"]),
]

# What is odd and right: (case, the messages of a stream)
ODD_ORDERS = [
    ("empty pieces", [HEADER, part(2, b""), PIECE, part(2, b"")]),
    ("messages of nothing", [HEADER, b"", PIECE, b""]),
    ("a byte at a time", [HEADER] + [part(2, PAYLOAD[i:i + 1]) for i in range(4)]),
    ("unknown fields", [part(5, b"later") + HEADER + b"\x30\x05", part(5, b"later") + PIECE]),
]


def raw_call(client, way, messages):
    """The code that a call of these message bytes ends with."""
    method = SERVICE + {"unary": "Predict", "stream": "PredictStream", "duplex": "PredictDuplex"}[way]
    timeout = 20 * PATIENCE
    try:
        if way == "unary":
            client.channel.unary_unary(method)(messages[0], timeout=timeout)
        elif way == "stream":
            client.channel.stream_unary(method)(iter(messages), timeout=timeout)
        else:
            list(client.channel.stream_stream(method)(iter(messages), timeout=timeout))
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


class Messages(harness.ServerTestCase):
    OPTIONS = ("--memory-limit", "1GiB", "--trim-after", "0.05")

    def setUp(self):
        self.client = self.server.grpc()
        self.addCleanup(self.client.close)

    def declare(self, way, header, payload):
        try:
            self.client.send(way, header, payload)
        except grpc.RpcError as error:
            self.assertNotRegex(error.details(), harness.SECRETS)
            self.assertLess(len(error.details()), 4000)
            self.assertTrue(error.details().isprintable())
            return error.code()
        return grpc.StatusCode.OK

    def test_declarations_that_are_refused(self):
        for name, header, payload, expected in DECLARATIONS:
            for way in GRPC_WAYS:
                with self.subTest(case=name, way=way):
                    self.assertEqual(self.declare(way, header, payload), expected)
                    self.server.alive_and_correct()

    def test_declarations_at_the_limit(self):
        for name, header, payload in AT_THE_LIMIT:
            for way in GRPC_WAYS:
                with self.subTest(case=name, way=way):
                    self.assertEqual(self.client.send(way, header, payload)[1], payload)

    def test_malformed_messages(self):
        for name, data in MALFORMED:
            for way in GRPC_WAYS:
                for lead in ([],) if way == "unary" else ([], [HEADER]):
                    with self.subTest(case=name, way=way, after_header=bool(lead)):
                        self.assertEqual(raw_call(self.client, way, lead + [data]), INVALID)
                        self.server.alive_and_correct()

    def test_messages_in_a_wrong_order(self):
        for name, messages in ORDERS:
            for way in ("stream", "duplex"):
                with self.subTest(case=name, way=way):
                    self.assertEqual(raw_call(self.client, way, messages), INVALID)
                    self.server.alive_and_correct()

    def test_messages_in_an_odd_order(self):
        for name, messages in ODD_ORDERS:
            for way in ("stream", "duplex"):
                with self.subTest(case=name, way=way):
                    self.assertEqual(raw_call(self.client, way, messages), grpc.StatusCode.OK)
        self.assertEqual(raw_call(self.client, "unary", [PIECE + HEADER]), grpc.StatusCode.OK)

    def test_unknown_methods(self):
        for method in ("Predict2", "", "../Predict"):
            with self.assertRaises(grpc.RpcError) as caught:
                self.client.channel.unary_unary(SERVICE + method)(b"", timeout=10)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)

    @unittest.skipIf(SANITIZER, "a sanitizer keeps freed memory")
    def test_memory_does_not_grow_with_repeats(self):
        def round_of_all():
            for _, header, payload, _ in DECLARATIONS:
                self.declare("stream", header, payload)
            for _, data in MALFORMED:
                raw_call(self.client, "unary", [data])
            for _, messages in ORDERS:
                raw_call(self.client, "duplex", messages)

        for _ in range(5):
            round_of_all()
        before = self.settled()
        for _ in range(20):
            round_of_all()
        growth = self.settled() - before
        print(f"memory after {20 * (len(DECLARATIONS) + len(MALFORMED) + len(ORDERS))} hostile calls: "
              f"{growth / MIB:+.2f} MiB", flush=True)
        self.assertLess(growth, 2 * MIB)

    def settled(self):
        wait_until(lambda: self.server.memory().shmem < MIB, "unused memory is given back")
        return self.server.held()


class Compression(harness.ServerTestCase):
    def test_compressed_messages_are_refused_and_never_inflated(self):
        self.server.alive_and_correct()
        before = self.server.memory().peak
        with contextlib.closing(self.server.grpc()) as client:
            request = pb.PredictRequest(header=shaped(60_000_000, dtype=pb.DATA_TYPE_INT8), payload=bytes(60_000_000))
            for algorithm in (grpc.Compression.Gzip, grpc.Compression.Deflate):
                with self.assertRaises(grpc.RpcError) as caught:
                    client.stub.Predict(request, compression=algorithm, timeout=20 * PATIENCE)
                self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
                with self.assertRaises(grpc.RpcError) as caught:
                    client.stub.PredictStream(harness.messages(pb.PredictStreamRequest, request.header, request.payload,
                                                               30_000_000), compression=algorithm, timeout=20 * PATIENCE)
                self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
        if not SANITIZER:
            self.assertLess(self.server.memory().peak - before, 32 * MIB)

    def test_a_compression_that_there_is_not(self):
        for encoding in (b"zstd", b"", b"gzip, deflate", b"a" * 1000):
            with self.subTest(encoding=encoding[:20]), http2.Connection(self.server) as connection:
                message = http2.message(zlib.compress(HEADER + PIECE), compressed=1)
                stream = connection.call(SERVICE.encode() + b"Predict", message, end=True,
                                         metadata=[(b"grpc-encoding", encoding)])
                connection.read_until(lambda: stream in connection.statuses)
                self.assertIn(connection.statuses.get(stream), (3, 12, 13, "reset"))


class Metadata(harness.ServerTestCase):
    def test_metadata_above_the_limit_is_refused(self):
        with contextlib.closing(self.server.grpc()) as client:
            for size, code in ((1000, grpc.StatusCode.OK), (20_000, EXHAUSTED), (200_000, EXHAUSTED)):
                with self.subTest(size=size):
                    try:
                        client.stub.Predict(pb.PredictRequest(header=header_of("", [TWIN]), payload=PAYLOAD),
                                            metadata=[("x-much", "a" * size)], timeout=20)
                        found = grpc.StatusCode.OK
                    except grpc.RpcError as error:
                        found = error.code()
                    self.assertEqual(found, code)

    def test_a_megabyte_of_metadata_from_a_client_that_ignores_settings(self):
        with http2.Connection(self.server, acknowledge=False) as connection:
            stream = connection.call(SERVICE.encode() + b"Predict", http2.message(HEADER + PIECE),
                                     metadata=[(b"x-%d" % i, b"a" * 10_000) for i in range(100)], end=True)
            connection.read_until(lambda: stream in connection.statuses)
            self.assertIn(connection.statuses.get(stream, "closed"), (8, "reset", "closed"))


class SilentStreams(unittest.TestCase):
    """A thousand streams that declare the largest tensor and send nothing."""

    COUNT = 1000
    PER_STREAM = 32 << 10
    SLACK = 4 * MIB

    # (case, options, bytes that each declares, the statuses that they end with)
    CASES = [
        ("all are promised their memory", ("--memory-limit", "2TiB", "--max-request-bytes", "1GiB"), 1 << 30, {4}),
        ("one is promised all and the others wait", ("--memory-limit", "1GiB"), 1 << 30, {4, 8}),
    ]

    def test_cost_little_and_lose_their_promise(self):
        for name, options, size, expected in self.CASES:
            with self.subTest(case=name):
                with Server(*options, "--stall-timeout", "2", "--admission-timeout", "1") as server:
                    self.check(server, name, size, expected)

    def check(self, server, name, size, expected):
        server.alive_and_correct()
        before = server.held()
        header = http2.message(part(1, shaped(size, dtype=pb.DATA_TYPE_INT8).SerializeToString()))
        with http2.Connection(server) as connection:
            for _ in range(self.COUNT):
                connection.call(SERVICE.encode() + b"PredictDuplex", header)
            peak = before

            def all_ended():
                nonlocal peak
                peak = max(peak, server.held())
                return len(connection.statuses) == self.COUNT

            connection.read_until(all_ended)
            self.assertEqual(len(connection.statuses), self.COUNT)
            self.assertEqual(set(connection.statuses.values()), expected)
        growth = peak - before
        print(f"{name}: {growth / self.COUNT / 1024:.1f} kB a silent stream", flush=True)
        if not SANITIZER:
            self.assertLess(growth, self.COUNT * self.PER_STREAM + self.SLACK)
        server.alive_and_correct()

    def test_a_silent_stream_holds_up_others_no_longer_than_the_stall_timeout(self):
        with Server("--memory-limit", "64MB", "--stall-timeout", "1") as server, \
                contextlib.closing(server.grpc()) as holder, contextlib.closing(server.grpc()) as client:
            silent = OpenStream(holder)
            silent.send(header=shaped(64_000_000, dtype=pb.DATA_TYPE_INT8))
            watch = harness.Stopwatch()
            self.assertAlmostEqual(float(client.predict("stream", "row_mean_std", [image()])[0]),
                                   harness.IMAGE_ANSWER, delta=1e-6)
            self.assertLess(watch.seconds(), 1 + 1 * PATIENCE)
            self.assertEqual(silent.error().code(), grpc.StatusCode.DEADLINE_EXCEEDED)


class Limits(unittest.TestCase):
    def test_calls_above_the_connections_limit_are_refused_one_by_one(self):
        with Server("--max-connection-calls", "10") as server:
            for acknowledge in (True, False):
                with self.subTest(acknowledge=acknowledge), http2.Connection(server, acknowledge) as connection:
                    streams = [connection.call(SERVICE.encode() + b"PredictDuplex") for _ in range(200)]
                    connection.read_until(lambda: len(connection.statuses) >= 190)
                    self.assertFalse(connection.closed, "the innocent calls ended with the others")
                    self.assertLessEqual(set(connection.statuses.values()), {8, "reset"})
                    innocent = [s for s in streams if s not in connection.statuses]
                    for stream in innocent:
                        connection.send(http2.frame(http2.DATA, http2.END_STREAM, stream,
                                                    http2.message(HEADER) + http2.message(PIECE)))
                    connection.read_until(lambda: len(connection.statuses) == 200)
                    self.assertEqual({connection.statuses[s] for s in innocent}, {0})
                    server.alive_and_correct()

    def test_calls_above_the_servers_limit_are_refused(self):
        with Server("--max-requests", "10") as server, http2.Connection(server) as connection:
            streams = [connection.call(SERVICE.encode() + b"PredictDuplex") for _ in range(12)]
            connection.read_until(lambda: len(connection.statuses) == 2)
            self.assertEqual(set(connection.statuses.values()), {8})
            with contextlib.closing(server.http()) as client:
                self.assertEqual(client.post("/predict", PAYLOAD).status, 429)
            for stream in streams:
                connection.reset(stream)
            wait_until(lambda: self.is_served(server), "the places are free again")

    def is_served(self, server):
        with contextlib.closing(server.http()) as client:
            return client.post("/predict", PAYLOAD).status == 200

    def test_a_flood_of_resets_costs_little(self):
        """However it ends: by us, who close the connection when we see them; by gRPC, which reads no more while its
        answers are not read; or with all of them taken, each reset before its call was ours to see."""
        with Server() as server:
            server.alive_and_correct()
            before = server.memory().peak
            with http2.Connection(server, timeout=2) as connection:
                for _ in range(100_000):
                    connection.reset(connection.call(SERVICE.encode() + b"PredictDuplex"))
                    if connection.closed or connection.stalled:
                        break
                server.alive_and_correct()
            if not SANITIZER:
                self.assertLess(server.memory().peak - before, 128 * MIB)

    def test_a_client_that_cancels_hundreds_of_calls_loses_its_connection(self):
        with Server() as server, http2.Connection(server) as connection:
            streams = [connection.call(SERVICE.encode() + b"PredictDuplex") for _ in range(300)]
            with contextlib.closing(server.http()) as client:
                client.predict_raw(TWIN)
            for stream in streams:
                connection.reset(stream)
            connection.read_until(lambda: False)
            self.assertTrue(connection.closed)
            server.wait_for_line("calls before their first message")
            server.alive_and_correct()

    def test_the_connection_cap_counts_both_protocols(self):
        with Server("--max-connections", "4") as server:
            with contextlib.ExitStack() as stack:
                for _ in range(2):
                    client = stack.enter_context(contextlib.closing(server.grpc()))
                    client.predict("unary", "", [TWIN])
                    http = stack.enter_context(contextlib.closing(server.http()))
                    http.predict_raw(TWIN)
                with server.socket() as surplus, contextlib.suppress(ConnectionResetError):
                    self.assertEqual(surplus.recv(1), b"")
            wait_until(lambda: self.is_served_or_closed(server), "places are free again")
            wait_until(lambda: self.two_at_once(server), "places are free again")

    def two_at_once(self, server):
        try:
            with contextlib.closing(server.http()) as first, contextlib.closing(server.http()) as second:
                return first.predict_raw(TWIN) == 0 and second.predict_raw(TWIN) == 0
        except (ConnectionError, AssertionError):
            return False

    def is_served_or_closed(self, server):
        try:
            return self.is_served(server)
        except ConnectionError:
            return False


OPEN = http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0)
CALL = http2.request(SERVICE.encode() + b"PredictDuplex")
DECLARED = http2.message(part(1, shaped(1 << 30, dtype=pb.DATA_TYPE_INT8).SerializeToString()))


def declare_and_reset(stream):
    return (http2.frame(http2.HEADERS, 4, stream, CALL) + http2.frame(http2.DATA, 0, stream, DECLARED) +
            http2.frame(http2.RST_STREAM, 0, stream, b"\0\0\0\x08"))


class Frames(harness.ServerTestCase):
    """Bytes behind the preface that are no decent HTTP/2."""

    CASES = [
        ("the preface and nothing", http2.PREFACE),
        ("the preface twice", http2.PREFACE * 2),
        ("garbage", http2.PREFACE + bytes(range(256)) * 64),
        ("a frame of 16 MB", OPEN + b"\xff\xff\xff\0\0\0\0\0\1" + bytes(100_000)),
        ("data on no stream", OPEN + http2.frame(http2.DATA, 0, 0, b"1234")),
        ("data on a closed stream", OPEN + http2.frame(http2.DATA, 0, 1, b"1234")),
        ("an even stream", OPEN + http2.frame(http2.HEADERS, 4, 2, CALL)),
        ("streams that go back", OPEN + http2.frame(http2.HEADERS, 4, 5, CALL) + http2.frame(http2.HEADERS, 4, 3, CALL)),
        ("a window of 2^31", OPEN + http2.frame(http2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 3),
        ("a window of nothing", OPEN + http2.frame(http2.WINDOW_UPDATE, 0, 0, bytes(4))),
        ("settings of 5 bytes", OPEN + http2.frame(http2.SETTINGS, 0, 0, b"12345")),
        ("a frame size of 1", OPEN + http2.frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 5, 1))),
        ("100,000 settings", OPEN + http2.frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 3, 100)) * 100_000),
        ("100,000 pings", OPEN + http2.frame(http2.PING, 0, 0, b"12345678") * 100_000),
        ("100,000 empty data frames", OPEN + http2.frame(http2.HEADERS, 4, 1, CALL) +
         http2.frame(http2.DATA, 0, 1) * 100_000),
        ("100,000 empty continuations", OPEN + http2.frame(http2.HEADERS, 0, 1, CALL) +
         http2.frame(http2.CONTINUATION, 0, 1) * 100_000),
        ("a continuation of nothing", OPEN + http2.frame(http2.CONTINUATION, 4, 1, CALL)),
        ("a header block that is none", OPEN + http2.frame(http2.HEADERS, 4, 1, b"\xff" * 1000)),
        ("a table of 1 GB", OPEN + http2.frame(http2.HEADERS, 4, 1, b"\x3f\xe1\xff\xff\xff\x03" + CALL)),
        ("a literal longer than the frame", OPEN + http2.frame(http2.HEADERS, 4, 1, b"\x00\x7f\xff\xff\x0f")),
        ("no path", OPEN + http2.frame(http2.HEADERS, 5, 1, http2.field(b":method", b"POST"))),
        ("a message of 4 GB", OPEN + http2.frame(http2.HEADERS, 4, 1, CALL) +
         http2.frame(http2.DATA, 0, 1, b"\0\xff\xff\xff\xff" + bytes(1000))),
        ("a message flag of 7", OPEN + http2.frame(http2.HEADERS, 4, 1, CALL) +
         http2.frame(http2.DATA, 1, 1, b"\7\0\0\0\1a")),
        ("half a message and an end", OPEN + http2.frame(http2.HEADERS, 4, 1, CALL) +
         http2.frame(http2.DATA, 1, 1, b"\0\0\0\0\x09abc")),
        ("declarations and resets", OPEN + b"".join(map(declare_and_reset, range(1, 101, 2)))),
    ]

    def test_each(self):
        for name, data in self.CASES:
            with self.subTest(case=name):
                self.throw(data)
                self.server.alive_and_correct()

    @unittest.skipIf(SANITIZER, "a sanitizer keeps freed memory")
    def test_memory_stays_bounded_with_repeats(self):
        """The heap keeps what the worst of them took at once, a flood of pings that nobody reads the answers of."""
        for _ in range(6):
            self.throw_all()
        peak = self.server.memory().peak
        print(f"peak memory of {6 * len(self.CASES)} connections of bad frames: {peak / MIB:.0f} MiB", flush=True)
        self.assertLess(peak, 256 * MIB)

    def throw_all(self):
        for _, data in self.CASES:
            self.throw(data)
        self.server.alive_and_correct()

    def throw(self, data):
        """Sends as far as the server reads; what comes back is not looked at."""
        with self.server.socket() as connection:
            connection.settimeout(2 * PATIENCE)
            with contextlib.suppress(ConnectionError, TimeoutError):
                connection.sendall(data)


VANISHING_CLIENT = """
import harness
client = harness.GrpcClient({address!r})
stream = harness.OpenStream(client)
stream.send(header=harness.header_of("row_mean_std", [harness.image()]))
for _ in range(15):
    stream.send(payload=bytes(harness.MIB))
stream.answer()
"""


class Vanishing(harness.ServerTestCase):
    OPTIONS = ("--memory-limit", "40MB", "--stall-timeout", "60", "--trim-after", "0.05")

    def test_a_client_that_is_killed_in_the_middle_gives_its_memory_back(self):
        for address in (self.server.tcp, self.server.unix):
            with self.subTest(address=address):
                wait_until(lambda: self.server.memory().shmem < MIB, "unused memory is given back")
                client = subprocess.Popen([sys.executable, "-c", VANISHING_CLIENT.format(address=address)],
                                          cwd=harness.os.path.dirname(__file__) or ".")
                try:
                    wait_until(lambda: self.server.memory().shmem > 14 * MIB, "half of the image arrives", 20)
                finally:
                    client.send_signal(signal.SIGKILL)
                    client.wait(10)
                watch = harness.Stopwatch()
                with contextlib.closing(self.server.grpc()) as other:
                    self.assertAlmostEqual(float(other.predict("stream", "row_mean_std", [image()])[0]),
                                           harness.IMAGE_ANSWER, delta=1e-6)
                self.assertLess(watch.seconds(), 1 * PATIENCE)

    def test_calls_that_are_cancelled_at_any_point_leave_nothing(self):
        with contextlib.closing(self.server.grpc()) as client:
            for pieces in (None, 0, 1, 5, 28):
                for _ in range(5):
                    stream = OpenStream(client)
                    if pieces is not None:
                        stream.send(header=header_of("row_mean_std", [image()]))
                        for _ in range(pieces):
                            stream.send(payload=bytes(MIB))
                    stream.cancel()
            watch = harness.Stopwatch()
            self.assertAlmostEqual(float(client.predict("stream", "row_mean_std", [image()])[0]),
                                   harness.IMAGE_ANSWER, delta=1e-6)
            self.assertLess(watch.seconds(), 1 * PATIENCE)

    def test_a_client_that_does_not_read_its_answer_loses_it(self):
        with Server("--stall-timeout", "1", "--memory-limit", "80MB") as server:
            header = shaped(60_000_000, dtype=pb.DATA_TYPE_INT8)
            with server.socket() as connection:
                self.first = http2.message(part(1, header.SerializeToString()))
                connection.sendall(OPEN + http2.frame(http2.HEADERS, 4, 1, CALL) +
                                   http2.frame(http2.DATA, 0, 1, self.first))
                self.upload_without_reading_answers(connection, 60_000_000)
                watch = harness.Stopwatch()
                with contextlib.closing(server.grpc()) as client:
                    self.assertAlmostEqual(float(client.predict("stream", "row_mean_std", [image()])[0]),
                                           harness.IMAGE_ANSWER, delta=1e-6)
                self.assertLess(watch.seconds(), 1 + 3 * PATIENCE)

    def upload_without_reading_answers(self, connection, size):
        """Uses up the server's windows, as far as they are, and never opens its own."""
        piece = http2.message(part(2, bytes(1_000_000)))
        data = memoryview(piece * (size // 1_000_000))
        self.initial_window = 65_535
        windows = {0: 65_535 - len(self.first), 1: 65_535 - len(self.first)}
        received = b""
        while data:
            room = min(min(windows.values()), 16_384, len(data))
            if room > 0:
                connection.sendall(http2.frame(http2.DATA, int(room == len(data)), 1, data[:room].tobytes()))
                data = data[room:]
                windows = {stream: left - room for stream, left in windows.items()}
                continue
            received = self.take_frames(connection, received + connection.recv(1 << 16), windows)

    def take_frames(self, connection, received, windows):
        while len(received) >= 9 and len(received) >= 9 + int.from_bytes(received[:3], "big"):
            size = int.from_bytes(received[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", received[3:9])
            content, received = received[9:9 + size], received[9 + size:]
            if kind == http2.WINDOW_UPDATE:
                windows[stream] += int.from_bytes(content, "big")
            elif kind == http2.SETTINGS and not flags:
                initial = dict(struct.iter_unpack(">HI", content)).get(http2.INITIAL_WINDOW_SIZE, self.initial_window)
                windows[1] += initial - self.initial_window
                self.initial_window = initial
                connection.sendall(http2.frame(http2.SETTINGS, http2.ACK, 0))
            elif kind == http2.PING and not flags:
                connection.sendall(http2.frame(http2.PING, http2.ACK, 0, content))
            elif kind in (http2.HEADERS, http2.RST_STREAM, http2.GOAWAY):
                self.fail(f"the upload was ended by a frame of kind {kind}: {content}")
        return received


@unittest.skipIf(harness.SANITIZER, "the sanitizer needs descriptors for its own checks")
class Descriptors(unittest.TestCase):
    """A server that has no descriptors left, because one client used them up."""

    def test_a_low_limit_lowers_the_cap_on_connections_and_says_so(self):
        wrapper = ["/bin/sh", "-c", 'ulimit -n 400; exec "$@"', "--"]
        with Server(wrapper=wrapper) as server:
            server.wait_for_line("ulimit -n")
            self.use_up_and_heal(server)

    def test_running_out_in_spite_of_the_cap(self):
        with Server() as server:
            server.alive_and_correct()
            limit = server.descriptors() + 12
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, limit))
            self.use_up_and_heal(server)

    def use_up_and_heal(self, server):
        with contextlib.ExitStack() as stack:
            for i in range(300):
                connection = stack.enter_context(server.socket())
                with contextlib.suppress(ConnectionError):
                    connection.sendall(OPEN if i % 2 else b"POST /predict HTTP/1.1\r\n")
            self.assertTrue(server.alive())
        watch = harness.Stopwatch()
        wait_until(lambda: self.is_served(server), "it heals", 5)
        print(f"healed from descriptor exhaustion in {watch.seconds():.2f} s", flush=True)
        wait_until(lambda: self.follows_the_rule(server), "it heals", 5)

    def is_served(self, server):
        try:
            with contextlib.closing(server.http()) as client:
                return client.predict_raw(TWIN) == 0
        except ConnectionError:
            return False

    def follows_the_rule(self, server):
        try:
            server.alive_and_correct()
            return True
        except (ConnectionError, grpc.RpcError):
            return False


if __name__ == "__main__":
    harness.run_tests()
