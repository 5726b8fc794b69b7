"""usage: python_functions.py BIN_DIR

What a worker process costs: prints JSON.

overhead_ms: the time that a 30 MB request spends in the model, as Server-Timing has it, less that of the function, as the
function itself has it.  in_process_ms and through_server_ms compare it with the same function called on an array of
this process's own.  throughput: calls a second of a function that computes, on three workers and in three bare processes.
"""

import concurrent.futures
import http.client
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

APP = """
import time
import numpy as np

def timed(image):
    start = time.perf_counter()
    result = image.mean(axis=1).std()
    return [float(result), (time.perf_counter() - start) * 1e3]

def trivial(image):
    return float(image[0, 0])

def computes(x):
    total = 0
    for i in range(400_000):
        total += i * i
    return float(total % 7)
"""
REQUESTS = 200
PROCESSES = 3
SECONDS = 6


class Server:
    def __init__(self, bin_dir, directory, *options):
        self.process = subprocess.Popen(
            [os.path.join(os.path.abspath(bin_dir), "millrace-server"), *options, "--python", sys.executable, "--bind", "127.0.0.1:0"],
            cwd=directory, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            address = re.search(r"listening on ([\d.]+:\d+)", line)
            if address:
                self.address = address.group(1)
                break

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate(timeout=30)


def post(connection, path, body):
    connection.request("POST", path, body, {"Content-Type": "application/octet-stream"})
    response = connection.getresponse()
    values = np.frombuffer(response.read(), response.headers["Millrace-Dtype"])
    assert response.status == 200
    compute = float(re.search(r"compute;dur=([\d.]+)", response.headers["Server-Timing"]).group(1))
    return values, compute


def overhead(bin_dir, directory):
    image = np.random.default_rng(0).random((3000, 2500), np.float32)
    body = memoryview(image).cast("B")
    result = {}
    with Server(bin_dir, directory, "app:timed", "app:trivial", "--workers", "1") as server:
        connection = http.client.HTTPConnection(server.address)
        for name in ("timed", "trivial"):
            answers = [post(connection, f"/v1/models/{name}:predict?shape=3000,2500&dtype=float32", body)
                       for _ in range(REQUESTS)][10:]
            if name == "timed":
                result["overhead_ms"] = statistics.median(compute - values[1] for values, compute in answers)
                result["through_server_ms"] = statistics.median(compute for _, compute in answers)
                result["function_in_worker_ms"] = statistics.median(values[1] for values, _ in answers)
            else:
                result["trivial_ms"] = statistics.median(compute for _, compute in answers)
        connection.close()
    app = {}
    exec(APP, app)
    result["in_process_ms"] = statistics.median(app["timed"](image)[1] for _ in range(REQUESTS))
    return result


def calls_of_one_process(seconds):
    app = {}
    exec(APP, app)
    x = np.zeros(1000, np.float32)
    end, calls = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        app["computes"](x)
        calls += 1
    return calls / seconds


def calls_of_one_client(address):
    connection = http.client.HTTPConnection(address)
    body = np.zeros(1000, np.float32).tobytes()
    end, calls = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        post(connection, "/predict", body)
        calls += 1
    connection.close()
    return calls / SECONDS


def throughput(bin_dir, directory):
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(calls_of_one_process, [0.2] * PROCESSES)
        bare = sum(pool.map(calls_of_one_process, [SECONDS] * PROCESSES))
    with Server(bin_dir, directory, "app:computes", "--workers", str(PROCESSES)) as server:
        with concurrent.futures.ThreadPoolExecutor(PROCESSES + 1) as clients:
            served = sum(clients.map(calls_of_one_client, [server.address] * (PROCESSES + 1)))
    return {"bare": bare, "served": served, "ratio": served / bare}


def main():
    with tempfile.TemporaryDirectory() as directory:
        with open(os.path.join(directory, "app.py"), "w", encoding="ascii") as file:
            file.write(APP)
        print(json.dumps({**overhead(sys.argv[1], directory), "throughput": throughput(sys.argv[1], directory)}, indent=1))


if __name__ == "__main__":
    main()
