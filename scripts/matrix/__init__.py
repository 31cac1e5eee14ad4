"""Architectures of many frameworks, exported, and gradalign's gradients held against the frameworks' own.

Every framework exports in an environment of its own, then the checker writes `docs/models.md`:

    python -m matrix.export_torch      # requirements/torch.txt and requirements/matrix.txt
    python -m matrix.export_keras      # requirements/keras.txt and onnxruntime
    python -m matrix.export_jax        # requirements/jax.txt
    python -m matrix.export_sklearn    # requirements/sklearn.txt
    python -m matrix.check             # numpy, onnx and onnxruntime
    python -m matrix.kinks timm-dla    # torch's: which units of a ReLU rounding turns on or off

All weights are random, nothing is downloaded. Work lies in `target/matrix`; what is there and good is
not done again. The whole takes about a quarter of an hour on two cores.
"""
