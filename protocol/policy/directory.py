"""What this peer knows of the others: adverts in, expiry by `now`, candidates out."""

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..wire.advert import MAX_SYNC_ADVERTS, MAX_SYNC_KNOWN, Advert, SignedAdvert
from ..wire.envelope import Envelope
from ..wire.hello import LiveState, WaitMessage
from ..wire.statement import Statement
from .calibration import Calibration
from .given import Given
from .names import short
from .prediction import Candidate
from .rtt import Rtt, RttEstimator, Way
from .sources import Crowd, source_of
from .speeds import SpeedBook, device_of
from .timeline import duration
from .trials import MAX_PENALTY_US, Trials
from .waits import Waits

__all__ = ["Candidate", "Directory", "Verdict"]

MAX_PEERS = 4096  # with adverts of 4 KiB: 16 MiB
MAX_SKEW_US = 600_000_000
PENALTY_US = 10_000_000
# After the first failure since its last picture; four times as long after the second, ...
PENALTY_HALVES_US = 30_000_000
MOST_FAILURES = 4  # of those


@dataclass(frozen=True)
class Verdict:
    """What an advert was.  Only a "new" or "newer" one is worth telling others."""

    outcome: str  # "new": of a peer not known; "newer"; "old": known, replayed or overtaken; "own"; "full"
    note: str | None = None  # a sentence for the operator

    @property
    def fresh(self) -> bool:
        return self.outcome in ("new", "newer")


@dataclass
class _Peer:
    signed: SignedAdvert | None = None
    heard_us: int = 0
    rtt: RttEstimator = field(default_factory=RttEstimator)
    state: LiveState | None = None
    state_us: int = 0
    watched_until_us: int = 0
    waits: Waits = field(default_factory=Waits)
    connected: bool = False
    given: Given = field(default_factory=Given)
    penalty_us: int = 0  # as of penalised_us
    penalised_us: int = 0
    failures: int = 0  # since its last picture
    met: bool = False  # it was connected
    drew: bool = False  # a picture came of it: it is no stranger
    skew_note: str | None = None

    def watched(self, now_us: int) -> bool:
        """It tells at once when `state` is no longer so."""
        return self.state is not None and now_us < self.watched_until_us

    @property
    def idle(self) -> bool:
        """Nothing here needs to be remembered."""
        return self.signed is None and not self.connected and not self.given


class Directory:
    """The peers of one swarm, as seen by `own_peer`.  `now_us` is monotonic; `wall_us` is Unix time."""

    def __init__(self, own_peer: str, own_state: Callable[[], LiveState | None] = lambda: None) -> None:
        """`own_state`: of its own device, at the moment; None: not known."""
        self.own_peer = own_peer
        self._own_state = own_state
        self.speeds = SpeedBook()
        self._devices = SpeedBook()  # by device_of, instead of by peer
        self.calibration = Calibration()
        self._own: SignedAdvert | None = None
        self._own_able: Advert | None = None
        self._own_note: str | None = None
        self._peers: dict[str, _Peer] = {}
        # Versions of the forgotten: no replay revives them.
        self._gone: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._trials = Trials()
        self._crowd = Crowd()  # those of whom there is an advert and no connection
        self._counts: Counter[str] = Counter()

    def on_own_advert(self, signed: SignedAdvert, able: Advert | None = None) -> None:
        """What this peer tells others, and what it is `able` to do for itself where that is more (it may not provide)."""
        self._own = signed
        self._own_able = able or signed.advert
        self._peers.setdefault(self.own_peer, _Peer()).connected = True

    def on_advert(self, signed: SignedAdvert, now_us: int, wall_us: int) -> Verdict:
        verdict = self._judge(signed, now_us, wall_us)
        self._counts[verdict.outcome] += 1
        return verdict

    def expire(self, now_us: int) -> tuple[str, ...]:
        """Forgets the peers whose adverts outlived themselves, counted from when we heard them; tells which."""
        expired = []
        for peer, known in list(self._peers.items()):
            if known.signed is None or now_us < known.heard_us + known.signed.advert.lifetime_s * 1_000_000:
                continue
            expired.append(peer)
            self._forget_advert(peer)
        return tuple(expired)

    def on_connected(self, peer: str) -> None:
        known = self._peers.setdefault(peer, _Peer())
        known.connected = known.met = True
        self._crowd.remove(peer)

    def on_disconnected(self, peer: str) -> None:
        """Its live state is void: nobody keeps it fresh."""
        known = self._peers.get(peer)
        if known is not None and peer != self.own_peer:
            known.connected, known.state, known.watched_until_us = False, None, 0
            if known.signed is not None:
                self._crowd.add(peer, source_of(known.signed.advert))
            self._forget_if_idle(peer)

    def on_rtt(self, peer: str, rtt_us: int, now_us: int, way: Way = Way.DIRECT) -> None:
        """A round trip by one's own clock.  Of a peer that is not known, nothing is kept."""
        known = self._peers.get(peer)
        if known is not None:
            known.rtt.add(rtt_us, now_us, way)

    def on_state(self, peer: str, state: LiveState, now_us: int) -> None:
        known = self._peers.get(peer)
        if known is not None:
            known.state, known.state_us = state, now_us
            mine_us = known.given.on_told(
                state.wait_us, state.running + state.queued, _spoken_us(known), now_us
            )
            known.waits.on_told(state.wait_us - mine_us, now_us, watched=known.watched(now_us))

    def on_wait(self, peer: str, wait: WaitMessage, now_us: int) -> None:
        """Only that of its live state has changed.  Of a peer whose live state is not known, nothing is kept."""
        known = self._peers.get(peer)
        if known is not None and known.state is not None:
            self.on_state(peer, wait.changed(known.state), now_us)

    def on_watched(self, peer: str, until_us: int) -> None:
        """Until then it tells at once when its live state is no longer what it told."""
        known = self._peers.get(peer)
        if known is not None:
            known.watched_until_us = until_us

    def watched(self, peer: str, now_us: int) -> bool:
        known = self._peers.get(peer)
        return known is not None and known.watched(now_us)

    def heard_us(self, peer: str, now_us: int) -> int | None:
        """Of when its live state is, as far as is known here."""
        known = self._peers.get(peer)
        if known is None or known.state is None:
            return None
        return now_us - _silent_us(known, now_us)

    def on_accepted(self, peer: str, attempt: bytes, start_by_us: int) -> None:
        """A task of one's own is to begin there by then: until it does, it shows how late that peer is."""
        known = self._peers.get(peer)
        if known is not None:
            known.given.on_accepted(attempt, start_by_us)

    def on_start(self, peer: str, attempt: bytes, *, promised_us: int, took_us: int, now_us: int) -> None:
        """A task of one's own began there, `took_us` after it had promised to begin within `promised_us`."""
        known = self._peers.get(peer)
        if known is not None:
            known.given.on_start(attempt, now_us)
            known.waits.on_start(promised_us, took_us, now_us)

    def on_no_start(self, peer: str, *, promised_us: int, took_us: int, now_us: int) -> None:
        """It is no longer waited for, `took_us` after it had promised to begin one within `promised_us`."""
        known = self._peers.get(peer)
        if known is not None:
            known.waits.on_no_start(promised_us, took_us, now_us)

    def on_refused(self, peer: str, *, max_wait_us: int | None, busy_us: int, now_us: int) -> None:
        """It was too busy for a task of `busy_us` that might have waited for so long; its state was told before this.

        `max_wait_us` None: for ever.  Who has no room even so has at least one such task before it.
        """
        known = self._peers.get(peer)
        if known is not None:
            told_us = known.state.wait_us if known.state else 0
            waits_us = busy_us if max_wait_us is None else max_wait_us
            known.waits.on_refused(told_us, waits_us, now_us)

    def on_offered(self, peer: str, attempt: bytes, busy_us: int, now_us: int) -> None:
        """One's own task went there and will occupy its renderer for `busy_us`."""
        known = self._peers.get(peer)
        if known is not None:
            known.given.on_offered(attempt, busy_us, now_us)

    def on_ended(self, peer: str, attempt: bytes, now_us: int) -> None:
        """The attempt no longer needs its renderer: drawn, refused, lost or cancelled.  Said again, nothing changes.

        Of the wait told last, what was for it is taken off.
        """
        known = self._peers.get(peer)
        if known is not None:
            less_us = known.given.on_ended(attempt, now_us)
            if known.state is not None and less_us:
                known.state = replace(known.state, wait_us=max(0, known.state.wait_us - less_us))
            self._forget_if_idle(peer)

    def on_penalty(self, peer: str, now_us: int) -> None:
        """It was lost or froze while it worked, or said what it may not: avoid it for a while.  Not an accusation.

        For longer each time until a picture comes of it again; and with it the strangers that come from where it does.
        """
        known = self._peers.get(peer)
        if known is not None:
            known.penalty_us = min(MAX_PENALTY_US, _penalty(known, now_us) + PENALTY_US)
            known.penalised_us = now_us
            self._on_failure(peer, known, now_us)

    def on_excuse(self, peer: str, now_us: int) -> None:
        """It took on what it did not deliver, by nobody's fault as it says: the first since its last picture is free."""
        known = self._peers.get(peer)
        if known is not None:
            if known.failures:
                self.on_penalty(peer, now_us)
            else:
                self._on_failure(peer, known, now_us)

    def on_render(self, peer: str, statement: Statement, *, step_us: int, fixed_us: int) -> None:
        """One of its steps took so long, and the rest of a warm render; so may others' devices of that name."""
        self.speeds.on_render(peer, statement, step_us=step_us, fixed_us=fixed_us)
        known = self._peers.get(peer)
        if known is not None and known.signed is not None and (device := device_of(known.signed.advert)):
            self._devices.on_render(device, statement, step_us=step_us, fixed_us=fixed_us)

    def on_drawn(self, peer: str, now_us: int) -> None:
        """A picture came of it, and holds."""
        known = self._peers.get(peer)
        if known is not None:
            if not known.drew and peer != self.own_peer:
                self._trials.on_succeeded(_source(known), now_us, connected=True)
            known.drew, known.failures = True, 0

    def on_reached(self, peer: str, now_us: int, *, for_picture: bool = False) -> None:
        """A dial led to it.  `for_picture`: it was to draw one."""
        known = self._peers.get(peer)
        if known is not None:
            self._trials.on_succeeded(_source(known), now_us, connected=False, for_picture=for_picture)

    def on_unreached(self, peer: str, now_us: int, *, for_picture: bool = False) -> None:
        """None did, or not soon enough."""
        known = self._peers.get(peer)
        if known is not None:
            self._trials.on_failed(_source(known), now_us, connected=False, for_picture=for_picture)

    def candidates(
        self, now_us: int, *, own: bool = True, among: frozenset[str] | None = None
    ) -> tuple[Candidate, ...]:
        """Everyone whose advert is alive, with this peer itself unless `own` is False; capable or not; of those `among`."""
        if own and (own_state := self._own_state()) is not None:
            self.on_state(self.own_peer, own_state, now_us)
        found, speeds, multiple, devices = [], self.speeds.of, self.calibration.multiple, self._devices
        avoided = self._stranger_us if self._trials.any_failed() else None
        peers = self._peers
        for peer, known in (
            peers.items()
            if among is None
            else [(peer, peers[peer]) for peer in sorted(among) if peer in peers]
        ):
            is_own = peer == self.own_peer
            signed = self._own if is_own else known.signed
            if signed is None or (is_own and not own):
                continue
            if not is_own and now_us >= known.heard_us + signed.advert.lifetime_s * 1_000_000:
                continue
            note = self._own_note if is_own else known.skew_note
            rtt = known.rtt.estimate()
            state = known.state
            found.append(
                Candidate(  # by position: by name, a plan of a hundred peers takes a quarter longer
                    peer,
                    self._own_able if is_own and self._own_able else signed.advert,
                    rtt,
                    state,
                    max(0, now_us - known.state_us) if state else 0,
                    _silent_us(known, now_us) if state else 0,
                    known.connected,
                    is_own,
                    speeds(peer),
                    known.given.untold_us(_spoken_us(known), now_us) if known.given else 0,
                    (_penalty(known, now_us) if known.penalty_us else 0)
                    + (avoided(known, now_us) if avoided and not known.drew and not is_own else 0),
                    (note,) if note else (),
                    known.waits.mean_us,
                    max(known.waits.late_us(now_us), _late_us(known, now_us) if known.given else 0),
                    multiple(peer),
                    devices,
                )
            )
        return tuple(found)

    def versions(self) -> dict[str, tuple[int, int]]:
        """What a request for newer adverts says we hold: of what we heard last, as much as one request may name.

        What is left out may be told to us again, which costs its bytes and nothing else.
        """
        held = [(peer, known) for peer, known in self._peers.items() if known.signed]
        latest = sorted(held, key=lambda item: -item[1].heard_us)[:MAX_SYNC_KNOWN]
        return {peer: known.signed.advert.version for peer, known in latest if known.signed}

    def newer_than(self, known: dict[str, tuple[int, int]], now_us: int) -> list[Envelope]:
        """Adverts to tell a peer that holds those `known`: our own, then those we heard last; bounded."""
        newer = [
            signed.envelope
            for signed in self.young(now_us)
            if known.get(signed.peer, (-1, -1)) < signed.advert.version
        ]
        return newer[:MAX_SYNC_ADVERTS]

    def young(self, now_us: int) -> list[SignedAdvert]:
        """Adverts fit to be told: our own, then those we heard last.

        What is past half its life is not told: its peer may be gone, and each that hears it would keep it as long again.
        """
        held = [
            record.signed
            for record in sorted(self._peers.values(), key=lambda record: -record.heard_us)
            if record.signed and now_us < record.heard_us + record.signed.advert.lifetime_s * 500_000
        ]
        return [self._own, *held] if self._own is not None else held

    def signed_advert(self, peer: str) -> SignedAdvert | None:
        known = self._peers.get(peer)
        return self._own if peer == self.own_peer else known.signed if known else None

    def rtt(self, peer: str) -> Rtt | None:
        known = self._peers.get(peer)
        return known.rtt.estimate() if known else None

    def notes(self) -> tuple[str, ...]:
        """Sentences about clocks and identities that someone should look at."""
        notes = [self._own_note, *(known.skew_note for known in self._peers.values())]
        return tuple(note for note in notes if note)

    def statistics(self) -> dict[str, int]:
        return {
            "peers": sum(known.signed is not None for known in self._peers.values()),
            "connected": sum(known.connected for peer, known in self._peers.items() if peer != self.own_peer),
            **{f"adverts_{name}": self._counts[name] for name in ("new", "newer", "old", "own", "full")},
        }

    def _judge(self, signed: SignedAdvert, now_us: int, wall_us: int) -> Verdict:
        peer, version = signed.peer, signed.advert.version
        if peer == self.own_peer:
            if self._own is not None and version > self._own.advert.version:
                self._own_note = (
                    "Another peer uses this peer's identity: two machines must not share a key file."
                )
                return Verdict("own", self._own_note)
            return Verdict("own")
        known = self._peers.get(peer)
        if known is not None and known.signed is not None:
            outcome, held = "newer", known.signed.advert.version
        else:
            outcome, held = "new", self._gone.get(peer, (-1, -1))
        if version <= held:
            return Verdict("old")
        if known is None:
            if len(self._peers) >= MAX_PEERS:
                leaves = self._crowd.makes_way_for(source_of(signed.advert))
                if leaves is None:
                    return Verdict("full", f"{MAX_PEERS} peers are known, and more are not taken.")
                self._forget_advert(leaves)
            known = self._peers[peer] = _Peer()
        self._gone.pop(peer, None)
        known.signed, known.heard_us = signed, now_us
        if not known.connected:
            self._crowd.add(peer, source_of(signed.advert))
        known.skew_note = _skew(signed, wall_us)
        return Verdict(outcome, known.skew_note)

    def _on_failure(self, peer: str, known: _Peer, now_us: int) -> None:
        known.failures += 1
        if not known.drew and peer != self.own_peer:
            self._trials.on_failed(_source(known), now_us, connected=known.met)

    def _stranger_us(self, known: _Peer, now_us: int) -> int:
        return self._trials.penalty_us(_source(known), now_us, connected=known.connected)

    def _forget_advert(self, peer: str) -> None:
        known = self._peers[peer]
        if known.signed is not None:
            self._gone[peer] = known.signed.advert.version
            self._gone.move_to_end(peer)
            if len(self._gone) > MAX_PEERS:
                self._gone.popitem(last=False)
        known.signed = None
        self._crowd.remove(peer)
        self._forget_if_idle(peer)

    def _forget_if_idle(self, peer: str) -> None:
        if self._peers[peer].idle and peer != self.own_peer:
            del self._peers[peer]


def _skew(signed: SignedAdvert, wall_us: int) -> str | None:
    ahead_us = signed.advert.issued_us - wall_us
    if abs(ahead_us) <= MAX_SKEW_US:
        return None
    name = signed.advert.name or short(signed.peer)
    where = "ahead of" if ahead_us > 0 else "behind"
    return f"The clock of {name} is {duration(abs(ahead_us))} {where} ours: one of the two is wrong."


def _penalty(known: _Peer, now_us: int) -> int:
    if not known.penalty_us:
        return 0
    halves_us = PENALTY_HALVES_US << 2 * max(0, min(MOST_FAILURES, known.failures) - 1)
    halvings, rest_us = divmod(max(0, now_us - known.penalised_us), halves_us)
    whole = known.penalty_us >> min(halvings, 64)
    return whole - whole * rest_us // (2 * halves_us)  # straight between the halvings


def _late_us(known: _Peer, now_us: int) -> int:
    """Of one's own tasks there, as far as the wait that it tells does not say so."""
    told_us = known.state.wait_us - (now_us - known.state_us) if known.state else 0
    return max(0, known.given.late_us(now_us) - max(0, told_us))


def _source(known: _Peer) -> str | None:
    return source_of(known.signed.advert) if known.signed else None


def _silent_us(known: _Peer, now_us: int) -> int:
    """For so long its live state may have become another without our having heard of it."""
    age_us = max(0, now_us - known.state_us)
    rtt = known.rtt.estimate() if known.watched(now_us) else None
    return min(age_us, rtt.min_us) if rtt else age_us


def _spoken_us(known: _Peer) -> int:
    """The moment its state speaks of, at the earliest."""
    rtt = known.rtt.estimate()
    return known.state_us - (rtt.min_us if rtt else 0) if known.state else -1
