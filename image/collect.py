"""What nothing reaches any more, as a decision: which layers and blobs may go. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from image.catalog import ImageRecord, LayerRecord
from image.digest import Digest


def layers(
    known: Iterable[LayerRecord],
    images: Iterable[ImageRecord],
    used: Iterable[Collection[str]],
    pending_since: int,
) -> list[str]:
    """Ids of layers to remove.

    used: layers of containers, and of pulls under way; pending_since: layers that an interrupted
    pull finished after this moment (ns since 1970) are kept: the next try begins with them.
    """
    reached = {layer_id for image in images for layer_id in image.layers}
    reached.update(layer_id for ids in used for layer_id in ids)
    return [
        layer.id
        for layer in known
        if layer.id not in reached and not (layer.pending and layer.created_at >= pending_since)
    ]


def blobs(stored: Iterable[Digest], reached: Iterable[Collection[Digest]]) -> list[Digest]:
    """Digests of blobs to remove: those no image has. Only right while nothing is being pulled."""
    kept = {digest for digests in reached for digest in digests}
    return [digest for digest in stored if digest not in kept]
