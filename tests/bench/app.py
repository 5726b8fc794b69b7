"""What a person would write without Millrace: the same model in Flask, for any WSGI server."""
import flask
import numpy as np

app = flask.Flask(__name__)


def read_image():
    if flask.request.is_json:
        return np.array(flask.request.get_json()["instances"], np.float32)
    values = np.frombuffer(flask.request.get_data(), np.float32)
    return values.reshape(-1, 2500) if values.size > 1 else values.reshape(1, 1)


@app.post("/predict")
def predict():
    answer = read_image().mean(axis=1).std()
    return flask.Response(np.float32(answer).tobytes(), mimetype="application/octet-stream")
