"""msgspec.Struct classes by value: what pickle needs to make one anew in another process."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from protheon_dask.pipelines.row import RowMeta

_CONFIG: Final = (
    *("frozen", "eq", "order", "array_like", "gc", "repr_omit_defaults", "omit_defaults", "forbid_unknown_fields"),
    *("weakref", "dict", "cache_hash", "tag", "tag_field"),
)
_MADE_ANEW: Final = frozenset(
    {"__annotations__", "__slots__", "__match_args__", "__init__", "__weakref__", "__dict__", "__module__", "__qualname__", "__rename__"}
)


def reduce_struct(cls: msgspec.StructMeta) -> tuple[Any, ...]:
    """What pickle's reducer_override gives for a Struct class.

    Shapes:     (make, its arguments, methods and other attributes, None, None, set them): fields are there from the start, and
                what may refer to the class itself comes when it exists.
    """
    own = inspect.get_annotations(cls)
    hints = typing.get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = {}
    keyword_only = False
    for info in msgspec.structs.fields(cast(type[msgspec.Struct], cls)):
        if info.name not in own:
            continue
        options: dict[str, Any] = {"name": info.encode_name} if info.encode_name != info.name else {}
        if info.default is not msgspec.NODEFAULT:
            options["default"] = info.default
        elif info.default_factory is not msgspec.NODEFAULT:
            options["default_factory"] = info.default_factory
        fields[info.name] = options
        keyword_only = keyword_only or info.name not in cls.__match_args__
    namespace = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__annotations__": {name: hints[name] for name in own}}
    for name in ("__doc__", "__post_init__"):  # msgspec looks for both only when the class is made
        if cls.__dict__.get(name) is not None:
            namespace[name] = cls.__dict__[name]
    config = {name: getattr(cls.__struct_config__, name) for name in _CONFIG}
    if keyword_only:
        config["kw_only"] = True
    later = {
        name: value
        for name, value in cls.__dict__.items()
        if name not in fields and name not in namespace and name not in _MADE_ANEW and not name.startswith("__struct_")
    }
    if isinstance(cls, RowMeta):
        later["__protheon_table__"] = cls.__protheon_table__
    return _make, (type(cls), cls.__name__, cls.__bases__, namespace, fields, config), later, None, None, _set


def _make(
    meta: Callable[..., msgspec.StructMeta],
    name: str,
    bases: tuple[type, ...],
    namespace: dict[str, Any],
    fields: dict[str, dict[str, Any]],
    config: dict[str, Any],
) -> msgspec.StructMeta:
    defaults = {field: msgspec.field(**options) for field, options in fields.items() if options}
    return meta(name, bases, {**namespace, **defaults}, **config)


def _set(cls: type, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        setattr(cls, name, value)
