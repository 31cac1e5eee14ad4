"""Compares gradalign's gradients with those of the source frameworks for many exported architectures.

Every framework exports in a separate environment. Then the checker writes `docs/models.md`:

    python -m matrix.export_torch      # requirements/torch.txt and requirements/matrix.txt
    python -m matrix.export_keras      # requirements/keras.txt and onnxruntime
    python -m matrix.export_jax        # requirements/jax.txt
    python -m matrix.export_sklearn    # requirements/sklearn.txt
    python -m matrix.check             # numpy, onnx and onnxruntime
    python -m matrix.kinks timm-dla    # torch's: which units of a ReLU rounding turns on or off

All weights are random, nothing is downloaded. Results are kept in `target/matrix`, and good cases are
not repeated. A full run takes about a quarter of an hour on two cores.
"""
