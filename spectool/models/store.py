"""Models on disk: one safetensors file with weights, extra arrays and JSON metadata. Never pickle."""

from __future__ import annotations

import collections
import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from spectool.io import DATA, atomic

SMALLEST = 8192  # matrices with fewer entries stay in 16 bits: they cost little, latent layers are among them


def quantize_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest 8-bit integers (rows, columns), and the step of each row (rows,)."""
    step = matrix.abs().amax(dim=1) / 127.0
    safe = torch.where(step > 0, step, 1.0)
    return torch.round(matrix / safe[:, None]).to(torch.int8), step


def restore_rows(integers: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """The matrix that `quantize_rows` stands for, float32."""
    return integers.float() * step[:, None]


def is_quantized(value: torch.Tensor) -> bool:
    """Whether a weight is one of the large matrices that are stored in 8 bits."""
    return value.ndim == 2 and value.numel() >= SMALLEST


def round_weights(model: nn.Module, *, int8: bool = False) -> None:
    """Give a model the weights that it will have when it is read back, so that its figures are theirs."""
    with torch.no_grad():
        for weight in model.parameters():
            if int8 and is_quantized(weight):
                weight.copy_(restore_rows(*quantize_rows(weight)))
            else:
                weight.copy_(weight.half().float())


#: Classes that a file may name, and where they are.
CLASSES = {
    "ChunkedMLP": "spectool.models.chunked",
    "ConvBetaVAE": "spectool.models.vae",
    "DenseAutoencoder": "spectool.models.denoise",
    "GaussianMLP": "spectool.models.layers",
    "NarrowBandCNN": "spectool.models.bands",
    "NoiseAwareAutoencoder": "spectool.models.denoise",
    "PCAModel": "spectool.models.denoise",
    "SedMLP": "spectool.models.bands",
}
SHIPPED = DATA / "models"
FORMAT = "spectool-model-1"


@dataclass(frozen=True)
class ModelInfo:
    """What a file says of its model."""

    name: str
    model_class: str
    config: dict
    recipe: dict
    metrics: dict
    arrays: dict[str, np.ndarray] = field(repr=False)


def save_model(
    path, model: nn.Module, *, recipe: dict, metrics: dict, arrays=None, half=False, int8=False
) -> Path:
    """Write a model of one of `CLASSES` with JSON-like dicts and extra arrays; weights in 32, 16 or 8 bits.

    ``half``: weights in float16. ``int8``: large matrices in 8 bits, row by row, other weights in float16; call
    `round_weights` before the model is scored. Buffers (statistics, wavelengths) and arrays are kept as they are.
    """
    kind = type(model).__name__
    if kind not in CLASSES:
        raise ValueError(f"cannot store a {kind}: only {', '.join(CLASSES)}")
    weights = {name for name, _ in model.named_parameters()}
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu().contiguous().clone()
        if int8 and name in weights and is_quantized(value):
            value, tensors[f"step/{name}"] = quantize_rows(value)
        elif (half or int8) and name in weights:
            value = value.half()
            if not torch.isfinite(value).all():
                raise ValueError(f"weight {name} does not fit into float16: store it in float32")
        tensors[f"model/{name}"] = value
    for name, value in (arrays or {}).items():
        tensors[f"array/{name}"] = torch.from_numpy(np.array(value, order="C"))
    about = {"class": kind, "config": model.config, "recipe": recipe, "metrics": metrics}
    metadata = {name: json.dumps(value, default=_plain, sort_keys=True) for name, value in about.items()}
    path = Path(path)
    path = path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")
    with atomic(path) as part:
        save_file(tensors, part, metadata=metadata | {"format": FORMAT})
    path.chmod(0o644)
    return path


def load_model(path_or_name, *, expected: str | None = None, n_latent: int | None = None):
    """Read a model: in float32 and evaluation mode, with its `ModelInfo`.

    Parameters
    ----------
    path_or_name
        A file, or the name of a shipped model (see `shipped_models`).
    expected, n_latent
        Name of the class, and number of latent dimensions, that the caller needs.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file or name; if it is not a model's, or holds another class or size than asked for.
    """
    path = resolve(path_or_name)
    metadata, parts = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is a safetensors file, but not one that save_model wrote")
    kind = json.loads(metadata["class"])
    if kind not in CLASSES:
        raise ValueError(
            f"{path} holds a {kind}, which this version does not know: only {', '.join(CLASSES)}"
        )
    if expected is not None and kind != expected:
        raise ValueError(f"{path} holds a {kind}, not the {expected} that is needed here")
    config = json.loads(metadata["config"])
    own = config.get("n_latent", config.get("n_in"))
    if n_latent not in (None, own):
        raise ValueError(
            f"{path} is for {own} latent dimensions, not {n_latent}: it belongs to another model"
        )
    model = getattr(importlib.import_module(CLASSES[kind]), kind)(**config)
    weights = parts["model"]
    weights |= {name: restore_rows(weights[name], step) for name, step in parts["step"].items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit its own configuration: {error}") from error
    arrays = {name: value.numpy() for name, value in parts["array"].items()}
    recipe, metrics = json.loads(metadata["recipe"]), json.loads(metadata["metrics"])
    return model.eval(), ModelInfo(path.stem, kind, config, recipe, metrics, arrays)


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def resolve(path_or_name) -> Path:
    """File of a path or of a shipped model's name."""
    path = Path(path_or_name)
    for candidate in (path, SHIPPED / f"{path_or_name}.safetensors"):
        if candidate.is_file():
            return candidate
    known = ", ".join(shipped_models()) or "none"
    raise FileNotFoundError(
        f"no model file {str(path_or_name)!r}, and no shipped model of that name (there are: {known})"
    )


def read_tensors(path) -> tuple[dict, dict[str, dict[str, torch.Tensor]]]:
    """Metadata and tensors of a safetensors file, by what stands before and behind the first slash of a name."""
    parts = collections.defaultdict(dict)
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                part, _, key = name.partition("/")
                parts[part][key] = file.get_tensor(name)
            return file.metadata() or {}, parts
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from error


def _plain(value):
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
