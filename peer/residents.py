"""The models that this peer's renderer keeps loaded, within the memory it may use: policy/residency.py carried out."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from protocol.policy.prediction import unknown_load_us
from protocol.policy.residency import Ahead, Residency
from protocol.policy.speeds import SpeedBook
from protocol.wire.advert import SignedAdvert

from .clock import now_us
from .renderer.client import Renderer, RendererDied, RenderFailed
from .store.models import LocalModel

RETIRE_EVERY_US = 600_000_000  # a model that needs more than the limit is not loaded again for each picture
EMPTY_RENDERER_BYTES = 450_000_000  # a process with torch and a pipeline's code: 422 MB measured
ROOM_AFTER_FAILURE_PERCENT = 90  # of the weights with which the device ran out of memory

Spans = tuple[tuple[str, int, int], ...]  # name, start (monotonic), us


class Residents:
    """Loads, lets go, and says what will be loaded when a task's turn comes."""

    def __init__(
        self,
        *,
        renderer: Renderer,
        models: Mapping[bytes, LocalModel],
        speeds: SpeedBook,
        own_peer: str,
        on_capabilities: Callable[[], None],
        journal: Callable[..., None],
        listed: Sequence[bytes] = (),
        ahead: bool = False,
        memory_limit_bytes: int | None = None,
        device_limit_bytes: int | None = None,
    ) -> None:
        """`listed`: the models that the operator named, most wanted first.  `ahead`: load some before they are asked for.

        `memory_limit_bytes`: of this machine, for the peer and its renderer.  `device_limit_bytes`: for weights, where
        the device has memory of its own.
        """
        self._renderer = renderer
        self._models = models
        self._speeds = speeds
        self._own_peer = own_peer
        self._on_capabilities = on_capabilities
        self._journal = journal
        self._ahead = ahead
        self._memory_limit_bytes = memory_limit_bytes
        self._shared_memory = device_limit_bytes is None
        self._most_bytes = device_limit_bytes  # of weights
        self._retired_us: int | None = None
        self._residency = Residency(
            {model.id: model.bytes for model in models.values()}, listed, self.reload_us
        )

    def statistics(self) -> dict[str, int]:
        return self._residency.statistics()

    def reload_us(self, model: bytes) -> int:
        """What loading it is expected to take."""
        learned = self._speeds.of(self._own_peer)
        measured_us = learned.load_us.get(model) if learned else None
        return measured_us or unknown_load_us(self._models[model].bytes)

    # demand

    def on_offer(self, peer: str, model: bytes, *, taken: bool) -> None:
        if taken:
            self._residency.on_taken(model, now_us())
        else:
            self._residency.on_refused(peer, model, now_us())

    def on_sought(self, peer: str, model: bytes) -> None:
        """`peer` asked who has it."""
        self._residency.on_sought(peer, model, now_us())

    def on_advert(self, signed: SignedAdvert) -> None:
        models = signed.advert.models
        resident = [model.id for model in models if model.state == "resident"]
        self._residency.on_advert(signed.peer, [model.id for model in models], resident, now_us())

    # what will be loaded

    def expects(
        self, model: bytes, upcoming: Sequence[bytes], loading: bytes | None = None
    ) -> tuple[bool, bool]:
        """Of a task of `model` that comes behind the `upcoming` ones: (it is loaded by then, it must come behind them).

        It must where loading it would cost one of them its weights.  `loading`: what is being loaded now.
        """
        resident, room_bytes = {*self._renderer.resident, *filter(None, [loading])}, self._room_bytes()
        if model in self._residency.after(resident, upcoming, room_bytes, now_us()):
            return True, False
        return False, room_bytes is not None and self._residency.needed({model, *upcoming}) > room_bytes

    # loading

    async def load(self, model: bytes, upcoming: Sequence[bytes] = ()) -> Spans:
        """Has it loaded, and lets go of others for it; where the time went.  RendererDied, RenderFailed.

        `upcoming`: the models of the tasks that wait, the next first.
        """
        way = self._residency.makes_way(
            model, self._renderer.resident, upcoming, self._room_bytes(), now_us()
        )
        return await self._load(model, way)

    def wanted(self) -> Ahead | None:
        """What to load while there is nothing else to do."""
        if not self._ahead:
            return None
        resident, now = self._renderer.resident, now_us()
        for model in self._residency.gone(resident, now):
            self._journal("weights_gone", model=model.hex(), what="its renderer ended")
        return self._residency.ahead(resident, self._room_bytes(), now)

    async def load_ahead(self, wanted: Ahead) -> None:
        with suppress(RendererDied, RenderFailed):  # `_load` has seen to it
            await self._load(wanted.model, wanted.evict)

    async def _load(self, model: bytes, evict: Sequence[bytes]) -> Spans:
        for each in evict:
            await self._renderer.unload(each)
            self._residency.on_let_go([each])
            self._journal("evicted", model=each.hex(), instead=model.hex())
        began_us, local = now_us(), self._models[model]
        if model in self._renderer.resident:
            if evict:
                self._on_capabilities()
            return ()
        try:
            spans = await self._renderer.load(Path(local.folder), model, local.variant)
        except (RendererDied, RenderFailed) as exc:
            self._residency.on_failed(model, now_us())
            self._journal("load_failed", model=model.hex(), what=str(exc))
            self._on_capabilities()
            raise
        self._speeds.on_load(self._own_peer, model, now_us() - began_us)
        self._residency.on_loaded(model, self._renderer.weights_bytes(model), now_us())
        self._on_capabilities()
        return spans

    # memory

    def on_out_of_memory(self) -> None:
        """The device had no room for a picture beside what is loaded: less will be, from the next task on."""
        resident = self._renderer.resident
        if len(resident) > 1:
            self._most_bytes = self._residency.needed(resident) * ROOM_AFTER_FAILURE_PERCENT // 100

    async def watch(self) -> None:
        """Between two tasks: a renderer that has grown too large is replaced before the machine swaps."""
        limit_bytes, last_us = self._memory_limit_bytes, self._retired_us
        if limit_bytes is None or (last_us is not None and now_us() - last_us < RETIRE_EVERY_US):
            return
        renderer_bytes = self._renderer.memory_bytes()
        own_bytes = _own_bytes()
        if renderer_bytes and renderer_bytes + own_bytes > limit_bytes:
            self._retired_us = now_us()
            mib = {"renderer_mib": renderer_bytes, "peer_mib": own_bytes, "limit_mib": limit_bytes}
            self._journal("memory", **{name: size >> 20 for name, size in mib.items()})
            resident = self._renderer.resident
            await self._renderer.retire("it and its peer used more memory than they may")
            self._residency.on_let_go(resident)
            self._on_capabilities()

    def _room_bytes(self) -> int | None:
        """For weights: what is left of the limit beside all else that the two processes need."""
        if not self._shared_memory or self._memory_limit_bytes is None:
            return self._most_bytes
        weights_bytes = self._residency.needed(self._renderer.resident)
        used_bytes = self._renderer.memory_bytes() or 0  # of weights, what was touched so far
        rest_bytes = max(EMPTY_RENDERER_BYTES, used_bytes - weights_bytes)
        room_bytes = max(0, self._memory_limit_bytes - _own_bytes() - rest_bytes)
        return room_bytes if self._most_bytes is None else min(room_bytes, self._most_bytes)


def _own_bytes() -> int:
    return int(psutil.Process().memory_info().rss)
