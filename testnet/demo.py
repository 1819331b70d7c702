"""The demo: a swarm of real peers, one picture rendered by another peer, checked, and where its time went.

Only the standard library is imported at the top, so that wrong flags are told before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .swarm import Peer, Swarm

    Tell = Callable[[str], None]

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "a gold spiral on navy"
PEERS = 5
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FILE_NAME_CHARACTERS = 60


class DemoFailed(Exception):
    """What the demo shows is not so: which step, and what was seen."""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Starts peers on this machine, has one render a picture for another, and stops them.",
    )
    parser.add_argument("--peers", type=int, default=PEERS, metavar="N", help=f"how many, 2 to 50 ({PEERS})")
    parser.add_argument("--prompt", metavar="TEXT", help=f'what to draw ("{PROMPT}")')
    parser.add_argument(
        "--out", type=Path, default=ROOT / "out", metavar="DIR", help="where the picture goes (out/)"
    )
    parser.add_argument(
        "--gallery",
        action="store_true",
        help="have eighteen pictures drawn at once, and put them on one sheet",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(arguments)
    if not 2 <= options.peers <= 50:
        parser.error(f"--peers must be 2 to 50, one to ask and the others to render, not {options.peers}.")
    if options.gallery and options.prompt is not None:
        parser.error("--gallery has prompts of its own: leave out --prompt.")
    if options.prompt is None:
        options.prompt = PROMPT
    if not options.prompt.strip():
        parser.error("--prompt must say what to draw.")
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out must be a folder, and {options.out} is a file.")
    options.out = options.out.resolve()
    return options


async def run(options: argparse.Namespace) -> int:
    """Exit code: 0, or 1 with a sentence on stderr."""
    from .processes import AlreadyUp
    from .swarm import SwarmConfig, SwarmError, swarm

    told = sys.stderr if options.json else sys.stdout
    asked_s = time.monotonic()

    def tell(sentence: str) -> None:
        print(f"[{time.monotonic() - asked_s:5.1f} s] {sentence}", file=told, flush=True)

    def show(text: str) -> None:
        print(f"\n{text.strip()}\n", file=told, flush=True)

    config = SwarmConfig(peers=options.peers, providers=options.peers - 1, on_progress=tell)
    tell(f"Starting {options.peers} peers, each a process of its own, on 127.0.0.1.")
    try:
        async with swarm(config) as running:
            tell(f"Everyone knows everyone, {running.ready_us / 1e6:.1f} s after the last start.")
            if options.gallery:
                summary = await _gallery(options, running, tell)
            else:
                summary = await _one_picture(options, running, tell, show)
    except (SwarmError, AlreadyUp, DemoFailed) as exc:
        print(exc, file=sys.stderr)
        return 1
    tell("All peers are stopped.")
    print(f"The picture: {summary['image']}", file=told, flush=True)
    if options.json:
        print(json.dumps(summary), flush=True)
    return 0


async def _one_picture(options: argparse.Namespace, running: Swarm, tell: Tell, show: Tell) -> dict[str, Any]:
    requester, providers = running.peers[-1], running.peers[:-1]
    options.out.mkdir(parents=True, exist_ok=True)
    image = _unused(options.out / f"{_file_name(options.prompt)}.png")
    tell(f'p{requester.index}, which does not provide, asks the others for "{options.prompt}".')
    rendered = await requester.run_cli(
        ["render", "--remote", "--json", "-o", str(image), "--", options.prompt], show_progress=True
    )
    summary = _summary(_succeeded("peer render", rendered))
    chosen = _check(summary, requester, providers)
    tell(f"p{chosen.index} rendered it in {summary['wall_us'] / 1e6:.2f} s, asked to checked on disk.")

    tell("Its receipt, checked by `peer verify`, which needs no peer:")
    show(await _command(["verify", summary["image"]]))
    why = await requester.run_cli(["why", str(summary["job"])] if summary.get("job") else ["why"])
    tell("Where the time went, from `peer why`:")
    show(_succeeded("peer why", why))
    return summary


async def _gallery(options: argparse.Namespace, running: Swarm, tell: Tell) -> dict[str, Any]:
    import trio

    from .gallery import FIRST_SEED, PROMPTS, write_sheet

    requester, providers = running.peers[-1], running.peers[:-1]
    folder = _unused(options.out / "gallery")
    folder.mkdir(parents=True)
    drawn: dict[int, dict[str, Any]] = {}
    failed: list[DemoFailed] = []
    asked_s = trio.current_time()
    commands = trio.CapacityLimiter(2 * len(providers))  # one is drawn, the next is being asked for

    async def ask(number: int, prompt: str) -> None:
        image = folder / f"{number + 1:02}-{_file_name(prompt)}.png"
        arguments = ["render", "--remote", "--json", "--seed", str(FIRST_SEED + number), "-o", str(image)]
        async with commands:
            rendered = await requester.run_cli([*arguments, "--", prompt])
        try:
            summary = _summary(_succeeded("peer render", rendered))
            chosen = _check(summary, requester, providers)
        except DemoFailed as exc:
            failed.append(exc)
            nursery.cancel_scope.cancel()
            return
        drawn[number] = summary
        tell(f"{len(drawn):2} of {len(PROMPTS)}: {prompt}, by p{chosen.index}.")

    tell(f"p{requester.index}, which does not provide, asks the others for {len(PROMPTS)} pictures.")
    async with trio.open_nursery() as nursery:
        for number, prompt in enumerate(PROMPTS):
            nursery.start_soon(ask, number, prompt)
    if failed:
        raise failed[0]
    pictures = [drawn[number] for number in range(len(PROMPTS))]
    sheet = folder.with_suffix(".png")
    write_sheet([Path(each["image"]) for each in pictures], sheet)
    wall_us = round((trio.current_time() - asked_s) * 1e6)
    tell(
        f"All {len(pictures)} are here after {wall_us / 1e6:.1f} s; the peers' renderers started in that time."
    )
    return {"image": str(sheet), "pictures": pictures, "wall_us": wall_us}


async def _command(arguments: list[str]) -> str:
    from .swarm import run_peer_command

    return _succeeded(f"peer {arguments[0]}", await run_peer_command(arguments))


def _succeeded(what: str, done: Any) -> str:
    if done.returncode != 0:
        said = done.stderr.strip().replace("\n", "\n  ")  # nothing, where the person saw it already
        raise DemoFailed(f"`{what}` left with exit code {done.returncode}." + (f"\n  {said}" if said else ""))
    return str(done.stdout)


def _summary(printed: str) -> dict[str, Any]:
    """The object on the last line that `peer render --json` printed."""
    lines = printed.splitlines()
    try:
        value = json.loads(lines[-1])
    except (IndexError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise DemoFailed("`peer render --json` did not end with a JSON object.")
    return value


def _check(summary: dict[str, Any], requester: Peer, providers: tuple[Peer, ...]) -> Peer:
    """What the summary claims, looked at from outside; the peer that rendered."""
    image = Path(str(summary.get("image")))
    if not image.is_file():
        raise DemoFailed(f"The picture is not where the summary says: {image}.")
    data = image.read_bytes()
    if not data.startswith(_PNG_SIGNATURE):
        raise DemoFailed(f"{image} is no PNG file.")
    size = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")  # of the IHDR chunk
    seen = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "width": size[0],
        "height": size[1],
        "requester": requester.peer_id,
    }
    for name, value in seen.items():
        if summary.get(name) != value:
            raise DemoFailed(f"The summary says {name} {summary.get(name)!r}, and it is {value!r}.")
    for peer in providers:
        if peer.peer_id == summary.get("provider"):
            return peer
    raise DemoFailed(f"The provider {summary.get('provider')!r} is none of the peers that provide.")


def _file_name(prompt: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:_FILE_NAME_CHARACTERS].strip("-") or "picture"


def _unused(path: Path) -> Path:
    """`path`, or path-2, path-3, ...: the demo overwrites no picture."""
    number = 1
    each = path
    while each.exists():
        number += 1
        each = path.with_stem(f"{path.stem}-{number}")
    return each


def main() -> None:
    options = parse(sys.argv[1:])
    try:
        import trio

        from .interrupts import run_until_signal

        code = trio.run(run_until_signal, lambda: run(options))
    except KeyboardInterrupt:  # before there was anything to clean up, or a second one afterwards
        code = 128 + signal.SIGINT
    sys.exit(code)


if __name__ == "__main__":
    main()
