"""Bad input: the same canonical code, and a message that says what came and what was expected, by every way in."""

import contextlib
import json
import unittest

import grpc
import numpy as np

import harness
from harness import GRPC_WAYS, MIB, OpenStream, SECRETS, Server, TWIN, error_of, header_of, image, pb, wait_until

RAW = {"Content-Type": "application/octet-stream"}
JSON = {"Content-Type": "application/json"}

HTTP_STATUS = {"NOT_FOUND": 404, "INVALID_ARGUMENT": 400, "RESOURCE_EXHAUSTED": 429, "TOO_LARGE": 413,
               "DEADLINE_EXCEEDED": 504, "TOO_SLOW": 408, "UNAVAILABLE": 503}
CODE = {"TOO_LARGE": "RESOURCE_EXHAUSTED", "TOO_SLOW": "DEADLINE_EXCEEDED"}

FLOATS = np.zeros((2, 3), np.float32)


def declared(*tensors, model="row_mean_std", **fields):
    """A header of (name, type, shape)."""
    return pb.RequestHeader(model=model, tensors=[
        pb.Tensor(name=name, data_type=harness.DTYPES[dtype], shape=shape) for name, dtype, shape in tensors], **fields)


def query(model="row_mean_std", version=None, **parameters):
    text = "&".join(f"{key}={value}" for key, value in parameters.items())
    return f"/v1/models/{model}{f'/versions/{version}' if version else ''}:predict?{text}"


class Case:
    """One mistake.  `http` is (path, headers, body); `words` must stand in every message."""

    def __init__(self, name, code, words, header, payload, http):
        self.name, self.code, self.words = name, code, words
        self.header, self.payload, self.http = header, payload, http


SIX = FLOATS.tobytes()

CASES = [
    Case("unknown model", "NOT_FOUND", ["unheard_of"],
         declared(("image", "float32", (2, 3)), model="unheard_of"), SIX,
         (query("unheard_of", shape="2,3"), RAW, SIX)),
    Case("unknown version", "NOT_FOUND", ["row_mean_std", "99"],
         declared(("image", "float32", (2, 3)), version="99"), SIX,
         (query(version="99", shape="2,3"), RAW, SIX)),
    Case("wrong name", "INVALID_ARGUMENT", ["picture", "image"],
         declared(("picture", "float32", (2, 3))), SIX,
         (query(shape="2,3", name="picture"), RAW, SIX)),
    Case("wrong type", "INVALID_ARGUMENT", ["image", "int32", "float32"],
         declared(("image", "int32", (2, 3))), SIX,
         (query(shape="2,3", dtype="int32"), RAW, SIX)),
    Case("wrong rank", "INVALID_ARGUMENT", ["[2,3,1]", "[-1,-1]"],
         declared(("image", "float32", (2, 3, 1))), SIX,
         (query(shape="2,3,1"), RAW, SIX)),
    Case("too few bytes", "INVALID_ARGUMENT", ["20", "24"],
         declared(("image", "float32", (2, 3))), SIX[:20],
         (query(shape="2,3", dtype="float32"), RAW, SIX[:20])),
    Case("too many bytes", "INVALID_ARGUMENT", ["24"],
         declared(("image", "float32", (2, 3))), SIX + b"1234",
         (query(shape="2,3", dtype="float32"), RAW, SIX + b"1234")),
    Case("missing tensor", "INVALID_ARGUMENT", ["image"],
         declared(), b"",
         (query(), JSON, b'{"inputs": {}}')),
    Case("extra tensor", "INVALID_ARGUMENT", ["image"],
         declared(("image", "float32", (2, 3)), ("mask", "float32", (2, 3))), SIX + SIX,
         (query(), JSON, b'{"inputs": {"image": [[1, 2]], "mask": [[1, 2]]}}')),
    Case("too large", "TOO_LARGE", ["1000000"],
         declared(("image", "float32", (500_001, 1))), bytes(2_000_004),
         (query(shape="500001,1"), RAW, bytes(2_000_004))),
    Case("empty image", "INVALID_ARGUMENT", ["[0,3]"],
         declared(("image", "float32", (0, 3))), b"",
         (query(shape="0,3", dtype="float32"), RAW, b"")),
]


class EveryWay(harness.ServerTestCase):
    OPTIONS = ("--max-request-bytes", "1MB")

    def check_message(self, message, words):
        for word in words:
            self.assertIn(word, message)
        self.assertNotRegex(message, SECRETS)
        self.assertGreater(len(message), 10)

    def test_over_grpc(self):
        with contextlib.closing(self.server.grpc()) as client:
            for case in CASES:
                for way in GRPC_WAYS:
                    with self.subTest(case=case.name, way=way):
                        with self.assertRaises(grpc.RpcError) as caught:
                            client.send(way, case.header, case.payload)
                        self.assertEqual(caught.exception.code().name, CODE.get(case.code, case.code),
                                         caught.exception.details())
                        self.check_message(caught.exception.details(), case.words)
                        self.server.alive_and_correct()

    def test_over_http(self):
        for case in CASES:
            path, headers, body = case.http
            with self.subTest(case=case.name), contextlib.closing(self.server.http()) as client:
                status, code, message = error_of(client.post(path, body, headers))
                self.assertEqual((status, code), (HTTP_STATUS[case.code], CODE.get(case.code, case.code)), message)
                self.check_message(message, case.words)
                self.server.alive_and_correct()

    def test_get_model_of_an_unknown_model(self):
        with contextlib.closing(self.server.grpc()) as client, self.assertRaises(grpc.RpcError) as caught:
            client.stub.GetModel(pb.GetModelRequest(name="unheard_of"), timeout=10)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)
        self.assertIn("unheard_of", caught.exception.details())
        with contextlib.closing(self.server.http()) as client:
            status, code, message = error_of(client.get("/v1/models/unheard_of"))
        self.assertEqual((status, code), (404, "NOT_FOUND"))
        self.assertIn("unheard_of", message)

    def test_what_the_client_sent_comes_back_cut_and_escaped(self):
        name = "evil\n\x1b[31m\x00" + "x" * 10_000
        with contextlib.closing(self.server.grpc()) as client, self.assertRaises(grpc.RpcError) as caught:
            client.send("unary", declared((name, "float32", (2, 3))), SIX)
        message = caught.exception.details()
        self.assertIn("evil", message)
        self.assertLess(len(message), 2000)
        self.assertTrue(message.isprintable(), message)

    def test_a_unary_message_above_its_limit_is_too_large_and_the_stream_is_not(self):
        with Server("--max-unary-bytes", "2MB") as server, contextlib.closing(server.grpc()) as client:
            array = np.zeros((1, 1_000_000), np.float32)
            with self.assertRaises(grpc.RpcError) as caught:
                client.predict("unary", "row_mean_std", [array])
            self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertEqual(float(client.predict("stream", "row_mean_std", [array])[0]), 0)
            with self.assertRaises(grpc.RpcError) as caught:
                client.predict("stream", "identity", [array])
            self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertIn("PredictDuplex", caught.exception.details())
            np.testing.assert_array_equal(client.predict("duplex", "identity", [array])[0], array)


NPY_HEADER = "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }"


def npy(descr="<f4", fortran="False", shape="(2, 3)", data=SIX):
    text = (NPY_HEADER % (descr, fortran, shape)).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


class OverHttpOnly(harness.ServerTestCase):
    """(name, path, headers, body, status, code, words)."""

    NPY = {"Content-Type": "application/x-npy"}
    CASES = [
        ("no such page", "/predictions", RAW, b"1234", 404, "NOT_FOUND", ["/predictions", "/predict"]),
        ("bare bytes that fit no image", "/predict", RAW, b"12345", 400, "INVALID_ARGUMENT", ["5 bytes", "2500"]),
        ("no type for a model of any", query("identity", shape="2,3"), RAW, SIX, 400, "INVALID_ARGUMENT", ["dtype"]),
        ("no such data type", query(shape="2,3", dtype="float33"), RAW, SIX, 400, "INVALID_ARGUMENT", ["float33"]),
        ("no shape", query(shape="2,x", dtype="float32"), RAW, SIX, 400, "INVALID_ARGUMENT", ["2,x"]),
        ("negative shape", query(shape="-2,-3", dtype="float32"), RAW, SIX, 400, "INVALID_ARGUMENT", ["-2,-3"]),
        ("huge shape", query(shape="4294967296,4294967296", dtype="float32"), RAW, SIX, 400, "INVALID_ARGUMENT",
         ["4294967296"]),
        ("a parameter twice", query() + "shape=2,3&shape=3,2", RAW, SIX, 400, "INVALID_ARGUMENT", ["shape"]),
        ("a broken escape", query() + "shape=%2", RAW, SIX, 400, "INVALID_ARGUMENT", ["%"]),
        ("a type of body that nobody reads", "/predict", {"Content-Type": "text/html"}, SIX, 415, "INVALID_ARGUMENT",
         ["text/html", "application/json"]),
        ("a form that nobody writes", "/predict", {**RAW, "Accept": "image/png"}, TWIN.tobytes(), 406,
         "INVALID_ARGUMENT", ["image/png", "application/json"]),
        ("a compressed body", "/predict", {**RAW, "Content-Encoding": "gzip"}, SIX, 415, "INVALID_ARGUMENT", ["gzip"]),
        ("npy of another type", "/predict", NPY, npy("<f8", data=SIX + SIX), 400, "INVALID_ARGUMENT",
         ["float64", "float32"]),
        ("npy big-endian", "/predict", NPY, npy(">f4"), 400, "INVALID_ARGUMENT", ["big-endian", "astype"]),
        ("npy in Fortran order", "/predict", NPY, npy(fortran="True"), 400, "INVALID_ARGUMENT",
         ["Fortran", "ascontiguousarray"]),
        ("npy of objects", "/predict", NPY, npy("|O"), 400, "INVALID_ARGUMENT", ["O"]),
        ("npy of strings", "/predict", NPY, npy("<U6"), 400, "INVALID_ARGUMENT", ["U6", "astype"]),
        ("npy too short", "/predict", NPY, npy(data=SIX[:-1]), 400, "INVALID_ARGUMENT", ["23", "24"]),
        ("npy too long", "/predict", NPY, npy(data=SIX + b"1"), 400, "INVALID_ARGUMENT", ["25", "24"]),
        ("no npy", "/predict", NPY, b"PK\3\4 this is a .npz file", 400, "INVALID_ARGUMENT", ["NUMPY"]),
        ("empty JSON", "/predict", JSON, b"", 400, "INVALID_ARGUMENT", ["JSON"]),
        ("broken JSON", "/predict", JSON, b'{"inputs": [1, 2', 400, "INVALID_ARGUMENT", ["JSON"]),
        ("JSON without inputs", "/predict", JSON, b'{"signature_name": "x"}', 400, "INVALID_ARGUMENT",
         ["inputs", "instances"]),
        ("ragged JSON", "/predict", JSON, b'{"inputs": [[1, 2], [3]]}', 400, "INVALID_ARGUMENT", ["[1]", "1", "2"]),
        ("JSON of text", "/predict", JSON, b'{"inputs": [["a"]]}', 400, "INVALID_ARGUMENT", ["inputs[0][0]"]),
        ("JSON of a wrong rank", "/predict", JSON, b'{"inputs": [1, 2]}', 400, "INVALID_ARGUMENT", ["[2]"]),
        ("JSON of a wrong name", "/predict", JSON, b'{"inputs": {"picture": [[1]]}}', 400, "INVALID_ARGUMENT",
         ["picture", "image"]),
    ]

    def test_each(self):
        for name, path, headers, body, status, code, words in self.CASES:
            with self.subTest(case=name), contextlib.closing(self.server.http()) as client:
                answer = client.post(path, body, headers)
                got_status, got_code, message = error_of(answer)
                self.assertEqual((got_status, got_code), (status, code), message)
                for word in words:
                    self.assertIn(word, message)
                self.assertNotRegex(message.replace("/predictions", "").replace("/predict", ""), SECRETS)
                self.server.alive_and_correct()

    def test_wrong_methods_name_the_right_ones(self):
        for method, path, allowed in (("GET", "/predict", "POST"), ("DELETE", "/predict", "POST"),
                                      ("POST", "/healthz", "GET, HEAD"), ("PUT", "/v1/models", "GET, HEAD")):
            with self.subTest(method=method, path=path), contextlib.closing(self.server.http()) as client:
                answer = client.request(method, path)
                self.assertEqual(answer.status, 405)
                self.assertEqual(answer.headers["Allow"], allowed)
                self.assertIn(method, error_of(answer)[2])

    def test_a_missing_length_is_411(self):
        with contextlib.closing(self.server.http()) as client:
            client.connection.putrequest("POST", "/predict")
            client.connection.endheaders()
            response = client.connection.getresponse()
            self.assertEqual(response.status, 411)
            self.assertIn("Content-Length", json.loads(response.read())["error"])

    def test_npy_that_must_be_taken(self):
        """Fortran order of one dimension is no order; so is big-endian of one byte."""
        with contextlib.closing(self.server.http()) as client:
            for body in (npy(fortran="True", shape="(6, 1)"), npy("=f4"), npy()):
                answer = client.post("/predict", body, self.NPY)
                self.assertEqual(answer.status, 200, answer.body)
            answer = client.post("/v1/models/identity:predict", npy(">i1", shape="(24,)"), self.NPY)
            self.assertEqual(answer.status, 200, answer.body)

    def test_an_error_before_the_body_was_read_closes_and_one_after_it_keeps_the_connection(self):
        with contextlib.closing(self.server.http()) as client:
            self.assertEqual(client.post("/predict", b'{"inputs": 1', JSON).status, 400)
            self.assertEqual(float(client.predict_raw(TWIN)), 0.0)
            answer = client.post("/v1/models/unheard_of:predict", bytes(100_000), RAW)
            self.assertEqual(answer.status, 404)
            self.assertEqual(answer.headers["Connection"], "close")


class TooSlow(harness.ServerTestCase):
    OPTIONS = ("--stall-timeout", "0.5")

    def test_over_grpc(self):
        with contextlib.closing(self.server.grpc()) as client:
            stream = OpenStream(client)
            stream.send(header=header_of("row_mean_std", [image()]))
            stream.send(payload=bytes(100))
            error = stream.error()
        self.assertEqual(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertRegex(error.details(), r"100 bytes in 500ms; at least 512")

    def test_a_stream_without_a_header_over_grpc(self):
        with contextlib.closing(self.server.grpc()) as client:
            error = OpenStream(client).error()
        self.assertEqual(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertIn("header", error.details())

    def test_over_http(self):
        with self.server.socket() as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n" + bytes(100))
            answer = connection.recv(10_000)
        self.assertTrue(answer.startswith(b"HTTP/1.1 408 "), answer)
        self.assertIn(b'"DEADLINE_EXCEEDED"', answer)
        self.assertIn(b"100 bytes in 500ms; at least 512", answer)

    def test_a_client_that_is_slow_but_not_too_slow_is_served(self):
        """Six windows of half a second, each with enough in it."""
        array = np.zeros((3, 1000), np.float32)
        with contextlib.closing(self.server.grpc()) as client:
            stream = OpenStream(client)
            stream.send(header=header_of("row_mean_std", [array]))
            data = array.tobytes()
            watch = harness.Stopwatch()
            for start in range(0, len(data), 2000):
                stream.send(payload=data[start:start + 2000])
                wait_until(lambda due=0.25 * (1 + start // 2000): watch.seconds() > due, "the next piece is due")
            stream.half_close()
            self.assertEqual(float(stream.answer()[0]), 0)


class Deadlines(harness.ServerTestCase):
    OPTIONS = ("--request-timeout", "1", "--stall-timeout", "60")

    def test_the_servers_own_over_grpc(self):
        with contextlib.closing(self.server.grpc()) as client:
            stream = OpenStream(client)
            stream.send(header=header_of("row_mean_std", [image()]))
            error = stream.error()
        self.assertEqual(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)

    def test_the_servers_own_over_http(self):
        with self.server.socket() as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n" + bytes(100))
            self.assertTrue(connection.recv(10_000).startswith(b"HTTP/1.1 408 "))

    def test_the_clients_own_over_grpc(self):
        with contextlib.closing(self.server.grpc()) as client:
            stream = OpenStream(client, timeout=0.3)
            stream.send(header=header_of("row_mean_std", [image()]))
            self.assertEqual(stream.error().code(), grpc.StatusCode.DEADLINE_EXCEEDED)


class Memory(harness.ServerTestCase):
    """A budget for one image: who holds it, who gets it next."""

    OPTIONS = ("--memory-limit", "40MB", "--admission-timeout", "1", "--stall-timeout", "60", "--trim-after", "0.05")

    def wait_for_none(self):
        wait_until(lambda: self.server.memory().shmem < MIB, "unused memory is given back")

    def wait_for_half(self):
        wait_until(lambda: self.server.memory().shmem >= 14 * MIB, "half of the image arrives")

    def hold(self, client):
        """A stream that was promised the memory, of which half is used."""
        self.wait_for_none()
        stream = OpenStream(client)
        stream.send(header=header_of("row_mean_std", [image()]))
        for _ in range(15):
            stream.send(payload=bytes(MIB))
        self.wait_for_half()
        return stream

    def assert_free_soon(self):
        """The next image is let in within a moment, far below the admission timeout."""
        watch = harness.Stopwatch()
        with contextlib.closing(self.server.grpc()) as client:
            answer = float(client.predict("stream", "row_mean_std", [image()])[0])
        self.assertAlmostEqual(answer, harness.IMAGE_ANSWER, delta=1e-6)
        self.assertLess(watch.seconds(), 0.8 * harness.PATIENCE)

    def test_exhausted_over_grpc_and_http(self):
        with contextlib.closing(self.server.grpc()) as holder, contextlib.closing(self.server.grpc()) as client:
            stream = self.hold(holder)
            for way in GRPC_WAYS:
                with self.subTest(way=way), self.assertRaises(grpc.RpcError) as caught:
                    client.predict(way, "row_mean_std", [image()])
                self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
                self.assertRegex(caught.exception.details(), "30000000 bytes .* try again later")
            with contextlib.closing(self.server.http()) as http_client:
                answer = http_client.post("/predict", image().tobytes(), RAW)
            status, code, message = error_of(answer)
            self.assertEqual((status, code), (429, "RESOURCE_EXHAUSTED"))
            self.assertRegex(message, "30000000 bytes .* try again later")
            self.assertTrue(answer.headers["Retry-After"])
            stream.cancel()
        self.assert_free_soon()

    def test_small_requests_are_served_while_a_large_one_holds_most(self):
        with contextlib.closing(self.server.grpc()) as holder:
            stream = self.hold(holder)
            self.server.alive_and_correct()
            stream.cancel()

    def test_larger_than_the_whole_budget_is_refused_at_once(self):
        with contextlib.closing(self.server.grpc()) as client:
            stream = OpenStream(client)
            watch = harness.Stopwatch()
            stream.send(header=declared(("image", "float32", (11_000_000, 1))))
            error = stream.error()
            self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertIn("44000000", error.details())
            self.assertLess(watch.seconds(), 0.8 * harness.PATIENCE)

    def test_a_waiting_request_is_let_in_when_memory_is_free(self):
        with Server("--memory-limit", "40MB", "--admission-timeout", "60") as server, \
                contextlib.closing(server.grpc()) as holder, contextlib.closing(server.grpc()) as client:
            first = OpenStream(holder)
            first.send(header=header_of("row_mean_std", [image()]))
            first.send(payload=bytes(MIB))
            wait_until(lambda: server.memory().shmem >= MIB, "the first piece arrives")
            second = OpenStream(client)
            second.send(header=header_of("row_mean_std", [image()]))
            for start in range(0, image().nbytes, MIB):
                second.send(payload=image().tobytes()[start:start + MIB])
            second.half_close()
            first.cancel()
            self.assertAlmostEqual(float(second.answer()[0]), harness.IMAGE_ANSWER, delta=1e-6)

    def test_a_cancelled_grpc_stream_gives_its_memory_back(self):
        for _ in range(5):
            with contextlib.closing(self.server.grpc()) as holder:
                stream = self.hold(holder)
                stream.cancel()
            self.assert_free_soon()

    def test_a_grpc_client_whose_connection_breaks_gives_its_memory_back(self):
        for _ in range(5):
            client = self.server.grpc()
            self.hold(client)
            client.close()
            self.assert_free_soon()

    def test_an_http_client_that_leaves_gives_its_memory_back(self):
        for _ in range(5):
            self.wait_for_none()
            with self.server.socket() as connection:
                connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n" +
                                   bytes(15_000_000))
                self.wait_for_half()
            self.assert_free_soon()


class Draining(unittest.TestCase):
    """What a client that is told to come again reads; test_drain.py has the rest."""

    def test_over_grpc_and_http_alike(self):
        server = Server()
        self.addCleanup(server.kill)
        with contextlib.closing(server.grpc()) as holder, contextlib.closing(server.grpc()) as client, \
                server.socket() as connection:
            client.predict("unary", "", [TWIN])
            stream = OpenStream(holder)
            stream.send(header=header_of("row_mean_std", [image()]))
            stream.send(payload=bytes(MIB))
            wait_until(lambda: server.memory().shmem >= MIB, "the first piece arrives")
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\n")
            server.drain(client)
            with self.assertRaises(grpc.RpcError) as caught:
                client.predict("unary", "", [TWIN])
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertIn("shutting down", caught.exception.details())
            connection.sendall(b"Content-Length: 4\r\n\r\n" + TWIN.tobytes())
            answer = connection.recv(10_000)
            self.assertTrue(answer.startswith(b"HTTP/1.1 503 "), answer)
            self.assertIn(b'"UNAVAILABLE"', answer)
            self.assertIn(b"shutting down", answer)
            stream.cancel()
        self.assertEqual(server.wait(), 0)


if __name__ == "__main__":
    harness.run_tests()
