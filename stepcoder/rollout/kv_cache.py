"""A layer of transformers' KV cache with room for all tokens of a generation.

The ordinary layer copies itself for every token (torch.cat) and when rows leave the batch.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from transformers import DynamicCache, LlamaModel
from transformers.cache_utils import DynamicLayer

# What a model's cache is called: transformers has renamed it for all models at once.
_NEW_NAME = "cache" in inspect.signature(LlamaModel.forward).parameters


def with_cache(cache: DynamicCache) -> dict[str, Any]:
    """Return the arguments with which a model reads and extends a cache."""
    return {"cache" if _NEW_NAME else "past_key_values": cache, "use_cache": True}


class RoomyLayer(DynamicLayer):
    """Keys and values (G, heads, length, K), views of buffers that are longer."""

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        """Take over a layer's tokens, and have room for `room` tokens with them."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.room, self.length = room, 0
        if layer.keys is not None and layer.values is not None:
            self.update(layer.keys, layer.values)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers, knowing shape and dtype of the first keys and values."""
        super().lazy_initialization(key_states, value_states)
        self.buffers = [
            s.new_empty(*s.shape[:2], self.room, s.shape[3]) for s in (key_states, value_states)
        ]

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the keys and values of new tokens; return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before, self.length = self.length, self.length + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, before : self.length] = states
        return self._view()

    def _view(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows. A row that changes its place takes that of one that is not kept."""
        moves = [(place, row) for place, row in enumerate(indices.tolist()) if place != row]
        for buffer in self.buffers:
            for place, row in moves:
                buffer[place, :, : self.length] = buffer[row, :, : self.length]
        self.buffers = [buffer[: len(indices)] for buffer in self.buffers]
        self._view()


def make_room(cache: DynamicCache, room: int) -> None:
    """Give the layers that keep every token room for `room`; others (windows) stay as they are."""
    for place, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[place] = RoomyLayer(layer, room)


def closing_gaps(kept: list[int]) -> list[int]:
    """Order the rows that stay in a batch so that few move: the last ones fill the gaps."""
    places = set(kept)
    last = [row for row in kept if row >= len(kept)]
    return [row if row in places else last.pop() for row in range(len(kept))]
