"""Predicts on a NumPy array, with nothing but generated stubs, or over plain HTTP.

Needs python3-numpy, and for gRPC python3-grpcio, python3-protobuf and protobuf-compiler-grpc. Generate the stubs once,
from the root of the repository:

    mkdir -p build/python
    protoc -Iproto --python_out=build/python --grpc_python_out=build/python \
        --plugin=protoc-gen-grpc_python=$(command -v grpc_python_plugin) millrace/v1/prediction.proto

    PYTHONPATH=build/python python3 client/python/example.py 127.0.0.1:8000
    python3 client/python/example.py 127.0.0.1:8000 http
"""
import http.client
import json
import sys

import numpy as np

PIECE = 512 << 10  # bytes: the fastest size


def predict_stream(address, model, array):
    """One output, over gRPC in pieces: arrays of any size."""
    import grpc
    from millrace.v1 import prediction_pb2 as pb
    from millrace.v1 import prediction_pb2_grpc as rpc

    dtype = pb.DataType.Value("DATA_TYPE_" + array.dtype.name.upper())
    tensor = pb.Tensor(data_type=dtype, shape=array.shape)
    payload = memoryview(np.ascontiguousarray(array)).cast("B")

    def messages():
        yield pb.PredictStreamRequest(header=pb.RequestHeader(model=model, tensors=[tensor]))
        for start in range(0, len(payload), PIECE):
            yield pb.PredictStreamRequest(payload=bytes(payload[start:start + PIECE]))

    with grpc.insecure_channel(address) as channel:
        answer = rpc.PredictionServiceStub(channel).PredictStream(messages())
    output = answer.header.tensors[0]
    name = pb.DataType.Name(output.data_type).removeprefix("DATA_TYPE_").lower()
    return np.frombuffer(answer.payload, name).reshape(output.shape)


def predict_http(address, model, array):
    """One output, over HTTP: the array is sent from where it lies."""
    connection = http.client.HTTPConnection(address)
    shape = ",".join(map(str, array.shape))
    connection.request("POST", f"/v1/models/{model}:predict?shape={shape}&dtype={array.dtype.name}",
                       memoryview(np.ascontiguousarray(array)).cast("B"),
                       {"Content-Type": "application/octet-stream"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise RuntimeError(json.loads(body)["error"])
    shape = [int(size) for size in answer.headers["Millrace-Shape"].split(",") if size]
    return np.frombuffer(body, answer.headers["Millrace-Dtype"]).reshape(shape)


if __name__ == "__main__":
    predict = predict_http if sys.argv[2:] == ["http"] else predict_stream
    image = np.random.default_rng(1).random((3000, 2500), dtype=np.float32)
    result = predict(sys.argv[1], "row_mean_std", image)
    print(result, "; NumPy says", image.mean(axis=1).std())
