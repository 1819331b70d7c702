"""`peer render --dry-run`: who would be asked, how soon it would be there, and for what.  Nothing is offered or drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from protocol.policy.credits import shown_credits
from protocol.wire.fields import plain

from .call import call
from .show import adapters_of, console, print_json, quote_table, say, sentence, time, who

if TYPE_CHECKING:
    from peer.config import PeerConfig


def show_quote(
    config: "PeerConfig", body: dict[str, Any], *, as_json: bool, settings: Sequence[str] = ()
) -> None:
    """UserError if nobody can draw it.  `settings`: the flags given that a running peer does not heed."""
    quotes: list[dict[str, Any]] = []

    def on_event(kind: str, event: dict[str, Any]) -> None:
        if kind == "quote":
            quotes.append(event)
        elif kind == "told":
            console(stderr=True).print(sentence(event["sentence"]), soft_wrap=True)

    call(config, "quote", body, on_event, settings=settings)
    (quote,) = quotes
    if as_json:
        print_json(quote)
        return
    each = "" if quote["count"] == 1 else f", each of {quote['count']}"
    print(f"{quote['width']}x{quote['height']}, {quote['steps']} steps{adapters_of(quote)}{each}")
    if quote.get("rung"):
        say(sentence(quote["rung"]["sentence"]))
    screen = console()
    screen.print(quote_table(quote, screen.width))
    for left_out in quote.get("exclusions") or ():
        say(f"Not {who(left_out.get('name'), left_out.get('peer'))}: {sentence(left_out.get('sentence'))}")
    first = quote["candidates"][0]
    if quote.get("split"):
        _say_split(quote["count"], quote["split"])
    else:
        say(f"{who(first.get('name'), first.get('peer'))} would be asked first, and would see the prompt.")
        say(plain(str(quote.get("sentence") or ""), 400))
    rate = shown_credits(int(quote["value_of_time_millionths"]))
    say(f"cost = price + time, at {rate} a second. No credits are moved, and nothing was asked of anyone.")


def _say_split(count: int, split: dict[str, Any]) -> None:
    peers = split["peers"]
    shares = [f"{each['pictures']} to {who(each['name'], each['peer'])}" for each in peers]
    there, price = time(split["there_us"]), int(split["price_millionths"])
    cost = f", for {shown_credits(price)}" if price else ""
    say(f"Split by speed: {', '.join(shares)}; all {count} would be there in {there}{cost}.")
    say("Each of them would see the prompt." if len(peers) > 1 else "It would see the prompt.")
