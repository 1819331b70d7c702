"""What a person wants, made exact: the statement of a picture, its model by name, id or folder."""

import math
import secrets
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from protocol.errors import MalformedMessage
from protocol.policy.adapters import called, told_of
from protocol.wire.advert import OfferedAdapter, OfferedModel
from protocol.wire.fields import Fields
from protocol.wire.statement import MAX_ADAPTERS, MAX_WEIGHT_MILLIONTHS, SALT_BYTES, Statement

from .clock import now_us
from .errors import NOBODY, WRONG_USAGE, UserError
from .node import Node
from .store.models import ModelError, reference_model_folder, scan_folder

DEFAULTS = {  # steps, guidance x 10^-6, sampler: what the authors of each family recommend
    "sd": (20, 7_500_000, "ddim"),
    "sdxl": (30, 5_000_000, "euler"),
    "sd3": (28, 7_000_000, "flow_euler"),
    "flux": (28, 3_500_000, "flow_euler"),
}
MOST_LISTED = 16  # names in a sentence
OWN_WAITS_S = 1.0  # where no other is known who could draw it: for word of one
REFERENCE_DEFAULTS = (12, 2_000_000, "ddim")  # peer/reference_model/README.md


async def statement_untrusted(node: Node, fields: Fields) -> Statement:
    """What a request asks for, with the defaults of the model's family.  MalformedMessage, UserError."""
    wanted = fields.maybe("model", lambda key: fields.text(key, at_most_bytes=4096))
    model = await _model(node, wanted)
    named = _named_untrusted(fields)
    await _seek(node, model.id, [name for name, _ in named])
    adapters = _adapters(node, model, named)
    few_step = next((adapter.few_step for adapter, _ in adapters if adapter.few_step), None)
    reference = {each.id for each in node.models.values() if each.folder == reference_model_folder()}
    family = REFERENCE_DEFAULTS if model.id in reference else DEFAULTS[model.family]
    if few_step is not None:  # which is of no use in another way
        family = (few_step.steps, few_step.guidance_millionths, few_step.sampler)

    def number(key: str, low: int, high: int, otherwise: int) -> int:
        value = fields.maybe(key, lambda key: fields.integer(key, low, high))
        return otherwise if value is None else value

    sampler = fields.maybe("sampler", lambda key: fields.text(key, at_most_bytes=32))
    seed = fields.maybe("seed", lambda key: fields.integer(key, 0, 2**32 - 1))
    statement = Statement(
        model=model.id,
        prompt=fields.text("prompt", at_most_bytes=1 << 20, allow="\n"),
        negative=fields.text("negative", at_most_bytes=1 << 20, allow="\n"),
        width=number("width", 1, 1 << 20, model.native[0]),
        height=number("height", 1, 1 << 20, model.native[1]),
        steps=number("steps", 1, 1 << 20, family[0]),
        guidance_millionths=number("guidance_millionths", 0, 1 << 40, family[1]),
        sampler=sampler or family[2],
        seed=secrets.randbits(32) if seed is None else seed,
        salt=secrets.token_bytes(SALT_BYTES),
        precision="fp32",
        adapters=tuple((adapter.id, weight) for adapter, weight in adapters),
    )
    return Statement.from_untrusted(statement.to_bytes())  # the bounds, said in one place


async def _model(node: Node, wanted: str | None) -> OfferedModel:
    """The model a person means by a name, the beginning of an id, or a folder; None: this peer's own."""
    own = [_as_offered(model) for model in node.models.values()]
    if wanted is None:
        return own[0]
    folder = await trio.to_thread.run_sync(_folder_model, wanted)
    if folder is not None:
        return folder
    known = {model.id: model for model in own}
    for candidate in node.directory.candidates(now_us(), own=False):
        known.update({model.id: model for model in candidate.advert.models})
    named = {model.id: model for model in known.values() if model.name == wanted}
    meant = named or {id: model for id, model in known.items() if id.hex().startswith(wanted.lower())}
    if len(meant) == 1:
        return next(iter(meant.values()))
    names = ", ".join(sorted({f"{model.name} ({model.id.hex()[:8]})" for model in (meant or known).values()}))
    if meant:
        raise UserError(f"Several models are called {wanted!r}: {names}. Say which by its id.", WRONG_USAGE)
    raise UserError(f"No model {wanted!r} is known here; there are: {names}.", NOBODY)


def known_adapters(node: Node, model: bytes) -> dict[bytes, OfferedAdapter]:
    """By id, what is known of that can be applied to the model: by one's own files, else by what others say."""
    own = {each.id: each.offered() for each in node.adapters.get(model, {}).values()}
    return told_of(node.directory.candidates(now_us(), own=False), model) | own


def trusted_adapters(node: Node, model: bytes) -> list[OfferedAdapter]:
    """Which may be used though nobody named them: one's own, and others only where one has none for that model."""
    own = [each.offered() for each in node.adapters.get(model, {}).values()]
    return own or list(known_adapters(node, model).values())


def _named_untrusted(fields: Fields) -> list[tuple[str, int]]:
    """The adapters that a person names, by names or the beginnings of ids, with the weights; in the order given."""
    named = []
    for item in fields.maybe("~adapters", lambda key: fields.items(key, at_most=MAX_ADAPTERS)) or []:
        match item:
            case [str(wanted), int(weight)] if 0 <= weight <= MAX_WEIGHT_MILLIONTHS:
                named.append((wanted, weight))
            case _:
                raise MalformedMessage("an adapter is a name and a weight in millionths")
    return named


async def _seek(node: Node, model: bytes, adapters: list[str]) -> None:
    """Has others asked who offers the model, and waits for it where nobody is known who applies these adapters to it."""

    def has_all(known: Collection[OfferedAdapter]) -> bool:
        return all(any(_is(wanted, each) for each in known) for wanted in adapters)

    def somebody() -> bool:
        others = node.directory.candidates(now_us(), own=False)
        offers = (each for other in others if (each := other.advert.offered(model)))
        return any(has_all(each.adapters) for each in offers)

    own = [each.offered() for each in node.adapters.get(model, {}).values()]
    with trio.move_on_after(OWN_WAITS_S if model in node.models and has_all(own) else math.inf):
        await node.gossip.seek(model, somebody)


def _adapters(
    node: Node, model: OfferedModel, named: list[tuple[str, int]]
) -> list[tuple[OfferedAdapter, int]]:
    """What a person means by the names."""
    known = known_adapters(node, model.id) if named else {}
    found = [(_meant(wanted, known, f"the model {model.name}"), weight) for wanted, weight in named]
    twice = [adapter.name for adapter, count in Counter(each for each, _ in found).items() if count > 1]
    if twice:
        raise UserError(f"The adapter {twice[0]} is named twice: give it one weight.", WRONG_USAGE)
    return found


def _meant(wanted: str, known: dict[bytes, OfferedAdapter], of: str) -> OfferedAdapter:
    named = [adapter for adapter in known.values() if adapter.name == wanted]
    meant = named or [adapter for adapter in known.values() if _is(wanted, adapter)]
    if len(meant) == 1:
        return meant[0]
    listed = sorted(called(each.id, known) for each in meant or known.values())
    names = ", ".join(listed[:MOST_LISTED]) + (", ..." if len(listed) > MOST_LISTED else "")
    if meant:
        raise UserError(f"Several adapters are called {wanted!r}: {names}. Say which by its id.", WRONG_USAGE)
    there_are = f"there are: {names}" if listed else "there are none"
    raise UserError(f"No adapter {wanted!r:.80} is known here for {of}; {there_are}.", NOBODY)


def _is(wanted: str, adapter: OfferedAdapter) -> bool:
    return wanted == adapter.name or bool(wanted and adapter.id.hex().startswith(wanted.lower()))


def of_batch(statement: Statement, index: int) -> Statement:
    """Picture `index` of a batch: the seed moves on, and the salt is new, so that no two have one hash."""
    if not index:
        return statement
    return replace(statement, seed=(statement.seed + index) % 2**32, salt=secrets.token_bytes(SALT_BYTES))


def _as_offered(model: Any) -> OfferedModel:
    return OfferedModel(model.id, model.name, model.family, "disk", model.native, None, ())


def _folder_model(path: str) -> OfferedModel | None:
    """The model in the folder `path`; None if it is no folder."""
    if not Path(path).is_dir():
        return None
    try:
        return _as_offered(scan_folder(Path(path).resolve()))
    except ModelError as exc:
        raise UserError(str(exc), WRONG_USAGE) from exc
