"""Which models a renderer keeps loaded: some are loaded ahead of demand, some make way where memory is needed.

A resident model is worth what it saves: the tasks that are expected of it in a time x the time of loading it again.
Demand is what is asked of this provider, its part of what is asked of others, and what its operator listed.

Ahead of demand a model is loaded only where that saves more than it costs: a load is not cut short for a task that
comes meanwhile, which waits (and is told so).  Cutting it short would gain little, for the largest part of a model is
most of it (the UNet has 3.4 of SD 1.5's 4.3 GB), and killing the renderer would lose what else is loaded.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

# Demand of so long ago counts 1/e; a model loaded ahead is to save its cost within it.
DEMAND_OVER_US = 600_000_000
# The first model that the operator listed is taken to be asked for so often, the second half as often, and so on; what
# is not listed and asked for less is not loaded ahead.
LISTED_EVERY_US = 3_600_000_000
STAY_US = 60_000_000  # before that, a loaded model does not make way for what is only expected
GAIN = 2  # what is loaded ahead is worth so many times what makes way for it
FAILED_FOR_US = 600_000_000  # a model that could not be loaded is left alone for so long
# One that was gone again before STAY_US, with its renderer, is loaded ahead at once the first time; then it is left alone
# for so long, and twice as long each time after that, up to FAILED_FOR_US.
GONE_FOR_US = 4_000_000
HEARSAY_EVERY_US = 60_000_000  # of what costs a peer nothing to say, once in so long counts of each model
MAX_PEERS = 4096


@dataclass(frozen=True)
class Ahead:
    """Load `model` now; `evict` makes way."""

    model: bytes
    evict: tuple[bytes, ...]


class Residency:
    """Of one renderer.  Models it does not have are ignored; `room_bytes` is for weights, None: unlimited."""

    def __init__(
        self, model_bytes: Mapping[bytes, int], listed: Sequence[bytes], reload_us: Callable[[bytes], int]
    ) -> None:
        """`model_bytes`: of each model's files; `listed`: most wanted first; `reload_us`: what is expected."""
        self._bytes = dict(model_bytes)
        self._listed = {model: 1 / (LISTED_EVERY_US * place) for place, model in enumerate(listed, 1)}
        self._reload_us = reload_us
        self._asked: dict[
            bytes, tuple[float, int]
        ] = {}  # tasks, each faded since it was asked for; as of when
        self._loaded_us: dict[bytes, int] = {}
        self._gone: Counter[bytes] = Counter()  # how often in a row, soon after it was loaded
        self._left_alone_until_us: dict[bytes, int] = {}
        self._said_us: OrderedDict[tuple[str, bytes], int] = OrderedDict()
        self._elsewhere: OrderedDict[str, tuple[frozenset[bytes], frozenset[bytes]]] = OrderedDict()
        self._counts: Counter[str] = Counter()

    # what is seen

    def on_taken(self, model: bytes, now_us: int) -> None:
        """A task of it was offered here and taken."""
        self._count(model, 1.0, now_us)

    def on_refused(self, peer: str, model: bytes, now_us: int) -> None:
        """A task of it was offered here by `peer`, and another time might have been taken."""
        if self._is_news(peer, model, now_us):
            self._count(model, 1.0, now_us)

    def on_sought(self, peer: str, model: bytes, now_us: int) -> None:
        """`peer` looks for those who have it: one task, for any of them."""
        if self._is_news(peer, model, now_us):
            self._count(model, 1 / self._providers(model), now_us)

    def on_advert(self, peer: str, offered: Iterable[bytes], resident: Iterable[bytes], now_us: int) -> None:
        """A provider that loaded a model since its last advert was asked for it, as any that has it might be next."""
        known = self._bytes.keys()
        news = frozenset(offered) & known, frozenset(resident) & known
        before = self._elsewhere.get(peer)
        self._elsewhere[peer] = news
        self._elsewhere.move_to_end(peer)
        if len(self._elsewhere) > MAX_PEERS:
            self._elsewhere.popitem(last=False)
        for model in news[1] - before[1] if before else ():
            self.on_sought(peer, model, now_us)

    def on_loaded(self, model: bytes, weights_bytes: int | None, now_us: int) -> None:
        self._loaded_us[model] = now_us
        self._left_alone_until_us.pop(model, None)
        if weights_bytes is not None:
            self._bytes[model] = weights_bytes

    def on_failed(self, model: bytes, now_us: int) -> None:
        """It could not be loaded."""
        self._left_alone_until_us[model] = now_us + FAILED_FOR_US

    def on_let_go(self, models: Iterable[bytes]) -> None:
        """They are not loaded any more, as was wanted."""
        for model in models:
            self._loaded_us.pop(model, None)

    def gone(self, resident: Iterable[bytes], now_us: int) -> tuple[bytes, ...]:
        """What was loaded, was not let go and is not `resident`: its renderer died.  Each is told once."""
        gone = tuple(self._loaded_us.keys() - frozenset(resident))
        for model in gone:
            soon = now_us - self._loaded_us.pop(model) < STAY_US
            self._gone[model] = times = self._gone[model] + 1 if soon else 1
            if times > 1:
                pause_us = min(FAILED_FOR_US, GONE_FOR_US << min(times - 2, 16))
                self._left_alone_until_us[model] = now_us + pause_us
        return gone

    # what follows

    def worth(self, model: bytes, now_us: int) -> float:
        """The share of the renderer's time that is saved while it is loaded."""
        return self._per_us(model, now_us) * self._reload_us(model)

    def needed(self, models: Iterable[bytes]) -> int:
        """Bytes that all of these take together."""
        return sum(self._bytes[model] for model in set(models))

    def makes_way(
        self,
        model: bytes,
        resident: Iterable[bytes],
        upcoming: Sequence[bytes],
        room_bytes: int | None,
        now_us: int,
    ) -> tuple[bytes, ...]:
        """What goes so that a task of `model` can run.  `upcoming`: the models of tasks that wait, the next first.

        Those that no task waits for go before others, what is worth least first; of the others, what is needed last.
        Where nothing that could go is enough, all of it goes.
        """
        order = sorted(
            (each for each in resident if each != model),
            key=lambda each: (
                -upcoming.index(each) if each in upcoming else -math.inf,
                self.worth(each, now_us),
                each,
            ),
        )
        return self._enough(model, order, order, room_bytes)

    def after(
        self,
        resident: Iterable[bytes],
        upcoming: Sequence[bytes],
        room_bytes: int | None,
        now_us: int,
    ) -> frozenset[bytes]:
        """What of the `resident` models is still loaded when all `upcoming` tasks have run: none needs loading again."""
        held = kept = frozenset(resident)
        for place, model in enumerate(upcoming):
            held -= frozenset(self.makes_way(model, held, upcoming[place + 1 :], room_bytes, now_us))
            kept &= held
            held |= {model}
        return kept

    def ahead(self, resident: Iterable[bytes], room_bytes: int | None, now_us: int) -> Ahead | None:
        """The model to load while the renderer rests: nothing runs, and nothing waits."""
        held = frozenset(resident)
        wanted = [model for model in self._bytes.keys() - held if self._wanted(model, now_us)]
        for model in sorted(wanted, key=lambda model: (-self.worth(model, now_us), model)):
            settled = [each for each in held if now_us - self._loaded_us.get(each, -STAY_US) >= STAY_US]
            order = sorted(settled, key=lambda each: (self.worth(each, now_us), each))
            evict = self._enough(model, held, order, room_bytes)
            if room_bytes is not None and self.needed((held - frozenset(evict)) | {model}) > room_bytes:
                continue
            lost = sum(self.worth(each, now_us) for each in evict)
            if not evict or self.worth(model, now_us) > GAIN * lost:
                self._counts["ahead"] += 1
                self._counts["evicted_for_it"] += len(evict)
                return Ahead(model, evict)
        return None

    def statistics(self) -> dict[str, int]:
        return {
            "asked": len(self._asked),
            "elsewhere": len(self._elsewhere),
            "said": len(self._said_us),
            **{name: self._counts[name] for name in ("ahead", "evicted_for_it")},
        }

    def _enough(
        self, model: bytes, resident: Iterable[bytes], order: Sequence[bytes], room_bytes: int | None
    ) -> tuple[bytes, ...]:
        """The first of `order` whose going makes room for `model`, without those that then need not go."""
        if room_bytes is None:
            return ()
        over_bytes = self.needed((*resident, model)) - room_bytes
        going = []
        for each in order:
            if over_bytes <= 0:
                break
            going.append(each)
            over_bytes -= self._bytes[each]
        for each in reversed(going.copy()):
            if over_bytes + self._bytes[each] <= 0:
                going.remove(each)
                over_bytes += self._bytes[each]
        return tuple(going)

    def _wanted(self, model: bytes, now_us: int) -> bool:
        """To have it saves more than loading it costs those who come meanwhile: half the load each, at the mean."""
        if now_us < self._left_alone_until_us.get(model, now_us):
            return False
        per_us = self._per_us(model, now_us)
        if model not in self._listed and per_us < 1 / LISTED_EVERY_US:
            return False
        others_per_us = sum(
            self._tasks(each, now_us) / DEMAND_OVER_US for each in self._asked if each != model
        )
        return 2 * per_us * DEMAND_OVER_US > others_per_us * self._reload_us(model)

    def _count(self, model: bytes, tasks: float, now_us: int) -> None:
        if model in self._bytes:
            self._asked[model] = self._tasks(model, now_us) + tasks, now_us

    def _is_news(self, peer: str, model: bytes, now_us: int) -> bool:
        said_us = self._said_us.get((peer, model))
        if model not in self._bytes or (said_us is not None and now_us - said_us < HEARSAY_EVERY_US):
            return False
        self._said_us[peer, model] = now_us
        self._said_us.move_to_end((peer, model))
        if len(self._said_us) > MAX_PEERS:
            self._said_us.popitem(last=False)
        return True

    def _per_us(self, model: bytes, now_us: int) -> float:
        """Tasks of it that are expected in a microsecond."""
        return self._tasks(model, now_us) / DEMAND_OVER_US + self._listed.get(model, 0.0)

    def _tasks(self, model: bytes, now_us: int) -> float:
        tasks, at_us = self._asked.get(model, (0.0, now_us))
        return tasks * math.exp((at_us - now_us) / DEMAND_OVER_US)

    def _providers(self, model: bytes) -> int:
        """Those who have it, as far as is known; this one is one of them."""
        return 1 + sum(model in offered for offered, _ in self._elsewhere.values())
