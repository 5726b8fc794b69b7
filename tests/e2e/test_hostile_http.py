"""What the network may send over HTTP, as a table; after each case the rule of the house, after all of them memory."""

import contextlib
import json
import re
import struct
import unittest

import numpy as np

import harness
from harness import MIB, PATIENCE, SANITIZER, Server, TWIN, wait_until

BODY = TWIN.tobytes()
HOST = b"Host: a\r\n"
POST = b"POST /predict HTTP/1.1\r\n" + HOST
SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"


def post(*fields, body=b""):
    return POST + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def chunked(data, *fields):
    return post(b"Transfer-Encoding: chunked", *fields, body=data)


def json_post(text):
    return post(b"Content-Type: application/json", b"Content-Length: %d" % len(text), body=text)


def npy_post(data):
    return post(b"Content-Type: application/x-npy", b"Content-Length: %d" % len(data), body=data)


def npy(text, version=b"\1\0", size=None, data=b""):
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(text) if size is None else size)
    return b"\x93NUMPY" + version + length + text + data


LITERAL = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n"
ONE_CHUNK = b"4\r\n" + BODY + b"\r\n"
ENDED = ONE_CHUNK + b"0\r\n\r\n"

# (case, bytes, expected status).  After each the connection is closed, so that what was smuggled is never answered.
CLOSING = [
    # Framing that two servers could understand in two ways.
    ("both length and chunked", post(b"Content-Length: 4", b"Transfer-Encoding: chunked", body=ENDED + SMUGGLED), 400),
    ("chunked and length", post(b"Transfer-Encoding: chunked", b"Content-Length: 4", body=ENDED + SMUGGLED), 400),
    ("two lengths that differ", post(b"Content-Length: 4", b"Content-Length: 5", body=BODY + SMUGGLED), 400),
    ("two lengths alike", post(b"Content-Length: 4", b"Content-Length: 4", body=BODY + SMUGGLED), 400),
    ("a list of lengths", post(b"Content-Length: 4, 4", body=BODY + SMUGGLED), 400),
    ("a signed length", post(b"Content-Length: +4", body=BODY + SMUGGLED), 400),
    ("a negative length", post(b"Content-Length: -4", body=BODY + SMUGGLED), 400),
    ("a hexadecimal length", post(b"Content-Length: 0x4", body=BODY + SMUGGLED), 400),
    ("a length with a fraction", post(b"Content-Length: 4.0", body=BODY + SMUGGLED), 400),
    ("an empty length", post(b"Content-Length:", body=BODY + SMUGGLED), 400),
    ("a length beyond 64 bits", post(b"Content-Length: 18446744073709551620", body=BODY + SMUGGLED), 400),
    ("a length beyond 63 bits", post(b"Content-Length: 9223372036854775808", body=BODY + SMUGGLED), 413),
    ("a length beyond the limit", post(b"Content-Length: 4611686018427387904", body=BODY), 413),
    ("xchunked", post(b"Transfer-Encoding: xchunked", body=ENDED + SMUGGLED), 501),
    ("chunked, identity", post(b"Transfer-Encoding: chunked, identity", body=ENDED + SMUGGLED), 501),
    ("identity, chunked", post(b"Transfer-Encoding: identity, chunked", body=ENDED + SMUGGLED), 501),
    ("gzip, chunked", post(b"Transfer-Encoding: gzip, chunked", body=ENDED + SMUGGLED), 501),
    ("quoted chunked", post(b'Transfer-Encoding: "chunked"', body=ENDED + SMUGGLED), 501),
    ("an empty encoding", post(b"Transfer-Encoding:", body=ENDED + SMUGGLED), 501),
    ("two encodings", post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=ENDED + SMUGGLED), 400),
    ("an encoding in HTTP/1.0", b"POST /predict HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + ENDED + SMUGGLED, 400),
    ("a blank before the colon", post(b"Content-Length : 4", body=BODY + SMUGGLED), 400),
    ("a blank in the name", post(b"Content Length: 4", body=BODY + SMUGGLED), 400),
    ("a folded line", post(b"X: a\r\n b", b"Content-Length: 4", body=BODY + SMUGGLED), 400),
    ("a folded encoding", post(b"Transfer-Encoding:\r\n chunked", body=ENDED + SMUGGLED), 400),
    ("a bare LF", b"POST /predict HTTP/1.1\nHost: a\nContent-Length: 4\r\n\r\n" + BODY + SMUGGLED, (400, 505)),
    ("a bare LF in the fields", b"POST /predict HTTP/1.1\r\nHost: a\nContent-Length: 4\r\n\r\n" + BODY + SMUGGLED, 400),
    ("a bare CR in a field", post(b"X: a\rContent-Length: 40", b"Content-Length: 4", body=BODY + SMUGGLED), 400),
    ("a NUL in a field", post(b"X: a\0b", b"Content-Length: 4", body=BODY + SMUGGLED), 400),
    ("two hosts", post(b"Host: b", b"Content-Length: 4", body=BODY + SMUGGLED), 400),
    ("no host", b"POST /predict HTTP/1.1\r\nContent-Length: 4\r\n\r\n" + BODY + SMUGGLED, 400),
    # The request line.
    ("HTTP/1.2", b"GET /healthz HTTP/1.2\r\n" + HOST + b"\r\n", 505),
    ("HTTP/2.0 without its preface", b"GET /healthz HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    ("HTTP/0.9", b"GET /healthz\r\n\r\n", 400),
    ("no request at all", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n", 400),
    ("a blank too many", b"GET  /healthz HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a control character in the target", b"GET /health\x01z HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a broken preface", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 505),
    ("a long target", b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
    ("an endless line", b"GET /" + b"a" * 100_000, 431),
    # The size of the header.
    ("a field of 20 kB", post(b"X: " + b"a" * 20_000, b"Content-Length: 4", body=BODY), 431),
    ("a hundred and more fields", post(*[b"X%d: a" % i for i in range(110)], b"Content-Length: 4", body=BODY), 431),
    ("an endless header", POST + b"X: a\r\n" * 100_000, 431),
    # Expectations.
    ("another expectation", post(b"Expect: 200-maybe", b"Content-Length: 4", body=BODY), 417),
    ("two expectations", post(b"Expect: 100-continue", b"Expect: 100-continue", b"Content-Length: 4"), 417),
    ("a list of expectations", post(b"Expect: 100-continue, x", b"Content-Length: 4"), 417),
    ("continue above the limit", post(b"Expect: 100-continue", b"Content-Length: 4000000000"), 413),
    ("continue for no model",
     b"POST /v1/models/none:predict HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n", 404),
    ("continue for a wrong size",
     b"POST /predict?shape=3 HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n", 400),
    # Chunks.
    ("a chunk size that is none", chunked(b"x\r\n"), 400),
    ("an empty chunk size", chunked(b"\r\n" + ENDED), 400),
    ("a negative chunk size", chunked(b"-4\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    ("a chunk size with 0x", chunked(b"0x4\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    ("a chunk size of 16 digits", chunked(b"fffffffffffffffff\r\n"), 400),
    ("a chunk size of many zeros", chunked(b"0" * 1000 + b"4\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    ("a chunk above the limit", chunked(b"fffffffff\r\n" + b"a" * (3 << 20)), 413),
    ("a chunk size and a bare LF", chunked(b"4\n" + BODY + b"\r\n0\r\n\r\n" + SMUGGLED), 400),
    ("data longer than its chunk", chunked(b"3\r\n" + BODY + b"\r\n0\r\n\r\n" + SMUGGLED), 400),
    ("data and a bare LF", chunked(b"4\r\n" + BODY + b"\n0\r\n\r\n" + SMUGGLED), 400),
    ("a long extension", chunked(b"4;" + b"a" * 5_000 + b"\r\n"), 400),
    ("an extension of 5 MB", chunked(b"4;" + b"a" * 5_000_000 + b"\r\n"), 400),
    ("an extension with a control character", chunked(b"4;a\x01\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    ("a trailer of 70 kB", chunked(ONE_CHUNK + b"0\r\nX: " + b"a" * 70_000 + b"\r\n\r\n"), 400),
    ("ten thousand trailers", chunked(ONE_CHUNK + b"0\r\n" + b"X: a\r\n" * 10_000 + b"\r\n"), 400),
    ("a trailer with a bare LF", chunked(ONE_CHUNK + b"0\r\nX: a\n\r\n" + SMUGGLED), 400),
    ("small chunks without end", chunked(b"1\r\n\0\r\n" * 1_100_000), (400, 413)),
    # Bodies.
    ("a body above the limit", post(b"Content-Length: 3000000", body=bytes(3_000_000)), 413),
    ("a chunked body above the limit", chunked(b"100000\r\n" + bytes(1 << 20) + b"\r\n" +
                                               b"200000\r\n" + bytes(2 << 20) + b"\r\n0\r\n\r\n"), 413),
]

# (case, bytes, expected status): refused, and the connection is closed or in order, with the next request answered.
STAYING = [
    ("no length at all", post(), 411),
    ("npy: nothing behind the magic", npy_post(b"\x93NUMPY"), 400),
    ("npy: version 9", npy_post(npy(LITERAL, b"\x09\0")), 400),
    ("npy: version 1.1", npy_post(npy(LITERAL, b"\1\1")), 400),
    ("npy: a header longer than the body", npy_post(npy(LITERAL, size=60_000)), 400),
    ("npy: a header of 4 GB", npy_post(npy(LITERAL, b"\2\0", size=0xFFFFFFFF)), 400),
    ("npy: a header of nothing", npy_post(npy(b"", size=0)), 400),
    ("npy: a header of Python",
     npy_post(npy(b"{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (1,)}\n")), 400),
    ("npy: a shape of sums", npy_post(npy(LITERAL.replace(b"(1,)", b"(1+0,)"), data=BODY)), 400),
    ("npy: a negative shape", npy_post(npy(LITERAL.replace(b"(1,)", b"(-1,)"), data=BODY)), 400),
    ("npy: a shape beyond 63 bits",
     npy_post(npy(LITERAL.replace(b"(1,)", b"(4611686018427387904, 4)"), data=BODY)), 400),
    ("npy: a product of zero beyond 63 bits",
     npy_post(npy(LITERAL.replace(b"(1,)", b"(0, 4611686018427387904, 4611686018427387904)"))), 400),
    ("npy: a thousand dimensions", npy_post(npy(LITERAL.replace(b"(1,)", b"(" + b"1," * 1000 + b")"), data=BODY)), 400),
    ("npy: brackets without end", npy_post(npy(LITERAL.replace(b"(1,)", b"(" * 5000))), 400),
    ("npy: twice the shape", npy_post(npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'shape': (1,)}\n",
                                          data=BODY)), 400),
    ("npy: objects", npy_post(npy(LITERAL.replace(b"<f4", b"|O"), data=BODY)), 400),
    ("npy: a type without end", npy_post(npy(LITERAL.replace(b"<f4", b"<f4" * 1000), data=BODY)), 400),
    ("npy: shorter than its shape", npy_post(npy(LITERAL, data=BODY[:3])), 400),
    ("npy: longer than its shape", npy_post(npy(LITERAL, data=BODY + b"1")), 400),
    ("JSON: 100,000 open brackets", json_post(b'{"inputs": ' + b"[" * 100_000), 400),
    ("JSON: 100,000 brackets, closed", json_post(b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"), 400),
    ("JSON: 100,000 objects", json_post(b'{"inputs": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}"), 400),
    ("JSON: deep parameters", json_post(b'{"signature_name": ' + b"[" * 5000 + b"]" * 5000 + b', "inputs": [[1]]}'), 400),
    ("JSON: seventeen dimensions", json_post(b'{"inputs": ' + b"[" * 17 + b"1" + b"]" * 17 + b"}"), 400),
    ("JSON: a million ragged rows", json_post(b'{"inputs": [[1,2]' + b",[1]" * 200_000 + b"]}"), 400),
    ("JSON: a shape that only starts so", json_post(b'{"inputs": [[' + b"1," * 100_000 + b"1]" + b",[]" * 1000 + b"]}"), 400),
    ("JSON: broken UTF-8", json_post(b'{"inputs": {"\xff\xfe": [[1]]}}'), 400),
    ("JSON: an overlong escape", json_post(b'{"inputs": {"\\ud800": [[1]]}}'), 400),
    ("JSON: a huge number", json_post(b'{"inputs": [[1e999]]}'), 400),
    ("JSON: a number of a million digits", json_post(b'{"inputs": [[' + b"1" * 1_000_000 + b"]]}"), 400),
    ("JSON: hexadecimal", json_post(b'{"inputs": [[0x10]]}'), 400),
    ("JSON: a trailing comma", json_post(b'{"inputs": [[1,]]}'), 400),
    ("JSON: twice the inputs", json_post(b'{"inputs": [[1]], "inputs": [[1]]}'), 400),
    ("JSON: inputs and instances", json_post(b'{"inputs": [[1]], "instances": [[1]]}'), 400),
    ("JSON: behind its end", json_post(b'{"inputs": [[1]]} x'), 400),
    ("JSON: null", json_post(b"null"), 400),
    ("JSON: nothing but blanks", json_post(b" " * 1_000_000), 400),
    ("JSON: NUL", json_post(b'{"inputs": [[1\0]]}'), 400),
]

# (case, bytes, the status of each answer): what is unusual and right.
ALLOWED = [
    ("a chunked body", chunked(ENDED), [200]),
    ("upper case", post(b"TRANSFER-ENCODING: CHUNKED", body=ENDED), [200]),
    ("an extension", chunked(b'4;name=value;other="x"\r\n' + BODY + b"\r\n0;last\r\n\r\n"), [200]),
    ("trailers, thrown away", chunked(ONE_CHUNK + b"0\r\nX: a\r\nContent-Length: 40\r\n\r\n"), [200]),
    ("chunks of one byte", chunked(b"".join(b"1\r\n%c\r\n" % c for c in BODY) + b"0\r\n\r\n"), [200]),
    ("pipelined requests", post(b"Content-Length: 4", body=BODY) * 3, [200, 200, 200]),
    ("pipelined chunked requests", chunked(ENDED) * 3, [200, 200, 200]),
    ("empty lines between requests", post(b"Content-Length: 4", body=BODY) + b"\r\n\r\n" +
     post(b"Content-Length: 4", body=BODY), [200, 200]),
    ("pipelined garbage", post(b"Content-Length: 4", body=BODY) + b"garbage\r\n\r\n", [200, 400]),
    ("a body that looks like a request", post(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED), [400]),
    ("a length with zeros", post(b"Content-Length: 0000000004", body=BODY), [200]),
    ("an absolute target", b"POST http://a/predict HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\n\r\n" + BODY, [200]),
    ("HTTP/1.0", b"POST /predict HTTP/1.0\r\nContent-Length: 4\r\n\r\n" + BODY, [200]),
    ("continue with the body at once", post(b"Expect: 100-continue", b"Content-Length: 4", body=BODY), [200]),
    ("an expectation in HTTP/1.0",
     b"POST /predict HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n" + BODY, [200]),
]


def converse(server, data, read_all):
    """Sends the bytes and reads: to the end, or until `read_all` finds enough.  (what came, whether it was closed)"""
    received = bytearray()
    with server.socket(timeout=20) as connection:
        closed = send_as_far_as_it_reads(connection, data, received)
        while not closed and not (read_all and read_all(received)):
            try:
                some = connection.recv(1 << 16)
            except ConnectionResetError:
                some = b""
            received += some
            closed = not some
    return bytes(received), closed


def send_as_far_as_it_reads(connection, data, received):
    """True when the server closed the connection before it had all."""
    view = memoryview(data)
    while view:
        try:
            view = view[connection.send(view[:1 << 16]):]
        except (BrokenPipeError, ConnectionResetError):
            with contextlib.suppress(ConnectionResetError):
                received += connection.recv(1 << 20)
            return True
    return False


def padded_post(size):
    """A good request of so many bytes."""
    lead = b"POST /predict HTTP/1.1\r\nHost:a\r\nContent-Length:4\r\nX:"
    return lead + b"a" * (size - len(lead) - 8) + b"\r\n\r\n" + BODY


def statuses(received):
    """The status of each whole answer."""
    found = []
    while b"\r\n\r\n" in received:
        head, _, rest = bytes(received).partition(b"\r\n\r\n")
        found.append(int(re.match(rb"HTTP/1\.1 (\d{3}) ", head).group(1)))
        length = re.search(rb"\ncontent-length: (\d+)", head, re.IGNORECASE)
        length = int(length.group(1)) if length else 0
        if len(rest) < length:
            return found[:-1]
        received = rest[length:]
    return found


class Table(harness.ServerTestCase):
    OPTIONS = ("--max-request-bytes", "2MB", "--header-timeout", "2", "--stall-timeout", "2", "--trim-after", "0.05")

    def check_error(self, name, received, expected):
        expected = expected if isinstance(expected, tuple) else (expected,)
        self.assertEqual(len(statuses(received)), 1, received[:500])
        self.assertIn(statuses(received)[0], expected, received[:500])
        head, _, body = received.partition(b"\r\n\r\n")
        self.assertIn("error", json.loads(body), name)
        self.assertNotIn(b"/smuggled", body)
        return head

    def test_what_must_close_the_connection(self):
        for name, data, expected in CLOSING:
            with self.subTest(case=name):
                received, closed = converse(self.server, data, None)
                self.assertTrue(closed)
                head = self.check_error(name, received, expected)
                self.assertIn(b"connection: close", head.lower())
                self.server.alive_and_correct()

    def test_what_is_refused_and_keeps_the_connection(self):
        good = post(b"Content-Length: 4", body=BODY)
        for name, data, expected in STAYING:
            with self.subTest(case=name):
                received, _ = converse(self.server, data + good, lambda got: len(statuses(got)) == 2)
                found = statuses(received)
                self.assertEqual(found[0], expected, received[:500])
                if len(found) == 1:  # Refused before the body was here: then closed.
                    self.assertIn(b"connection: close", received.lower())
                else:
                    self.assertEqual(found[1], 200, received[:500])
                self.server.alive_and_correct()

    def test_what_is_unusual_and_right(self):
        for name, data, expected in ALLOWED:
            with self.subTest(case=name):
                received, _ = converse(self.server, data, lambda got: len(statuses(got)) == len(expected))
                self.assertEqual(statuses(received), expected, received[:500])
                self.server.alive_and_correct()

    def test_a_cut_anywhere_in_the_framing_changes_nothing(self):
        """The acceptor reads 64 bytes, sessions 16 kB at a time: a request before it moves the cut over the body."""
        head = b"POST /predict HTTP/1.1\r\nHost:a\r\nTransfer-Encoding:chunked\r\n\r\n"
        body = b"02\r\n" + BODY[:2] + b"\r\n2;x=y\r\n" + BODY[2:] + b"\r\n0\r\nX: y\r\n\r\n"
        for cut in range(len(body)):
            with self.subTest(cut=cut):
                size = 64 + (16 << 10) - len(head) - cut
                first = padded_post(size)
                received, _ = converse(self.server, first + head + body, lambda got: len(statuses(got)) == 2)
                self.assertEqual(statuses(received), [200, 200], received[:500])

    @unittest.skipIf(SANITIZER, "a sanitizer keeps freed memory")
    def test_memory_does_not_grow_with_repeats(self):
        cases = [case for case in CLOSING + STAYING if len(case[1]) < 200_000]
        for name, data, _ in cases * 2:
            converse(self.server, data, lambda got: statuses(got))
        before = self.settled()
        for _ in range(20):
            for name, data, _ in cases:
                converse(self.server, data, lambda got: statuses(got))
        growth = self.settled() - before
        print(f"memory after {20 * len(cases)} hostile requests: {growth / MIB:+.2f} MiB", flush=True)
        self.assertLess(growth, 2 * MIB)

    def settled(self):
        wait_until(lambda: self.server.memory().shmem < MIB, "unused memory is given back")
        return self.server.held()


class ManyChunks(harness.ServerTestCase):
    def test_a_hundred_thousand_chunks_of_one_byte_are_cheap(self):
        data = np.arange(100_000, dtype=np.uint8).tobytes()
        request = (b"POST /v1/models/identity:predict?shape=100000&dtype=uint8 HTTP/1.1\r\n" + HOST +
                   b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"1\r\n%c\r\n" % c for c in data) + b"0\r\n\r\n")
        used = self.server.cpu_seconds()
        received, _ = converse(self.server, request, lambda got: len(got) >= 100_000 and got.endswith(data[-1000:]))
        self.assertEqual(statuses(received), [200])
        self.assertTrue(received.endswith(data))
        self.assertLess(self.server.cpu_seconds() - used, 1 * PATIENCE)


class Slow(harness.ServerTestCase):
    OPTIONS = ("--header-timeout", "0.5", "--stall-timeout", "0.5", "--idle-timeout", "0.5")

    def wait_for_end(self, connection):
        watch = harness.Stopwatch()
        received = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(1 << 16):
                received += data
        self.assertLess(watch.seconds(), 4 * PATIENCE)
        return bytes(received)

    # (case, what is sent before the silence, the status that ends it)
    SILENT = [
        ("nothing", b"", []),
        ("one byte", b"P", []),
        ("half a preface", b"PRI * HTTP/2.0\r\n", []),
        ("half a request line", b"POST /pre", [408]),
        ("half a header", POST + b"Content-Le", [408]),
        ("a header and no body", post(b"Content-Length: 4"), [408]),
        ("a header that is told to continue", post(b"Expect: 100-continue", b"Content-Length: 4"), [100, 408]),
        ("half a body", post(b"Content-Length: 4", body=b"12"), [408]),
        ("half a chunk size", chunked(b"1"), [408]),
        ("half a chunk", chunked(b"4\r\n12"), [408]),
        ("no last chunk", chunked(ONE_CHUNK), [408]),
        ("half a trailer", chunked(ONE_CHUNK + b"0\r\nX: "), [408]),
        ("half of the second request", post(b"Content-Length: 4", body=BODY) + POST, [200, 408]),
        ("nothing after a request", post(b"Content-Length: 4", body=BODY), [200]),
    ]

    def test_silence_is_ended(self):
        for name, data, expected in self.SILENT:
            with self.subTest(case=name), self.server.socket() as connection:
                connection.sendall(data)
                self.assertEqual(statuses(self.wait_for_end(connection)), expected)
                self.server.alive_and_correct()

    def test_a_byte_now_and_then_is_ended_too(self):
        for name, data in (("header", b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
                           ("body", b"Content-Length: 1000000\r\n\r\n" + bytes(60)),
                           ("chunks", b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 10)):
            with self.subTest(case=name), self.server.socket() as connection:
                connection.sendall(POST)
                connection.settimeout(0.05)
                received = self.drip(connection, data)
                self.assertEqual(statuses(received), [408], received)

    def drip(self, connection, data):
        """A byte every 50 ms until the server answers."""
        received = b""
        for byte in data:
            try:
                connection.sendall(bytes([byte]))
                received += connection.recv(1 << 16)
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
            break
        return received

    def test_two_hundred_silent_connections_leave_room_for_others(self):
        with contextlib.ExitStack() as stack:
            for i in range(200):
                connection = stack.enter_context(self.server.socket())
                connection.sendall(post(b"Content-Length: 30000000", body=bytes(10)) if i % 2 else POST)
            self.server.alive_and_correct()


class Leaving(harness.ServerTestCase):
    """Clients that close at any moment."""

    OPTIONS = ("--trim-after", "0.05")

    # (case, what is sent before the client leaves)
    CASES = [
        ("at once", b""),
        ("in the header", POST),
        ("before the body", post(b"Content-Length: 30000000")),
        ("in the body", post(b"Content-Length: 30000000", body=bytes(1_000_000))),
        ("in a chunk", chunked(b"100000\r\n" + bytes(1000))),
        ("before the answer", post(b"Content-Length: 4", body=BODY)),
        ("in a large answer", b"POST /v1/models/identity:predict?dtype=uint8 HTTP/1.1\r\n" + HOST +
         b"Content-Length: 8000000\r\n\r\n" + bytes(8_000_000)),
        ("after half a pipeline", post(b"Content-Length: 4", body=BODY) * 50 + POST),
    ]

    def test_each_leaves_nothing_behind(self):
        before = self.server.descriptors()
        for name, data in self.CASES:
            for reset in (False, True):
                with self.subTest(case=name, reset=reset):
                    for _ in range(10):
                        self.leave(data, reset)
                    self.server.alive_and_correct()
        wait_until(lambda: self.server.descriptors() <= before + 5, "descriptors are closed")

    def leave(self, data, reset):
        with self.server.socket() as connection:
            connection.sendall(data)
            if reset:  # An RST instead of a FIN.
                connection.setsockopt(harness.socket.SOL_SOCKET, harness.socket.SO_LINGER, struct.pack("ii", 1, 0))


class Expectation(harness.ServerTestCase):
    def test_continue_comes_before_the_body_and_once(self):
        with self.server.socket() as connection:
            connection.sendall(post(b"Expect: 100-continue", b"Content-Length: 4"))
            self.assertEqual(connection.recv(1000), b"HTTP/1.1 100 Continue\r\n\r\n")
            connection.sendall(BODY)
            self.assertEqual(statuses(connection.recv(1 << 16)), [200])


class ConnectionCap(unittest.TestCase):
    def test_one_more_is_closed_at_once_and_a_place_is_free_again_when_one_leaves(self):
        with Server("--max-connections", "8") as server:
            with contextlib.ExitStack() as stack:
                connections = [stack.enter_context(server.socket()) for _ in range(8)]
                for connection in connections:
                    connection.sendall(post(b"Content-Length: 4", body=BODY))
                    self.assertEqual(statuses(connection.recv(1 << 16)), [200])
                with server.socket() as surplus, contextlib.suppress(ConnectionResetError):
                    self.assertEqual(surplus.recv(1), b"")
                connections[0].close()
                wait_until(lambda: self.is_served(server), "the place is free again")
            wait_until(lambda: self.is_served(server), "all places are free again")
            server.alive_and_correct()

    def is_served(self, server):
        with server.socket() as connection:
            try:
                connection.sendall(post(b"Content-Length: 4", b"Connection: close", body=BODY))
                return statuses(connection.recv(1 << 16)) == [200]
            except (ConnectionResetError, BrokenPipeError):
                return False


if __name__ == "__main__":
    harness.run_tests()
