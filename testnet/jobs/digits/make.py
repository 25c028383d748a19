"""Makes everything in this folder: the images, the labels, and the model that reads them.

    python make.py            write digits.npz, labels.npy and digits.onnx beside this file
    python make.py --check    make them in memory and compare with the files that are here

Needs numpy, onnx and scikit-learn (dependency group ``train``); onnxruntime runs the finished
model once more, so that the accuracy printed is that of the file and not of the training.

The network is trained in float64 and then written down in whole numbers: 8-bit weights, and
activations from 0 to 255, carried in float32 tensors. Every product and every sum in it is a whole
number below 2**24, which float32 holds exactly in whatever order it is added up. So the answers
are the same on every processor, and a job may compare them byte for byte.
"""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent
TRAINED_ON = 1500
SEED = 20240229
EPOCHS = 30
BATCH = 50
PEAK_STEP = 3e-3
WEIGHT_DECAY = 1e-2
CHANNELS = (32, 64, 64)
GREY = 16.0
EXACT_BELOW = 2**24
OPSET = 17
IR_VERSION = 8

Array = NDArray[np.float64]


@dataclass
class Layer:
    """Weights [in, out], ``in`` over channel, row and column of a window; biases [out]."""

    weight: Array
    bias: Array


# ---- the network, forwards and backwards -----------------------------------------------------


def windows(x: Array) -> Array:
    """[n, h, w, c] -> [n * h * w, c * 9]: the 3x3 surroundings of each pixel, zero outside."""
    n, h, w, c = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return view.reshape(n * h * w, c * 9)


def spread(gradient: Array, shape: tuple[int, ...]) -> Array:
    """The transpose of :func:`windows`."""
    n, h, w, c = shape
    parts = gradient.reshape(n, h, w, c, 3, 3)
    padded = np.zeros((n, h + 2, w + 2, c))
    for row in range(3):
        for column in range(3):
            padded[:, row : row + h, column : column + w] += parts[..., row, column]
    return padded[:, 1:-1, 1:-1]


def forward(layers: list[Layer], x: Array) -> tuple[Array, list[tuple[Array, ...]]]:
    """Logits [n, 10] of images [n, 8, 8, 1], and what :func:`backward` needs."""
    kept: list[tuple[Array, ...]] = []
    for number, layer in enumerate(layers[:-1]):
        columns = windows(x)
        y = np.maximum(columns @ layer.weight + layer.bias, 0).reshape(*x.shape[:3], -1)
        if number == 0:
            pooled = y
        else:
            n, h, w, c = y.shape
            pooled = y.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))
        kept.append((x, columns, y, pooled))
        x = pooled
    flat = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    kept.append((x, flat))
    return flat @ layers[-1].weight + layers[-1].bias, kept


def backward(layers: list[Layer], kept: list[tuple[Array, ...]], gradient: Array) -> list[Layer]:
    """The gradients of all layers, given that of the logits."""
    x, flat = kept[-1]
    found = [Layer(flat.T @ gradient, gradient.sum(axis=0))]
    n, h, w, c = x.shape
    gradient = (gradient @ layers[-1].weight.T).reshape(n, c, h, w).transpose(0, 2, 3, 1)
    for number in range(len(layers) - 2, -1, -1):
        x, columns, y, pooled = kept[number]
        if number > 0:
            gradient, pooled = (a.repeat(2, axis=1).repeat(2, axis=2) for a in (gradient, pooled))
        gradient = (gradient * (y == pooled) * (y > 0)).reshape(len(columns), -1)
        found.append(Layer(columns.T @ gradient, gradient.sum(axis=0)))
        if number > 0:
            gradient = spread(gradient @ layers[number].weight.T, x.shape)
    return found[::-1]


def train(images: Array, labels: NDArray[np.int64]) -> list[Layer]:
    """AdamW with one warm-up and one decay; half the batches are moved by up to a pixel."""
    random = np.random.Generator(np.random.PCG64(SEED))
    widths = (1, *CHANNELS)
    layers = [
        Layer(random.normal(0, np.sqrt(2 / (9 * i)), (9 * i, o)), np.zeros(o))
        for i, o in pairwise(widths)
    ]
    layers.append(Layer(random.normal(0, 0.05, (CHANNELS[-1] * 4, 10)), np.zeros(10)))
    values = [a for layer in layers for a in (layer.weight, layer.bias)]
    first, second = [np.zeros_like(v) for v in values], [np.zeros_like(v) for v in values]
    steps = EPOCHS * (len(images) // BATCH)
    step = 0
    for _ in range(EPOCHS):
        order = random.permutation(len(images))
        for start in range(0, len(images), BATCH):
            chosen = order[start : start + BATCH]
            moved = np.pad(images[chosen], ((0, 0), (1, 1), (1, 1), (0, 0)))
            row, column = random.integers(0, 3, 2) if random.random() < 0.5 else (1, 1)
            logits, kept = forward(layers, moved[:, row : row + 8, column : column + 8])
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            gradient = odds / odds.sum(axis=1, keepdims=True)
            gradient[np.arange(len(chosen)), labels[chosen]] -= 1
            found = backward(layers, kept, gradient / len(chosen))
            gradients = [a for layer in found for a in (layer.weight, layer.bias)]
            step += 1
            rate = PEAK_STEP * min(step / 100, (steps - step) / (steps - 100) + 1e-3)
            for value, g, m, v in zip(values, gradients, first, second, strict=True):
                m[:] += 0.1 * (g - m)
                v[:] += 0.001 * (g * g - v)
                value[:] -= rate * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
                if value.ndim == 2:
                    value[:] -= rate * WEIGHT_DECAY * value
    return layers


# ---- whole numbers ---------------------------------------------------------------------------


@dataclass
class WholeLayer:
    """Whole-number weights and biases, and the power of two by which the sums are divided."""

    weight: Array
    bias: Array
    shift: int


def whole(layers: list[Layer], images: Array) -> list[WholeLayer]:
    """The same network in whole numbers, scaled so that activations of ``images`` fit 0 to 255."""
    _, kept = forward(layers, images / GREY)
    unit = GREY
    made = []
    for number, layer in enumerate(layers):
        scale = 127 / np.abs(layer.weight).max()
        weight = np.rint(layer.weight * scale)
        bias = np.rint(layer.bias * scale * unit)
        unit *= scale
        shift = 0
        if number < len(layers) - 1:
            highest = kept[number][2].max() * unit
            shift = max(0, int(np.ceil(np.log2(highest / 255))))
            unit /= 2**shift
        made.append(WholeLayer(weight, bias, shift))
        largest = (np.abs(weight).sum(axis=0) * (GREY if number == 0 else 255) + np.abs(bias)).max()
        assert largest < EXACT_BELOW, f"layer {number} may reach {largest}: no longer exact"
    return made


def graph(layers: list[WholeLayer]) -> onnx.ModelProto:
    """The ONNX model: ``image`` uint8 [n, 1, 8, 8] -> ``label`` int64 [n]."""
    nodes = [helper.make_node("Cast", ["image"], ["grey"], to=TensorProto.FLOAT)]
    weights = [numpy_helper.from_array(np.float32(0), "zero")]
    weights.append(numpy_helper.from_array(np.float32(255), "ceiling"))
    last = "grey"
    for number, layer in enumerate(layers[:-1], start=1):
        w, b, s = f"conv{number}_weight", f"conv{number}_bias", f"conv{number}_scale"
        shape = (-1, 3, 3, layer.weight.shape[1])
        kernel = layer.weight.reshape(shape).transpose(3, 0, 1, 2)
        weights.append(numpy_helper.from_array(np.ascontiguousarray(kernel, np.float32), w))
        weights.append(numpy_helper.from_array(layer.bias.astype(np.float32), b))
        weights.append(numpy_helper.from_array(np.float32(2.0**-layer.shift), s))
        sums, scaled, floor, act = (f"{part}{number}" for part in ("sum", "scaled", "floor", "act"))
        nodes += [
            helper.make_node("Conv", [last, w, b], [sums], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Mul", [sums, s], [scaled]),
            helper.make_node("Floor", [scaled], [floor]),
            helper.make_node("Clip", [floor, "zero", "ceiling"], [act]),
        ]
        last = act
        if number > 1:
            last = f"pool{number}"
            nodes.append(
                helper.make_node("MaxPool", [act], [last], kernel_shape=[2, 2], strides=[2, 2])
            )
    weights.append(numpy_helper.from_array(layers[-1].weight.astype(np.float32), "dense_weight"))
    weights.append(numpy_helper.from_array(layers[-1].bias.astype(np.float32), "dense_bias"))
    nodes += [
        helper.make_node("Flatten", [last], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "dense_weight", "dense_bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "digits",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 1, 8, 8])],
            [helper.make_tensor_value_info("label", TensorProto.INT64, ["n"])],
            initializer=weights,
            doc_string="Reads handwritten digits of 8 x 8 pixels; whole numbers throughout.",
        ),
        producer_name="testnet/jobs/digits/make.py",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


# ---- the files -------------------------------------------------------------------------------


def make() -> dict[str, bytes]:
    """All files of this folder that are made, by name; prints the accuracies."""
    source = load_digits()
    pixels = source.images.astype(np.uint8)
    labels = source.target.astype(np.int64)
    assert pixels.shape == (1797, 8, 8)
    assert np.array_equal(pixels, source.images)
    images = pixels[:, None]
    inputs = pixels[..., None].astype(np.float64)
    layers = train(inputs[:TRAINED_ON] / GREY, labels[:TRAINED_ON])
    model = graph(whole(layers, inputs[:TRAINED_ON])).SerializeToString(deterministic=True)

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (read,) = session.run(["label"], {"image": images})
    right = read == labels
    print(f"all {len(right)} images:         {right.mean():.2%} right, {(~right).sum()} wrong")
    print(f"first {TRAINED_ON}, trained on:   {right[:TRAINED_ON].mean():.2%}")
    print(f"last {len(right) - TRAINED_ON}, never seen:     {right[TRAINED_ON:].mean():.2%}")

    packed, plain = io.BytesIO(), io.BytesIO()
    np.savez(packed, image=images)
    np.save(plain, labels)
    return {
        "digits.npz": packed.getvalue(),
        "labels.npy": plain.getvalue(),
        "digits.onnx": model,
    }


def main() -> int:
    files = make()
    if sys.argv[1:] == ["--check"]:
        differing = [name for name, data in files.items() if (HERE / name).read_bytes() != data]
        print(f"differs: {', '.join(differing)}" if differing else "all files are as made here")
        return 1 if differing else 0
    for name, data in files.items():
        (HERE / name).write_bytes(data)
        print(f"{name}: {len(data)} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
