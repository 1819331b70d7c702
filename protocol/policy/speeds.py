"""How fast others were seen to be: learned from one's own timelines, bounded."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..wire.advert import Advert
from ..wire.statement import Statement

UNKNOWN_BYTES_PER_S = 2_500_000  # 20 Mbit/s: the upload of a home line
TCP_WINDOW_BYTES = 14_600  # in flight at first and after a pause, doubled each round trip: RFC 6928, RFC 2861
MAX_LEARNED_PEERS = 4096
MAX_LEARNED_SPEEDS = 64  # of one peer
# A new measurement counts one part in four, while they are fewer as much as each before it.
LEARNING_SHARE = 4
# Up to so much guidance a step runs the model once; beyond, as many times: with the prompt and without.
NO_GUIDANCE_MILLIONTHS, GUIDED_PASSES = 1_000_000, 2
LOADING = frozenset({"start_renderer", "load_weights"})
NOT_RENDERING = LOADING | {"wait", "load_adapter"}  # what precedes START
UNDERSTATES = 2  # times: what is seen to take so much longer than is told, is not believed


@dataclass(frozen=True)
class Measured:
    """A render of one size: one step with guidance, and the rest of it when warm."""

    pixels: int
    step_us: int
    fixed_us: int
    count: int = 1  # of renders in it, as far as LEARNING_SHARE


@dataclass
class Learned:
    """What this peer observed of one other.  Read it; only SpeedBook writes."""

    # By model, precision and octave.
    speeds: "OrderedDict[tuple[bytes, str, int], Measured]" = field(default_factory=OrderedDict)
    load_us: "OrderedDict[bytes, int]" = field(default_factory=OrderedDict)  # of a model or an adapter
    bytes_per_s: int | None = None

    def nearest(self, model: bytes, precision: str, pixels: int) -> Measured | None:
        """As measured at the size nearest to `pixels`."""
        best: Measured | None = None
        for (of, with_, _), speed in self.speeds.items():
            if of == model and with_ == precision:
                if speed.pixels == pixels:
                    return speed
                if best is None or ratio(speed.pixels, pixels) < ratio(best.pixels, pixels):
                    best = speed
        return best


def observed(spans: Sequence[tuple[str, int, int]], steps: int, ran_us: int) -> tuple[int, int]:
    """(us of one step, us of the rest) of a render, from its provider's `spans` (name, start, us).

    Their sum is not taken for less than the requester itself saw pass from START to RESULT, `ran_us`: a provider that
    tells less is as slow as it was seen to be.
    """
    step_us = sorted(us for name, _, us in spans if name == "step")
    fixed_us = sum(us for name, _, us in spans if name != "step" and name not in NOT_RENDERING)
    told_us = sum(step_us) + fixed_us
    if not step_us or not told_us:
        return max(1, ran_us // steps), 0
    median_us, seen_us = step_us[len(step_us) // 2], max(told_us, ran_us)
    return max(1, median_us * seen_us // told_us), fixed_us * seen_us // told_us


def loaded_us(spans: Sequence[tuple[str, int, int]], seen_us: int) -> int:
    """What it took to load the model, by a render's spans; 0: it was loaded.

    `seen_us`: from ACCEPT to START without the promised wait, where a load was promised; what waits for other tasks is in
    it, too, so it counts only where far less is told.
    """
    told_us = sum(us for name, _, us in spans if name in LOADING)
    return seen_us if seen_us > UNDERSTATES * told_us else told_us


def applied_us(spans: Sequence[tuple[str, int, int]]) -> int:
    """What it took, by a render's spans, until its adapters were applied: nothing where they were."""
    return sum(us for name, _, us in spans if name == "load_adapter")


class SpeedBook:
    """Learns from one's own timelines how fast others are.  Bounded: who was not used for longest is forgotten.

    Another one learns how fast devices of a name are, whoever has them: `device_of` stands there for the peer.
    """

    def __init__(self) -> None:
        self._peers: OrderedDict[str, Learned] = OrderedDict()

    def of(self, peer: str) -> Learned | None:
        return self._peers.get(peer)

    def on_render(self, peer: str, statement: Statement, *, step_us: int, fixed_us: int) -> None:
        """`step_us`: one step of it took so long; `fixed_us`: the rest of a warm render."""
        guided_us = step_us * GUIDED_PASSES if unguided(statement) else step_us
        self.on_speed(
            peer, statement.model, statement.precision, Measured(statement.pixels, guided_us, fixed_us)
        )

    def on_steps(self, peer: str, statement: Statement, steps: int, us: int) -> None:
        """It drew so many steps in `us`, and then no picture came of it."""
        learned = self._peers.get(peer)
        old = learned.nearest(statement.model, statement.precision, statement.pixels) if learned else None
        fixed_us = old.fixed_us * statement.pixels // old.pixels if old else 0
        self.on_render(peer, statement, step_us=max(1, us // steps), fixed_us=fixed_us)

    def on_speed(self, peer: str, model: bytes, precision: str, measured: "Measured") -> None:
        """As `on_render`; also what was measured before this peer last stopped."""
        pixels, step_us, fixed_us = measured.pixels, measured.step_us, measured.fixed_us
        speeds, key = self._learned(peer).speeds, (model, precision, pixels.bit_length())
        old = speeds.get(key)
        if old is None:
            speeds[key] = measured
        else:
            count = min(LEARNING_SHARE, old.count + 1)
            scaled_us = old.step_us * pixels // old.pixels
            speeds[key] = Measured(
                pixels, _mean(scaled_us, step_us, count), _mean(old.fixed_us, fixed_us, count), count
            )
        speeds.move_to_end(key)
        if len(speeds) > MAX_LEARNED_SPEEDS:
            speeds.popitem(last=False)

    def on_load(self, peer: str, model: bytes, us: int) -> None:
        loads = self._learned(peer).load_us
        loads[model] = _mean(loads.get(model), us)
        loads.move_to_end(model)
        if len(loads) > MAX_LEARNED_SPEEDS:
            loads.popitem(last=False)

    def on_adapters(self, peer: str, statement: Statement, us: int) -> None:
        """Making the statement's adapters ready took it so long: nothing where they were."""
        for adapter, _ in statement.adapters:
            self.on_load(peer, adapter, us // len(statement.adapters))

    def on_transfer(self, peer: str, data_bytes: int, us: int, *, rtt_us: int) -> None:
        """`data_bytes` were here `us` after the first of them left; what of that is distance says nothing of the rate."""
        learned = self._learned(peer)
        old_bytes_per_s = learned.bytes_per_s or UNKNOWN_BYTES_PER_S
        us = max(1, us - distance_us(data_bytes, rtt_us, old_bytes_per_s))
        # The mean is of times: one file that was luckily quick must not look like a fast path for long.
        old_us = None if learned.bytes_per_s is None else data_bytes * 1_000_000 // old_bytes_per_s
        learned.bytes_per_s = max(1, data_bytes * 1_000_000 // max(1, _mean(old_us, us)))

    def statistics(self) -> dict[str, int]:
        return {
            "peers": len(self._peers),
            "speeds": sum(len(learned.speeds) for learned in self._peers.values()),
            "loads": sum(len(learned.load_us) for learned in self._peers.values()),
        }

    def _learned(self, peer: str) -> Learned:
        learned = self._peers.setdefault(peer, Learned())
        self._peers.move_to_end(peer)
        if len(self._peers) > MAX_LEARNED_PEERS:
            self._peers.popitem(last=False)
        return learned


def device_of(advert: Advert) -> str:
    """What the device of a peer is called: others that are called so are as fast, where nothing better is known."""
    return f"{advert.devices[0].kind} {advert.devices[0].name}" if advert.devices else ""


def unguided(statement: Statement) -> bool:
    """A step takes half of what one with guidance takes.

    Of `flow_euler` it is not known: Flux takes its guidance as a number, and its steps are all alike.
    """
    return statement.guidance_millionths <= NO_GUIDANCE_MILLIONTHS and statement.sampler != "flow_euler"


def step_of(statement: Statement, guided_us: int) -> int:
    """One of its steps, us, where one with guidance takes `guided_us`."""
    return max(1, guided_us // GUIDED_PASSES) if unguided(statement) else guided_us


def distance_us(data_bytes: int, rtt_us: int, bytes_per_s: int) -> int:
    """What distance alone adds to a transfer: the way, and round trips while TCP's window grows to what the path holds."""
    path_bytes = bytes_per_s * rtt_us // 1_000_000
    windows = -(-min(data_bytes, path_bytes) // TCP_WINDOW_BYTES)
    return rtt_us // 2 + max(0, windows.bit_length() - 1) * rtt_us


def ratio(first: int, second: int) -> int:
    """The larger over the smaller, rounded up."""
    return -(-max(first, second) // min(first, second))


def _mean(old: int | None, new: int, share: int = LEARNING_SHARE) -> int:
    return new if old is None else old + (new - old) // share
