"""Modules that are saved as one file without pickle and come back whole: what they are, and their numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from icnn_rl import qp, solvers
from icnn_rl.atomic_io import write_file

__all__ = ["SavedModule"]

_FORMAT, _FORMAT_VERSION = "icnn_rl", 1

#: Settings objects that may be arguments, by name.
_SETTINGS: dict[str, type] = {
    name: value
    for package in (solvers, qp)
    for name in package.__all__
    if isinstance(value := getattr(package, name), type) and dataclasses.is_dataclass(value)
}


class SavedModule(nn.Module):
    """A module with ``save`` and ``load``.

    The file is in the safetensors format: parameters and buffers as they are, and in the header the class, its
    constructor's arguments as JSON, and the version of the format. Nothing in it is run when it is read.

    A subclass says in :meth:`arguments` what its constructor was given: None, truth values, numbers, strings, lists
    and tuples of such, mappings with string keys, and settings such as ``PrimalDual()`` or ``BundleEntropy()``.

    Example:
        >>> class Scale(SavedModule):
        ...     def __init__(self, size: int) -> None:
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.ones(size))
        ...
        ...     def arguments(self):
        ...         return {"size": len(self.weight)}
        >>> Scale(3).save("scale.safetensors")
        >>> Scale.load("scale.safetensors").weight.shape
        torch.Size([3])
    """

    #: Raise it where the arguments or tensors of a subclass change their meaning.
    version: ClassVar[int] = 1

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments by name."""
        raise NotImplementedError(f"{type(self).__name__}: a SavedModule returns its constructor's arguments here.")

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        from safetensors.torch import save_file  # of the extra train

        header = {
            "format": _FORMAT,
            "format_version": str(_FORMAT_VERSION),
            "class": type(self).__name__,
            "class_version": str(self.version),
            "arguments": json.dumps(_to_json("arguments", self.arguments())),
        }
        # clone: safetensors refuses tensors that share their memory
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self.state_dict().items()}
        write_file(Path(path), lambda temporary: save_file(tensors, temporary, metadata=header))

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Self:
        """Read a file of this class. The module comes in evaluation mode, for use; ``train()`` it to go on training.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, it is not this package's, it holds another class or another version of it, or
                its tensors do not fit; the text names the file.
        """
        path = Path(path)
        header, tensors = _read(path, str(device))
        _check_header(path, header, cls)
        try:
            module = cls(**_from_json(json.loads(header["arguments"])))
            module.load_state_dict(tensors, assign=True)  # assign: the stored dtype is the module's
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: does not fit {cls.__name__} of this version of icnn_rl. {error}") from error
        return module.to(device).eval()  # in training mode dropout would make its answers random


def _read(path: Path, device: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a safetensors file."""
    from safetensors import SafetensorError, safe_open  # of the extra train

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or damaged ({error}).") from error


def _check_header(path: Path, header: dict[str, str], cls: type[SavedModule]) -> None:
    if header.get("format") != _FORMAT:
        raise ValueError(f"{path}: a safetensors file, but not one that {cls.__name__}.save wrote.")
    for key, known in (("format_version", _FORMAT_VERSION), ("class_version", cls.version)):
        if key == "class_version" and header.get("class") != cls.__name__:
            name = header.get("class")
            raise ValueError(f"{path}: holds a {name}, not a {cls.__name__}. Load it with {name}.load.")
        if header.get(key) != str(known):
            raise ValueError(
                f"{path}: {key} {header.get(key)}, but this version of icnn_rl reads {known}. Load it with the version "
                "that wrote it."
            )


def _to_json(name: str, value: Any) -> Any:
    """``value`` in JSON's terms; a settings object becomes {"settings": its class, and its fields}."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_to_json(f"{name}[{i}]", part) for i, part in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _to_json(f"{name}.{key}", part) for key, part in value.items()}
    if dataclasses.is_dataclass(value) and _SETTINGS.get(type(value).__name__) is type(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return {"settings": type(value).__name__, **_to_json(name, fields)}
    raise ValueError(f"{name}: {type(value).__name__} cannot be written into a model file.")


def _from_json(value: Any) -> Any:
    """The reverse; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(_from_json(part) for part in value)
    if isinstance(value, dict):
        fields = {key: _from_json(part) for key, part in value.items() if key != "settings"}
        if "settings" not in value:
            return fields
        if value["settings"] not in _SETTINGS:
            raise ValueError(f"unknown settings {value['settings']!r}")
        return _SETTINGS[value["settings"]](**fields)
    return value
