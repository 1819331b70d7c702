"""What this peer measured of its own device, kept across restarts: its adverts then say it from the first on."""

from protocol.policy.speeds import Measured, SpeedBook

from .ledger import Ledger, OwnSpeed


def remember(ledger: Ledger, device: str, book: SpeedBook, own_peer: str) -> None:
    """Into `book`, what was kept of `device` when this peer last ran."""
    loads, speeds = ledger.speeds(device)
    for model, us in loads.items():
        book.on_load(own_peer, model, us)
    for each in speeds:
        measured = Measured(each.pixels, each.step_us, each.fixed_us, each.count)
        book.on_speed(own_peer, each.model, each.precision, measured)


def keep(ledger: Ledger, device: str, book: SpeedBook, own_peer: str) -> None:
    learned = book.of(own_peer)
    if learned is None:
        return
    speeds = [
        OwnSpeed(model, precision, each.pixels, each.step_us, each.fixed_us, each.count)
        for (model, precision, _), each in list(learned.speeds.items())  # a snapshot: this runs in a thread
    ]
    ledger.put_speeds(device, dict(learned.load_us), speeds)
