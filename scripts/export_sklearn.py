"""Writes the scikit-learn model: a perceptron on flat images, with probabilities and a label as outputs.

`MLPClassifier` draws its weights at the first call of `partial_fit`; a learning rate of 1e-12
leaves them practically unchanged.
"""

import onnx
import skl2onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.neural_network import MLPClassifier

from reference.data import load_digits
from reference.paths import MODELS


def main() -> None:
    digits = load_digits()
    classifier = MLPClassifier((96, 48), solver="sgd", learning_rate_init=1e-12, random_state=3)
    classifier.partial_fit(digits.inputs((256,)), digits.labels, classes=range(10))
    model = skl2onnx.to_onnx(
        classifier,
        initial_types=[("input", FloatTensorType([None, 256]))],
        options={"zipmap": False},
        target_opset={"": 19, "ai.onnx.ml": 3},
    )
    onnx.checker.check_model(model, full_check=True)
    path = MODELS / "sklearn-mlp.onnx"
    onnx.save(model, path)
    print(f"{path.stem}: {sum(w.size for w in classifier.coefs_ + classifier.intercepts_)} parameters")


if __name__ == "__main__":
    main()
