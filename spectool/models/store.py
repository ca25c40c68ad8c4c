"""Models on disk: one safetensors file with weights, extra arrays and JSON metadata. Never pickle."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from spectool.io import DATA

#: Matrices with fewer entries stay in 16 bits: they cost little, and the latent layers are among them.
SMALLEST = 8192


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
    "GaussianMLP": "spectool.models.chunked",
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
    path, model: nn.Module, *, recipe: dict, metrics: dict, config=None, arrays=None, half=False, int8=False
) -> Path:
    """Write a model.

    Parameters
    ----------
    path
        File to write; ``.safetensors`` is added if missing.
    model
        Of one of `CLASSES`.
    recipe, metrics
        JSON-like dicts: what it was trained on and how; how well it does.
    config
        Options of the constructor; the model's own ``config`` by default.
    arrays
        Extra arrays by name (numbers or bool).
    half
        Weights in float16, half the size. Buffers (statistics, wavelengths) and `arrays` are kept as they
        are.
    int8
        Large matrices in 8 bits, row by row (`spectool.models.store`), other weights in float16: a quarter of
        the size. Call `round_weights` before the model is scored.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the model is of no known class, or a weight would overflow in float16.
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
    about = {"class": kind, "config": config or model.config, "recipe": recipe, "metrics": metrics}
    path = Path(path)
    path = path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "format": FORMAT,
        **{k: json.dumps(v, default=_plain, sort_keys=True) for k, v in about.items()},
    }
    save_file(tensors, path, metadata=metadata)
    path.chmod(0o644)
    return path


def load_model(path_or_name, *, expected: str | None = None, n_latent: int | None = None):
    """Read a model.

    Parameters
    ----------
    path_or_name
        A file, or the name of a shipped model (see `shipped_models`).
    expected
        Name of the class that the caller needs.
    n_latent
        Number of latent dimensions that the caller needs.

    Returns
    -------
    model, info
        In float32 and evaluation mode, and its `ModelInfo`.

    Raises
    ------
    FileNotFoundError
        If there is no such file or name.
    ValueError
        If the file is not a model's, or holds another class or size than asked for.
    """
    path = resolve(path_or_name)
    metadata, tensors = _read(path)
    kind = json.loads(metadata["class"])
    if kind not in CLASSES:
        raise ValueError(
            f"{path} holds a {kind}, which this version does not know: only {', '.join(CLASSES)}"
        )
    if expected is not None and kind != expected:
        raise ValueError(f"{path} holds a {kind}, not the {expected} that is needed here")
    config = json.loads(metadata["config"])
    if n_latent is not None and config.get("n_latent", config.get("n_in")) != n_latent:
        raise ValueError(
            f"{path} is for {config.get('n_latent', config.get('n_in'))} latent dimensions, not {n_latent}: "
            "it belongs to another model"
        )
    model = getattr(importlib.import_module(CLASSES[kind]), kind)(**config)
    own = {name.removeprefix("model/"): v for name, v in tensors.items() if name.startswith("model/")}
    for name, value in tensors.items():
        if name.startswith("step/"):
            own[name.removeprefix("step/")] = restore_rows(own[name.removeprefix("step/")], value)
    try:
        model.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit its own configuration: {error}") from error
    arrays = {
        name.removeprefix("array/"): v.numpy() for name, v in tensors.items() if name.startswith("array/")
    }
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


def _read(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is a safetensors file, but not one that spectool.models.store.save_model wrote"
        )
    return metadata, tensors


def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
