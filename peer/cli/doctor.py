"""`peer doctor`: what could keep this peer from drawing, each in a sentence."""

import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peer.errors import JOB_FAILED, UserError
from protocol.wire.fields import plain

from .call import answer
from .show import console, print_json, sentence, table, who

if TYPE_CHECKING:
    from peer.config import PeerConfig

LOW_DISK_BYTES = 1 << 30  # a few hundred pictures, journals and receipts
NO_DISK_BYTES = 100 << 20  # the journal and its older copy, and the ledger
# No clock can be right that is before this program was written.
WRITTEN_UNIX_S = 1_767_225_600  # 2026-01-01


@dataclass(frozen=True)
class Finding:
    what: str
    state: Literal["ok", "warning", "problem"]
    sentence: str


def doctor(config: "PeerConfig", *, as_json: bool) -> None:
    """UserError if there is a problem."""
    findings = [*_local(config), *_swarm(config)]
    problems = sum(finding.state == "problem" for finding in findings)
    if as_json:
        print_json({"ok": not problems, "findings": [asdict(finding) for finding in findings]})
    else:
        rows = [(finding.state, finding.what, sentence(finding.sentence)) for finding in findings]
        console().print(table(("", "what", "finding"), rows, wrapped=("finding",)))
    if problems:
        raise SystemExit(JOB_FAILED)  # the table was the sentence


def _local(config: "PeerConfig") -> Iterator[Finding]:
    yield check_home(config.home)
    yield check_key(config.home)
    yield check_disk(config.home)
    yield check_clock(int(time.time()))
    yield from check_models(config.models, config.adapters)
    yield check_device()


def check_home(home: Path) -> Finding:
    if not home.exists():
        return Finding("home", "ok", f"{home} does not exist yet; the first start makes it.")
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        return Finding("home", "problem", f"{home} cannot be written to by this user.")
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & 0o022:
        return Finding(
            "home", "warning", f"{home} can be changed by other users (mode {mode:04o}): chmod 700 {home}"
        )
    return Finding("home", "ok", f"{home}")


def check_key(home: Path) -> Finding:
    from peer.store.identity import KEY_FILE, KeyFileError, load_or_create_identity, peer_id

    if not os.path.lexists(home / KEY_FILE):
        return Finding("key", "ok", "No key yet; the first start makes one.")
    try:
        return Finding("key", "ok", f"This peer is {peer_id(load_or_create_identity(home))}.")
    except KeyFileError as exc:
        return Finding("key", "problem", str(exc))


def check_disk(home: Path) -> Finding:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    words = f"{free_bytes / 1e9:.1f} GB are free for {home}."
    if free_bytes < NO_DISK_BYTES:
        return Finding("disk", "problem", f"Only {words} Receipts could not be stored.")
    return Finding("disk", "warning" if free_bytes < LOW_DISK_BYTES else "ok", words)


def check_clock(now_unix_s: int) -> Finding:
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_unix_s))
    if now_unix_s < WRITTEN_UNIX_S:
        return Finding(
            "clock", "problem", f"The clock says {shown}, before this program was written: set it."
        )
    return Finding("clock", "ok", f"It is {shown}.")


def check_models(folders: tuple[Path, ...], adapters: tuple[Path, ...] = ()) -> Iterator[Finding]:
    from peer.store.adapters import AdapterError, find_adapters
    from peer.store.models import ModelError, reference_model_folder, scan_folder

    models = []
    for folder in folders or (reference_model_folder(),):
        try:
            model = scan_folder(folder)
        except ModelError as exc:
            yield Finding("model", "problem", str(exc))
        else:
            yield Finding(
                "model", "ok", f"{plain(model.name)} ({model.family}), {model.id.hex()[:12]}, {folder}"
            )
            models.append(model)
    try:
        found = find_adapters(models, adapters) if models else {}
    except (AdapterError, ModelError) as exc:
        yield Finding("adapter", "problem", str(exc))
        return
    for model in models:
        for each in found.get(model.id, {}).values():
            of = f"for {plain(model.name)}, {each.id.hex()[:12]}, {each.folder}"
            yield Finding("adapter", "ok", f"{each.name} {of}")


def check_device() -> Finding:
    try:
        from peer.renderer.devices import detect
    except ImportError as exc:
        return Finding(
            "device", "problem", f"Nothing can be rendered here: {exc.name or 'torch'} is not installed."
        )
    found = detect()
    if not found:
        return Finding("device", "problem", "No device was found that renders.")
    devices = []
    for device in found:
        memory = "memory unknown" if device.memory_mib is None else f"{device.memory_mib} MiB"
        count = "" if device.count == 1 else f"{device.count} x "
        devices.append(f"{count}{device.name} ({device.kind}, {memory}, {', '.join(device.dtypes)})")
    return Finding("device", "ok", "; ".join(devices))


def _swarm(config: "PeerConfig") -> Iterator[Finding]:
    holder = _holder(config.home)
    try:
        if holder is not None:
            yield from check_status(answer(config, "status", {}))
        elif config.join:
            others = [peer for peer in answer(config, "swarm", {})["peers"] if not peer["self"]]
            yield Finding("peers", "ok" if others else "warning", f"{len(others)} known by way of --join.")
        else:
            yield Finding("peer", "ok", "No peer runs on this home; `peer up` starts one.")
    except UserError as exc:
        words = exc.sentence if holder is None else f"{holder} It does not answer: {exc.sentence}"
        yield Finding("peer", "problem", words)


def check_status(status: dict[str, Any]) -> Iterator[Finding]:
    """What a running peer says of itself."""
    yield Finding("peer", "ok", f"{who(status['name'], status['peer'])} runs.")
    addresses = [plain(str(address), 200) for address in status["addresses"]]
    outside = [address for address in addresses if not address.startswith(("/ip4/127.", "/ip6/::1/"))]
    if outside:
        yield Finding("reachable", "ok", f"Others reach it at {', '.join(outside)}.")
    elif addresses:
        yield Finding("reachable", "warning", f"Only this machine reaches it: {', '.join(addresses)}.")
    else:
        yield Finding("reachable", "problem", "It listens nowhere.")
    connected, known = status["peers_connected"], status["peers_known"]
    yield Finding(
        "peers",
        "ok" if connected else "warning",
        f"{connected} connected, {known} known."
        if connected
        else "It is connected to nobody: --join somebody.",
    )
    for note in status["clock_notes"]:
        yield Finding("clock", "warning", sentence(note))


def _holder(home: Path) -> str | None:
    """Who holds the home's lock, in a sentence; None: nobody."""
    from peer.store.identity import LOCK_FILE, AlreadyRunning, HomeLock

    if not (home / LOCK_FILE).exists():
        return None
    try:
        with HomeLock(home):
            return None
    except AlreadyRunning as exc:
        return f"Process {exc.pid} uses this home." if exc.pid is not None else "A process uses this home."
    except OSError as exc:
        return f"The lock file in {home} cannot be opened: {exc.strerror}."
