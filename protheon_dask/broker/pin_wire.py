"""Messages about pinned chunks to values and back: beside wire, for ChunkService's Pin, RenewPin and Unpin."""

from __future__ import annotations

from dataclasses import dataclass

from protheon_dask.broker._pb import chunk_pb2
from protheon_dask.broker.chunks import PinnedChunk
from protheon_dask.broker.wire import check_utf8, utf8
from protheon_dask.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PinRequest:
    """Cut these sources, and keep the chunks for as long as the pin is renewed."""

    pin_id: str  # 32 hexadecimal digits, the client's choice: asked again under the same one, it goes on where it was
    paths: tuple[str, ...]
    ttl_s: float
    chunk_lines: int = 0  # 0: chosen as for a run
    limit: int = 0  # chunks at most; 0: all


def pin_to_message(value: PinRequest) -> chunk_pb2.PinRequest:
    """Raises: ConfigError: a path that cannot be said in UTF-8, or a number that the protocol cannot carry."""
    check_utf8(value.paths)
    try:
        return chunk_pb2.PinRequest(
            pin_id=value.pin_id, paths=value.paths, ttl_s=value.ttl_s, chunk_lines=value.chunk_lines, limit=value.limit
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"chunks: {error}") from error


def pin_from_message(message: chunk_pb2.PinRequest) -> PinRequest:
    return PinRequest(message.pin_id, tuple(message.paths), message.ttl_s, message.chunk_lines, message.limit)


def pinned_to_message(value: PinnedChunk) -> chunk_pb2.PinnedChunk:
    fields = {name: getattr(value, name) for name in PinnedChunk.__dataclass_fields__}
    return chunk_pb2.PinnedChunk(**{**fields, "path": utf8(value.path), "notice": utf8(value.notice)})


def pinned_from_message(message: chunk_pb2.PinnedChunk) -> PinnedChunk:
    return PinnedChunk(**{name: getattr(message, name) for name in PinnedChunk.__dataclass_fields__})


def renew_pin_message(pin_id: str, ttl_s: float) -> chunk_pb2.RenewPinRequest:
    return chunk_pb2.RenewPinRequest(pin_id=pin_id, ttl_s=ttl_s)


def renewed_message() -> chunk_pb2.RenewPinResponse:
    return chunk_pb2.RenewPinResponse()


def unpin_message(pin_id: str) -> chunk_pb2.UnpinRequest:
    return chunk_pb2.UnpinRequest(pin_id=pin_id)


def unpinned_message() -> chunk_pb2.UnpinResponse:
    return chunk_pb2.UnpinResponse()
