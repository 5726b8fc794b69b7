"""A Python client that sends an image again and again, checks each answer, and reports as bench-load does.

Ways: requests (the usual loop), http-client (a kept connection, from the array's memory), grpcio-stream.
"""
import argparse
import http.client
import json
import time

import numpy as np

PIECE = 512 << 10


def make_image(size):
    count = size // 4
    image = (np.arange(count, dtype=np.float64) / count).astype(np.float32)
    return image.reshape(-1, 2500) if count > 1 else image


def answer_to(image):
    return np.std(np.mean(image.astype(np.float64), axis=1)) if image.ndim > 1 else 0.0


def requests_way(address, image):
    import requests

    url = f"http://{address}/predict"

    def send():
        answer = requests.post(url, data=image.tobytes())
        answer.raise_for_status()
        return answer.content

    return send


def http_client_way(address, image):
    connection = http.client.HTTPConnection(address)
    view = memoryview(image).cast("B")

    def send():
        connection.request("POST", "/predict", view, {"Content-Type": "application/octet-stream"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(body)
        return body

    return send


def grpcio_stream_way(address, image):
    import grpc
    from millrace.v1 import prediction_pb2 as pb
    from millrace.v1 import prediction_pb2_grpc as rpc

    stub = rpc.PredictionServiceStub(grpc.insecure_channel(address))
    tensor = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=image.shape)
    header = pb.PredictStreamRequest(header=pb.RequestHeader(model="row_mean_std", tensors=[tensor]))
    view = memoryview(image).cast("B")

    def messages():
        yield header
        for start in range(0, len(view), PIECE):
            yield pb.PredictStreamRequest(payload=bytes(view[start:start + PIECE]))

    return lambda: stub.PredictStream(messages()).payload


WAYS = {"requests": requests_way, "http-client": http_client_way, "grpcio-stream": grpcio_stream_way}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--bytes", type=int, default=30_000_000)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--requests", type=int, default=20)
    options = parser.parse_args()

    image = make_image(options.bytes)
    expected = answer_to(image)
    send = WAYS[options.way](options.address, image)

    def send_and_check():
        answer = np.frombuffer(send(), np.float32)
        if answer.size != 1 or not abs(answer[0] - expected) <= 1e-6:
            raise RuntimeError(f"the answer is {answer} and not {expected}")

    for _ in range(options.warmup):
        send_and_check()
    print("ready", flush=True)
    input()
    start, cpu, times = time.perf_counter(), time.process_time(), []
    for _ in range(options.requests):
        before = time.perf_counter()
        send_and_check()
        times.append((time.perf_counter() - before) * 1e3)
    print(json.dumps({"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu, "ms": times}))


if __name__ == "__main__":
    main()
