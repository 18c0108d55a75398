"""Data loaders for the pretrained models that tests and measurements use.

Each function is a data loader script's: `--data tools/assets_data.py:cifar10_train`. Where labels
exist, a feed is `(arrays by input name, labels)`.

The files lie in $ONNXQAT_ASSETS, or in shared/assets beside the repository; its README.md says
where they come from. Signals for audio models are synthesized from a seed, with the pitch, loudness
and pauses of speech or music, since no audio files are kept there.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from onnxqat.core.signature import InputSpec
from onnxqat.data import DataConfig, open_data

ASSETS = Path(
    os.environ.get("ONNXQAT_ASSETS", Path(__file__).resolve().parents[2] / "shared" / "assets")
)
DATA = ASSETS / "data"
WILD = ASSETS / "wild"

Floats = NDArray[np.float32]
Feeds = Iterator[tuple[dict[str, NDArray[Any]], NDArray[Any]] | dict[str, NDArray[Any]]]

_BATCH = 16
"""Samples read at a time."""


def _npz(file: str, spec: InputSpec, config: DataConfig) -> Feeds:
    for batch in open_data(str(DATA / file), (spec,), config).batches(_BATCH):
        yield (batch.inputs, batch.labels) if batch.labels is not None else batch.inputs


_CIFAR = DataConfig(
    arrays={"input": "images"},
    divide_by=255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
_CIFAR_INPUT = InputSpec("input", "float32", ("batch", 3, 32, 32))


def cifar10_train() -> Feeds:
    """16,000 training images for the two ResNet-20."""
    return _npz("cifar10_train_16k.npz", _CIFAR_INPUT, _CIFAR)


def cifar10_test() -> Feeds:
    """1,000 test images for the two ResNet-20."""
    return _npz("cifar10_test_1k.npz", _CIFAR_INPUT, _CIFAR)


_SMALL_CNN = DataConfig(arrays={"modelInput": "images"}, divide_by=255, mean=(0.5,), std=(0.5,))
_SMALL_CNN_INPUT = InputSpec("modelInput", "float32", ("batch_size", 3, 32, 32))


def smallcnn_train() -> Feeds:
    """16,000 CIFAR-10 training images for cifar10_smallcnn."""
    return _npz("cifar10_train_16k.npz", _SMALL_CNN_INPUT, _SMALL_CNN)


def smallcnn_test() -> Feeds:
    """1,000 CIFAR-10 test images for cifar10_smallcnn."""
    return _npz("cifar10_test_1k.npz", _SMALL_CNN_INPUT, _SMALL_CNN)


_SPEECH = DataConfig(arrays={"mfcc": "features"})
_SPEECH_INPUT = InputSpec("mfcc", "float32", ("batch", 98, 40))


def speech_commands_train() -> Feeds:
    """1,500 clips for the keyword transformer."""
    return _npz("speech_commands_mfcc_train_1500.npz", _SPEECH_INPUT, _SPEECH)


def speech_commands_test() -> Feeds:
    """1,000 other clips for the keyword transformer."""
    return _npz("speech_commands_mfcc_test_1000.npz", _SPEECH_INPUT, _SPEECH)


def mnist() -> Feeds:
    """2,000 test digits for mnist_cntk, raw 0..255, one a feed."""
    with np.load(DATA / "mnist_test_2k.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    for image, label in zip(images, labels, strict=True):
        yield {"Input3": image[None, None].astype(np.float32)}, np.array([label])


def _images(prepare: Callable[[Any], Floats], name: str, start: int, stop: int) -> Feeds:
    """ImageNet sample images [1, ...], from the `start`-th on, each made by `prepare`."""
    from PIL import Image

    with np.load(DATA / "imagenet_sample_even500.npz") as arrays:
        jpeg, offsets, labels = arrays["jpeg"], arrays["offsets"], arrays["labels"]
    for i in range(start, stop):
        with Image.open(io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes())) as image:
            yield {name: prepare(image.convert("RGB"))[None]}, labels[i : i + 1].astype(np.int64)


def _planes(image: Any) -> Floats:
    """An image as float32 [3, H, W], 0..255."""
    return np.ascontiguousarray(np.asarray(image, np.float32).transpose(2, 0, 1))


def _for_mobilenet(image: Any) -> Floats:
    return _planes(image) / np.float32(127.5) - np.float32(1)


def imagenet() -> Feeds:
    """500 images, one for every even class, for mobilenet_v1."""
    return _images(_for_mobilenet, "input", 0, 500)


def imagenet_first_300() -> Feeds:
    """The first 300 of `imagenet`, for calibration and training."""
    return _images(_for_mobilenet, "input", 0, 300)


def imagenet_last_200() -> Feeds:
    """The other 200 of `imagenet`, to be judged on."""
    return _images(_for_mobilenet, "input", 300, 500)


def squeezenet() -> Feeds:
    """500 images for squeezenet11: BGR less its mean colour."""
    mean = np.array([104, 117, 123], np.float32).reshape(3, 1, 1)
    return _images(lambda image: _planes(image)[::-1] - mean, "data_0", 0, 500)


def _unlabelled(feeds: Feeds) -> Feeds:
    """The inputs alone: what a detector finds is not the image's class."""
    return (feed[0] if isinstance(feed, tuple) else feed for feed in feeds)


def _for_ultraface(image: Any) -> Floats:
    return (_planes(image.resize((320, 240))) - np.float32(127)) / np.float32(128)


def _for_fastestdet(image: Any) -> Floats:
    return _planes(image.resize((352, 352)))[::-1] / np.float32(255)


def ultraface() -> Feeds:
    """500 images, stretched to 320 x 240, for ultraface_rfb320."""
    return _unlabelled(_images(_for_ultraface, "input", 0, 500))


def fastestdet() -> Feeds:
    """500 images, stretched to 352 x 352, for fastestdet: BGR / 255."""
    return _unlabelled(_images(_for_fastestdet, "input.1", 0, 500))


def _speech(generator: np.random.Generator, *, seconds: float, rate: int) -> Floats:
    """Something like speech, within ±1: voiced syllables with formants, fricatives, pauses."""
    parts: list[NDArray[np.float64]] = []
    while sum(map(len, parts)) < seconds * rate:
        length = int(rate * generator.uniform(0.1, 0.3))
        kind = generator.choice(["voiced", "voiced", "fricative", "pause"])
        part = np.zeros(length)
        if kind == "voiced":
            part = _voiced(generator, length, rate)
        elif kind == "fricative":
            part = np.diff(generator.normal(size=length + 1)) * 0.1
        parts.append(part * np.hanning(length) * generator.uniform(0.05, 0.5))
    signal = np.concatenate(parts)[: int(seconds * rate)]
    return np.clip(signal + generator.normal(size=len(signal)) * 0.002, -1, 1).astype(np.float32)


def _voiced(generator: np.random.Generator, length: int, rate: int) -> NDArray[np.float64]:
    """Harmonics of a gliding pitch, louder near three formants."""
    pitch = np.linspace(generator.uniform(80, 250), generator.uniform(80, 250), length)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formants = generator.uniform([300, 900, 2200], [800, 2000, 3200])
    voice = np.zeros(length)
    for harmonic in range(1, int(rate / 2 / pitch.max())):
        near = np.exp(-(((harmonic * pitch.mean() - formants) / 200) ** 2)).sum()
        voice += np.sin(harmonic * phase) * (near + 0.02)
    loudest = max(float(np.abs(voice).max()), 1e-9)
    return voice / loudest


def dtln() -> Feeds:
    """500 magnitude spectra of speech frames for dtln_stage1, with the state that it returned."""
    session = ort.InferenceSession(WILD / "dtln_stage1_kerasonnx_opset11.onnx")
    speech = _speech(np.random.default_rng(0), seconds=5, rate=16_000)
    state = np.zeros((1, 2, 128, 2), np.float32)
    for start in islice(range(0, len(speech) - 512, 128), 500):
        spectrum = np.abs(np.fft.rfft(speech[start : start + 512])).astype(np.float32)
        feed = {"input_2": spectrum.reshape(1, 1, 257), "input_3": state}
        yield feed
        state = session.run(None, feed)[1]


def silero() -> Feeds:
    """300 windows of speech for silero_vad, with the state that it returned."""
    session = ort.InferenceSession(WILD / "silero_vad_16k_pytorch23_opset15.onnx")
    speech = _speech(np.random.default_rng(0), seconds=300 * 512 / 16_000 + 1, rate=16_000)
    state = np.zeros((2, 1, 128), np.float32)
    for i in range(300):
        window = speech[None, i * 512 : i * 512 + 576]
        feed: dict[str, NDArray[Any]] = {
            "input": window,
            "state": state,
            "sr": np.array(16_000, np.int64),
        }
        yield feed
        state = session.run(None, feed)[1]


def basic_pitch() -> Feeds:
    """32 windows of two seconds of decaying chords for basic_pitch."""
    for seed in range(32):
        music = _chords(np.random.default_rng(seed), samples=43_844, rate=22_050)
        yield {"serving_default_input_2:0": music.reshape(1, -1, 1)}


def _chords(generator: np.random.Generator, *, samples: int, rate: int) -> Floats:
    """Up to eight struck notes at random times: harmonics that decay, the higher the sooner."""
    time = np.arange(samples) / rate
    music = generator.normal(size=samples) * 0.001
    for _ in range(int(generator.integers(2, 9))):
        frequency = 440 * 2 ** (generator.integers(-24, 24) / 12)
        since = np.clip(time - generator.uniform(0, 1.5), 0, None)
        for harmonic in range(1, 8):
            decay = np.exp(-since * harmonic * 1.5) / harmonic**1.2
            music += np.sin(2 * np.pi * frequency * harmonic * since) * decay * 0.1
    return np.clip(music, -1, 1).astype(np.float32)
