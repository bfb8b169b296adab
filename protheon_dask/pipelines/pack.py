"""How a pipeline travels: by reference where it is installed, else by value, signed."""

from __future__ import annotations

import hmac
import io
import json
import pickle
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import cloudpickle  # type: ignore[import-untyped]
import msgspec

from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.find import BUILT_IN, find, is_installed, show_current_directory
from protheon_dask.pipelines.fingerprint import code_hash
from protheon_dask.pipelines.jsonl import NAME as JSONL
from protheon_dask.pipelines.jsonl import JsonlForm, jsonl
from protheon_dask.pipelines.pgcr import PgcrForm, pgcr
from protheon_dask.pipelines.pipeline import Pipeline
from protheon_dask.pipelines.struct_by_value import reduce_struct
from protheon_dask.pipelines.table import Table

MAX_OBJECT_BYTES: Final = 1 << 20  # a pipeline is code; data that travel with it belong into a file
_REGISTRY: Final = threading.Lock()
"""Of cloudpickle, which is the process's: two threads that submit at once would unregister what the other still needs."""


@dataclass(frozen=True, slots=True)
class PackedPipeline:
    """A pipeline on its way; the fields are those of the message Pipeline.

    reference:  a built-in name or ``module:name``; empty where object holds the pipeline (cloudpickle).
    signature:  HMAC-SHA256 over all other fields by the cluster's key; empty where none was at hand. Of what came by value it is checked.
    """

    name: str
    version: str
    reference: str
    object: bytes
    signature: bytes
    code_hash: bytes
    tables_json: str
    versions_json: str
    options_json: str

    def tables(self) -> tuple[Table, ...]:
        return tuple(Table.from_json(table) for table in json.loads(self.tables_json))


def pack(pipeline: Pipeline, key: bytes | None) -> PackedPipeline:
    """Pack a pipeline for the master and the workers.

    key:        the cluster's; None will do for what is installed everywhere.
    Raises:     ConfigError: it must travel by value and there is no key, it cannot be pickled, or it is over 1 MiB.
    """
    reference = _reference(pipeline)
    blob, versions = b"", ""
    if not reference:
        if key is None:
            raise ConfigError(f"pipeline {pipeline.name} is not installed on the workers and there is no cluster key to sign it with")
        blob, versions = _pickled(pipeline), _json(_versions())
    packed = PackedPipeline(
        name=pipeline.name,
        version=pipeline.version,
        reference=reference,
        object=blob,
        signature=b"",
        code_hash=code_hash(pipeline),
        tables_json=_json([table.to_json() for table in pipeline.tables]),
        versions_json=versions,
        options_json=options_of(pipeline),
    )
    return packed if key is None else replace(packed, signature=_sign(packed, key))


def options_of(pipeline: Pipeline) -> str:
    """A pipeline's options as the ledger keeps them: a part of a load's identity."""
    return _json(dict(pipeline.options))


def unpack(packed: PackedPipeline, key: bytes | None) -> Pipeline:
    """Make the pipeline again, on a worker.

    A reference needs no signature: who has no key, or another one, may load through what is installed here, and only that is imported.

    Raises:     ConfigError: it came by value and its signature is wrong or absent (nothing was unpickled) or the versions differ from
                those it was packed with; or what is installed here under the reference is another pipeline, or nothing.
    """
    if not packed.object:
        return _installed(packed)
    if key is None:
        raise ConfigError(f"pipeline {packed.name} came by value and there is no cluster key here to check it with")
    if not hmac.compare_digest(_sign(packed, key), packed.signature):
        raise ConfigError(f"pipeline {packed.name}: its signature is not of this cluster's key; it was not unpickled")
    theirs, ours = json.loads(packed.versions_json), _versions()
    if theirs != ours:
        differing = ", ".join(f"{name} {theirs.get(name)} there, {ours[name]} here" for name in ours if theirs.get(name) != ours[name])
        raise ConfigError(f"pipeline {packed.name} was packed with other versions ({differing}): install the same, or install the pipeline")
    try:
        found = pickle.loads(packed.object)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"pipeline {packed.name} needs what is not installed here: {error}") from error
    assert isinstance(found, Pipeline)  # signed by pack
    return found


def _installed(packed: PackedPipeline) -> Pipeline:
    if not _names_installed(packed.reference):
        raise ConfigError(f"pipeline {packed.name} came as {packed.reference!r}, which is not installed here: install it on all hosts")
    tables = packed.tables()
    is_given = "table" in json.loads(packed.options_json)
    found = jsonl(tables[0].name, given=is_given) if packed.reference == JSONL else find(packed.reference)
    if (found.name, found.version, found.tables) != (packed.name, packed.version, tables):
        raise ConfigError(f"pipeline {packed.reference} is another one here ({found!r}): install the same version on all hosts")
    return found


def _names_installed(reference: str) -> bool:
    """Is it one that pack() makes, and of a package that is installed here? Told without importing, and so running, anything."""
    if reference in BUILT_IN:
        return True
    module, _, name = reference.partition(":")
    top = module.partition(".")[0]
    if not name or not all(part.isidentifier() for part in module.split(".")) or top in ("__main__", "__mp_main__"):
        return False
    show_current_directory()  # as the import will see it: what stands there hides what is installed
    try:
        spec = find_spec(top)  # of the top package: to find what is inside of it, it would be imported
    except ValueError:  # it is loaded, and was made by hand
        return False
    if spec is None:
        return False
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())  # a namespace package has no file
    return bool(places) and all(map(is_installed, places))


def _reference(pipeline: Pipeline) -> str:
    """A built-in name, or module:name of what stands in site-packages (an editable install is this host's alone)."""
    if type(pipeline.form) is JsonlForm:  # what an author derived from it is his own
        return JSONL
    if type(pipeline.form) is PgcrForm:
        return pgcr.name
    module = sys.modules.get(getattr(pipeline.form.function, "__module__", ""))
    if module is None or not _in_site_packages(module):
        return ""
    return next((f"{module.__name__}:{name}" for name, value in vars(module).items() if value is pipeline), "")


def _in_site_packages(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and any(Path(file).is_relative_to(sysconfig.get_path(name)) for name in ("purelib", "platlib"))


def _own_modules(module: ModuleType | None) -> list[ModuleType]:
    """The author's module, and every other that is loaded and not installed: a session's class may be of any file.

    Only what the pipeline uses of them travels.
    """
    found = [] if module is None or module.__name__ == "__main__" else [module]  # cloudpickle sends __main__ by value without being told
    for other in list(sys.modules.values()):
        file = getattr(other, "__file__", None)
        if not isinstance(file, str) or other in found or other.__name__ in ("__main__", "__mp_main__"):
            continue
        if sys.modules.get(other.__name__) is other and not is_installed(file):
            found.append(other)
    return found


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """cloudpickle, which alone cannot make a msgspec.Struct anew: it makes classes first and their fields after."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, msgspec.StructMeta) and _goes_by_value(obj):
            return reduce_struct(obj)
        return super().reducer_override(obj)


def _goes_by_value(cls: type) -> bool:
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        return True
    registered = cloudpickle.list_registry_pickle_by_value()
    parts = cls.__module__.split(".")
    return any(".".join(parts[:n]) in registered for n in range(1, len(parts) + 1))


@contextmanager
def _by_value(modules: list[ModuleType]) -> Iterator[None]:
    with _REGISTRY:
        before = set(cloudpickle.list_registry_pickle_by_value())
        # by name: a file that another thread imports meanwhile is there twice, and the registry knows names
        mine = {module.__name__: module for module in modules if module.__name__ not in before}.values()
        for module in mine:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in mine:
                cloudpickle.unregister_pickle_by_value(module)


def _pickled(pipeline: Pipeline) -> bytes:
    module = sys.modules.get(getattr(pipeline.form.function, "__module__", ""))
    out = io.BytesIO()
    with _by_value(_own_modules(module)):
        try:
            _Pickler(out, protocol=pickle.DEFAULT_PROTOCOL).dump(pipeline)
        except (pickle.PicklingError, TypeError, RecursionError) as error:
            raise ConfigError(f"pipeline {pipeline.name} cannot be sent to the workers: {error}; install it there instead") from error
    if out.tell() > MAX_OBJECT_BYTES:
        raise ConfigError(f"pipeline {pipeline.name} is {out.tell()} bytes by value, the limit is 1 MiB: install it on the workers")
    return out.getvalue()


def _versions() -> dict[str, str]:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"cloudpickle": version("cloudpickle"), "msgspec": version("msgspec"), "python": python}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sign(packed: PackedPipeline, key: bytes) -> bytes:
    """Each field goes in behind its length, so that no two packings give the same bytes."""
    mac = hmac.new(key, b"protheon pipeline 1\n", sha256)
    texts = (packed.name, packed.version, packed.reference, packed.tables_json, packed.versions_json, packed.options_json)
    for part in (packed.object, packed.code_hash, *(text.encode() for text in texts)):
        mac.update(len(part).to_bytes(8, "big") + part)
    return mac.digest()
