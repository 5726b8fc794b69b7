"""SIGTERM: readiness goes first, what was admitted is finished, what is new is refused, and the end comes in time."""

import contextlib
import socket
import unittest

import grpc
import numpy as np

import harness
from harness import IMAGE_ANSWER, MIB, OpenStream, PATIENCE, Server, Stopwatch, TWIN, header_of, image, wait_until

HALF = 15_000_000


def begin_http_upload(server, size, first, path="/predict"):
    """A POST of `size` bytes of which `first` were sent."""
    connection = server.socket(timeout=30)
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode() + first)
    return connection


def read_http_answer(connection):
    answer = bytearray()
    while b"\r\n\r\n" not in answer:
        data = connection.recv(1 << 16)
        if not data:
            break
        answer += data
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")),
                  0)
    body = bytearray(body)
    while len(body) < length:
        data = connection.recv(1 << 20)
        if not data:
            break
        body += data
    status = int(head.split(b" ")[1]) if head else None
    return status, bytes(body), length


class Drain(unittest.TestCase):
    def start(self, *options):
        server = Server(*options)
        self.addCleanup(server.kill)
        return server

    def wait_for_bytes(self, server, size):
        """Until so many bytes of tensors have arrived."""
        wait_until(lambda: server.memory().shmem >= size * 0.9, "the upload arrives")

    def begin_grpc(self, server, client, arrays=None, model="row_mean_std"):
        arrays = arrays or [image()]
        stream = OpenStream(client)
        stream.send(header=header_of(model, arrays))
        data = harness.payload_of(arrays)
        for start in range(0, HALF, MIB):
            stream.send(payload=data[start:min(start + MIB, HALF)])
        self.wait_for_bytes(server, HALF)
        return stream

    def finish_grpc(self, stream, arrays=None):
        data = harness.payload_of(arrays or [image()])
        for start in range(HALF, len(data), MIB):
            stream.send(payload=data[start:start + MIB])
        stream.half_close()
        return stream.answer()[0]

    def test_an_idle_server_ends_at_once(self):
        server = self.start()
        server.alive_and_correct()
        watch = Stopwatch()
        server.stop()
        self.assertLess(watch.seconds(), 2 * PATIENCE)

    def test_sigint_ends_it_too(self):
        server = self.start()
        server.process.send_signal(2)
        self.assertEqual(server.wait(), 0)

    def test_a_sigterm_that_comes_with_the_start_line_is_a_clean_end(self):
        for _ in range(5):
            server = self.start()
            server.terminate()
            self.assertEqual(server.wait(), 0, server.log())

    def test_idle_connections_do_not_hold_it_up(self):
        server = self.start()
        with server.socket(), contextlib.closing(server.http()) as kept, contextlib.closing(server.grpc()) as client:
            kept.predict_raw(TWIN)
            client.predict("unary", "", [TWIN])
            watch = Stopwatch()
            server.stop()
            self.assertLess(watch.seconds(), 3 * PATIENCE)

    def test_a_grpc_request_that_was_being_received_gets_its_answer(self):
        server = self.start()
        with contextlib.closing(server.grpc()) as client:
            stream = self.begin_grpc(server, client)
            server.terminate()
            server.wait_for_line("draining")
            self.assertAlmostEqual(float(self.finish_grpc(stream)), IMAGE_ANSWER, delta=1e-6)
            self.assertEqual(server.wait(), 0)

    def test_a_large_grpc_answer_is_delivered_whole(self):
        server = self.start()
        with contextlib.closing(server.grpc()) as client:
            stream = self.begin_grpc(server, client, model="identity")
            server.terminate()
            server.wait_for_line("draining")
            np.testing.assert_array_equal(self.finish_grpc(stream), image())
            watch = Stopwatch()
            self.assertEqual(server.wait(), 0)
            self.assertLess(watch.seconds(), 3 * PATIENCE)

    def test_an_http_request_that_was_being_received_gets_its_answer(self):
        server = self.start()
        data = image().tobytes()
        with begin_http_upload(server, len(data), data[:HALF]) as connection:
            self.wait_for_bytes(server, HALF)
            server.terminate()
            server.wait_for_line("draining")
            connection.sendall(data[HALF:])
            status, body, _ = read_http_answer(connection)
        self.assertEqual(status, 200)
        self.assertAlmostEqual(float(np.frombuffer(body, np.float32)[0]), IMAGE_ANSWER, delta=1e-6)
        self.assertEqual(server.wait(), 0)

    def test_a_large_http_answer_is_delivered_whole_to_a_client_that_reads_late(self):
        server = self.start()
        data = image().tobytes()
        path = "/v1/models/identity:predict?dtype=float32"
        with begin_http_upload(server, len(data), data[:HALF], path) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            self.wait_for_bytes(server, HALF)
            server.terminate()
            server.wait_for_line("draining")
            connection.sendall(data[HALF:])
            status, body, length = read_http_answer(connection)
        self.assertEqual((status, length, len(body)), (200, len(data), len(data)))
        self.assertTrue(body == data)
        self.assertEqual(server.wait(), 0)

    def test_readiness_goes_off_before_the_work_ends(self):
        server = self.start()
        with contextlib.closing(server.grpc()) as client, contextlib.closing(server.grpc()) as watcher, \
                server.socket() as probe:
            health = watcher.health(timeout=30)
            self.assertEqual(next(health), "SERVING")
            stream = self.begin_grpc(server, client)
            probe.sendall(b"GET /readyz HTTP/1.1\r\n")  # begun, and thus not idle
            self.assert_open(probe)
            server.terminate()
            self.assertEqual(next(health), "NOT_SERVING")
            probe.sendall(b"Host: a\r\n\r\n")
            self.assertEqual(read_http_answer(probe)[0], 503)
            self.assertAlmostEqual(float(self.finish_grpc(stream)), IMAGE_ANSWER, delta=1e-6)
            self.assertEqual(server.wait(), 0)

    def assert_open(self, connection):
        connection.setblocking(False)
        with self.assertRaises(BlockingIOError):
            connection.recv(1)
        connection.settimeout(10 * PATIENCE)

    def test_new_requests_on_old_connections_are_refused_over_both_protocols(self):
        server = self.start()
        with contextlib.closing(server.grpc()) as client, server.socket() as late:
            stream = self.begin_grpc(server, client)
            late.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\n")
            self.assert_open(late)
            server.drain(client)
            for way in harness.GRPC_WAYS:
                with self.assertRaises(grpc.RpcError) as caught:
                    client.predict(way, "", [TWIN])
                self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
                self.assertIn("shutting down", caught.exception.details())
            late.sendall(b"Content-Length: 4\r\n\r\n" + TWIN.tobytes())
            status, body, _ = read_http_answer(late)
            self.assertEqual(status, 503)
            self.assertIn(b"UNAVAILABLE", body)
            self.assertIn(b"shutting down", body)
            self.assertAlmostEqual(float(self.finish_grpc(stream)), IMAGE_ANSWER, delta=1e-6)
            self.assertEqual(server.wait(), 0)

    def test_new_connections_are_refused(self):
        server = self.start()
        with contextlib.closing(server.grpc()) as client:
            stream = self.begin_grpc(server, client)
            server.terminate()
            server.wait_for_line("draining")
            wait_until(lambda: self.refuses_connections(server), "the port is closed")
            self.finish_grpc(stream)
            self.assertEqual(server.wait(), 0)

    def refuses_connections(self, server):
        try:
            server.socket().close()
            return False
        except ConnectionRefusedError:
            return True

    def test_a_request_that_waits_for_memory_is_refused(self):
        server = self.start("--memory-limit", "40MB", "--admission-timeout", "60")
        with contextlib.closing(server.grpc()) as client, contextlib.closing(server.grpc()) as other:
            stream = self.begin_grpc(server, client)
            waiting = OpenStream(other)
            waiting.send(header=header_of("row_mean_std", [image()]))
            server.terminate()
            self.assertEqual(waiting.error().code(), grpc.StatusCode.UNAVAILABLE)
            self.assertAlmostEqual(float(self.finish_grpc(stream)), IMAGE_ANSWER, delta=1e-6)
            self.assertEqual(server.wait(), 0)

    def test_requests_that_are_stuck_are_cut_off_at_the_timeout(self):
        server = self.start("--drain-timeout", "1", "--stall-timeout", "60")
        data = image().tobytes()
        with contextlib.closing(server.grpc()) as client, \
                begin_http_upload(server, len(data), data[:HALF]) as connection:
            stream = self.begin_grpc(server, client)
            self.wait_for_bytes(server, 2 * HALF)
            watch = Stopwatch()
            server.terminate()
            self.assertEqual(stream.error().code(), grpc.StatusCode.UNAVAILABLE)
            status, body, _ = read_http_answer(connection)
            self.assertEqual(status, 503, body)
            self.assertEqual(server.wait(), 0)
            self.assertGreater(watch.seconds(), 0.9)
            self.assertLess(watch.seconds(), 1 + 2.5 * PATIENCE)

    def test_a_client_that_does_not_read_its_answer_does_not_hold_it_up(self):
        server = self.start("--drain-timeout", "1")
        data = image().tobytes()
        path = "/v1/models/identity:predict?dtype=float32"
        with begin_http_upload(server, len(data), data, path) as connection:
            connection.recv(1)
            watch = Stopwatch()
            server.stop()
            self.assertLess(watch.seconds(), 1 + 2.5 * PATIENCE)

    def test_a_second_signal_ends_it_at_once(self):
        server = self.start("--drain-timeout", "60")
        with contextlib.closing(server.grpc()) as client:
            self.begin_grpc(server, client)
            server.terminate()
            server.wait_for_line("draining")
            watch = Stopwatch()
            server.terminate()
            self.assertNotEqual(server.wait(), 0)
            self.assertLess(watch.seconds(), 2 * PATIENCE)


if __name__ == "__main__":
    harness.run_tests()
