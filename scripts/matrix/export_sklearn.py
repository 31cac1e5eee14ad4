"""Exports scikit-learn's perceptrons with skl2onnx's defaults: a label, and probabilities in a ZipMap.

    python -m matrix.export_sklearn        (in scripts/, in an environment from requirements/sklearn.txt)

The gradients are computed here, since scikit-learn has no per-sample gradients.
"""

import numpy as np
import onnx
import skl2onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .case import CLASSES, SAMPLES, folder, save_facts, save_numbers

ACTIVATIONS = {
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "logistic": (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
}


def sample_gradients(weights, biases, activation, x, label):
    """The cross-entropy of one sample, and its gradients with respect to weights and biases."""
    forward, slope = ACTIVATIONS[activation]
    inputs, sums = [x], []
    for w, b in zip(weights, biases, strict=True):
        sums.append(inputs[-1] @ w + b)
        inputs.append(forward(sums[-1]))
    z = sums[-1] - sums[-1].max()
    p = np.exp(z) / np.exp(z).sum()
    delta, found = p - np.eye(len(p))[label], []
    for i in reversed(range(len(weights))):
        found.append((np.outer(inputs[i], delta), delta))
        if i:
            delta = (weights[i] @ delta) * slope(sums[i - 1])
    ws, bs = zip(*reversed(found), strict=True)
    return -np.log(p[label]), [*ws, *bs]


def export(name, model, classifier, scale, activation, x, y) -> None:
    path = folder(name, "skl2onnx")
    facts = {"name": name, "library": "scikit-learn", "exporter": "skl2onnx", "loss": "cross-entropy", "options": "ZipMap, batch unknown"}
    save_facts(path, **facts)
    proto = skl2onnx.to_onnx(model, initial_types=[("x", FloatTensorType([None, x.shape[1]]))], target_opset={"": 19, "ai.onnx.ml": 3})
    onnx.save(proto, path / "model.onnx")
    weights, biases = classifier.coefs_, classifier.intercepts_
    inputs, labels = x[:SAMPLES].astype(np.float32), y[:SAMPLES]
    pairs = [sample_gradients(weights, biases, activation, scale(s.astype(float)), label) for s, label in zip(inputs, labels, strict=True)]
    losses, rows = zip(*pairs, strict=True)
    values = [*weights, *biases]
    parameters = [(f"layer {i}", v, np.stack([r[i] for r in rows])) for i, v in enumerate(values)]
    save_numbers(path, {"x": inputs}, labels, parameters, np.array(losses))
    save_facts(path, **facts, parameters=sum(v.size for v in values))
    print(f"{name}: {sum(v.size for v in values)} parameters")


def main() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 12)), np.arange(200) % CLASSES
    for activation in ACTIVATIONS:
        classifier = MLPClassifier((16, 12), activation=activation, solver="sgd", learning_rate_init=1e-3, random_state=3)
        classifier.partial_fit(x, y, classes=range(CLASSES))
        export(f"sklearn-mlp-{activation}", classifier, classifier, lambda s: s, activation, x, y)
    scaler = StandardScaler().fit(x)
    classifier = MLPClassifier((16,), solver="sgd", random_state=3)
    classifier.partial_fit(scaler.transform(x), y, classes=range(CLASSES))
    pipeline = make_pipeline(scaler, classifier)
    export("sklearn-scaled-mlp", pipeline, classifier, lambda s: scaler.transform(s[None])[0], "relu", x, y)
    linear = LogisticRegression().fit(x, y)
    linear.coefs_, linear.intercepts_ = [linear.coef_.T], [linear.intercept_]
    export("sklearn-logistic", linear, linear, lambda s: s, "relu", x, y)


if __name__ == "__main__":
    main()
