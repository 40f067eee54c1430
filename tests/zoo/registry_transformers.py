"""The registry of transformers, by family: the package of a model type, such as ``qwen2_vl``."""

import copy
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import transformers
from torch import nn
from transformers.models.auto import configuration_auto, modeling_auto
from zoo import registry_inputs as inputs
from zoo import transformers_models
from zoo.attempt import Attempt
from zoo.shrinking import shrunk

LIBRARY = "transformers"

_TASKS = ("MODEL_MAPPING_NAMES", "MODEL_FOR_PRETRAINING_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES")
"""Tables of classes that are looked through first."""

_FEATURES = re.compile(r"tokens: 0, features:? (\d+)")
"""What models of pictures in text say when the text holds no picture."""

_SHRINKABLE: tuple[Callable[[str], bool], ...] = (
    lambda name: True,
    lambda name: not re.search("head|mamba|ssm|conv|state", name),
    lambda name: bool(re.search("layers|depth|vocab|token|image|experts", name)),
)
"""Names of the sizes that are made small, as many as a model takes."""


@functools.cache
def families() -> dict[str, tuple[str, ...]]:
    """Model types of each family, the one that bears its name first."""
    found: dict[str, list[str]] = {}
    for model_type in configuration_auto.CONFIG_MAPPING_NAMES:
        found.setdefault(configuration_auto.model_type_to_module_name(model_type), []).append(model_type)
    return {
        name: tuple(sorted(types, key=lambda t: (t.replace("-", "_") != name, t)))
        for name, types in sorted(found.items())
    }


def covered() -> set[str]:
    """Families of the hand-shrunk entries."""
    modules = (transformers._class_to_module[class_name] for _, class_name, _, _ in transformers_models.ROWS)
    return {module.split(".")[1] for module in modules}


def attempts(name: str) -> Iterator[Attempt]:
    """Each model type of the family, each class for it, at each image size, with inputs told by ``forward``."""
    for model_type in families()[name]:
        made = [getattr(transformers, class_name) for class_name in _classes(model_type)]
        for model in dict.fromkeys(made):
            for only in _SHRINKABLE:
                config = functools.cache(functools.partial(_config, model, only))
                for number in range(inputs.CHOICES):
                    yield _attempt(model, config, number)


def _attempt(model: type[nn.Module], config: Callable[[], Any], number: int, pictured: int = 0) -> Attempt:
    names = inspect.signature(model.forward).parameters

    def mended(reason: str) -> Attempt | None:
        wanted = _FEATURES.search(reason)
        return _attempt(model, config, number, int(wanted[1])) if wanted and not pictured else None

    return Attempt(
        lambda: model(copy.deepcopy(config())), lambda: inputs.arguments(names, config(), number, pictured), mended
    )


def _config(model: type[nn.Module], only: Callable[[str], bool]) -> Any:
    return small_config(model.config_class(), only)


def _classes(model_type: str) -> Iterator[str]:
    """Names of the classes registered for a model type, bare models first."""
    tables = [name for name in dir(modeling_auto) if name.endswith("MAPPING_NAMES") and name not in _TASKS]
    for table in (*_TASKS, *(name for name in tables if name != "CONFIG_MAPPING_NAMES")):
        found = getattr(modeling_auto, table).get(model_type, ())
        yield from (found,) if isinstance(found, str) else found


def small_config(config: Any, only: Callable[[str], bool]) -> Any:
    """The same configuration with the sizes that ``only`` admits small, its parts too; no call returns a cache."""
    parts = {name: small_config(value, only) for name, value in vars(config).items() if _is_config(value)}
    options = {name: value for name, value in vars(config).items() if not name.startswith("_") and name not in parts}
    uncached = {"use_cache": False} if options.get("use_cache") else {}
    return type(config)(**shrunk(options, only) | uncached, **parts)


def _is_config(value: object) -> bool:
    return isinstance(value, transformers.PreTrainedConfig)
