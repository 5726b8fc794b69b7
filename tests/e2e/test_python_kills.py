"""A thousand workers are killed under load: no wrong answer, and nothing is left of them."""

import contextlib
import os
import random
import re
import signal
import threading
import time
import unittest

import numpy as np

import harness
from harness import wait_until
from test_python import is_gone, serve, slabs_mapped_by

KILLS = 60 if harness.SANITIZER else 1000
SECONDS = 480  # at most
CLIENTS = 4
SIZES = (1, 100, 5_000, 60_000, 300_000)


class Client(threading.Thread):
    """Asks for one thing after another, and counts what comes."""

    def __init__(self, server, stop, seed):
        super().__init__()
        self.right = self.unavailable = 0
        self.wrong = []
        self._server, self._stop_event, self._random = server, stop, random.Random(seed)

    def run(self):
        with contextlib.closing(self._server.http()) as client:
            while not self._stop_event.is_set():
                array = np.full(self._random.choice(SIZES), self._random.random(), np.float32)
                answer = client.post(f"/v1/models/twice:predict?shape={array.size}", array.tobytes(),
                                     {"Content-Type": "application/octet-stream"})
                if answer.status == 200 and answer.body == (array + array).tobytes():
                    self.right += 1
                elif answer.status == 503 and b"UNAVAILABLE" in answer.body:
                    self.unavailable += 1
                else:
                    self.wrong.append((answer.status, answer.body[:200]))


class Kills(unittest.TestCase):
    def test_a_thousand_kills_leave_nothing_behind(self):
        with serve("twice", workers=3, threads=2, options=["--model", "row_mean_std", "--trim-after", "0.5"]) as server:
            for _ in range(8):
                server.alive_and_correct()  # every I/O thread has had a connection, and has its event loop
            wait_until(lambda: slabs_mapped_by(server.pid) == 0, "no memory is mapped")
            before = server.descriptors()
            stop = threading.Event()
            clients = [Client(server, stop, seed) for seed in range(CLIENTS)]
            for client in clients:
                client.start()
            killed = self.kill_workers(server)
            stop.set()
            for client in clients:
                client.join(60)
            self.assertEqual([wrong for client in clients for wrong in client.wrong], [])
            right = sum(client.right for client in clients)
            print(f"{killed} killed; {right} right, {sum(c.unavailable for c in clients)} unavailable")
            self.assertGreater(right, killed)
            self.assertGreaterEqual(killed, KILLS)
            self.check_nothing_is_left(server, before)
            server.alive_and_correct()

    def kill_workers(self, server):
        """Kills one worker after another, each some time after it came up."""
        choose = random.Random(1)
        killed = read = 0
        due = []  # (when, process)
        deadline = time.monotonic() + SECONDS
        while killed < KILLS and time.monotonic() < deadline:
            lines = server.lines[read:]
            read += len(lines)
            for line in lines:
                up = re.search(r"is up, process (\d+)", line)
                if up:
                    due.append((time.monotonic() + choose.choice((0.02, 0.05, 0.2)), int(up.group(1))))
            for when, pid in list(due):
                if when > time.monotonic():
                    continue
                due.remove((when, pid))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
            time.sleep(0.002)
        return killed

    def check_nothing_is_left(self, server, descriptors):
        wait_until(lambda: len(server.children()) == 3 and not any(map(is_gone, server.children())),
                   "three workers and no zombie", 30)
        wait_until(lambda: slabs_mapped_by(server.pid) == 0, "the memory is unmapped")
        wait_until(lambda: server.descriptors() <= descriptors, "the descriptors are closed")


if __name__ == "__main__":
    harness.run_tests()
