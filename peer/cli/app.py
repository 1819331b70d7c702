"""The commands and their options.  What they need is imported inside them: `--help` must not wait for it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from peer.errors import LOCAL_SETUP, WRONG_USAGE, UserError

app = typer.Typer(
    name="peer",
    help="A peer of Nearlight: the nearest capable peer draws, signs and says where the time went.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Home = Annotated[
    str | None,
    typer.Option(help="Folder of this peer's key, settings and receipts.", metavar="DIR", show_default=False),
]
Join = Annotated[
    list[str] | None,
    typer.Option(help="Peers to join, as `peer up` prints them.", metavar="ADDR...", show_default=False),
]
Network = Annotated[
    str | None, typer.Option(help="Name of the network; peers of another are strangers.", show_default=False)
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="The last line on stdout is one JSON object.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"nearlight {version('nearlight')}")
        except PackageNotFoundError:
            print("nearlight, run from its source folder")
        raise typer.Exit


@app.callback()
def _peer(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Says which version this is.")
    ] = False,
) -> None:
    pass


@app.command("id")
def id_(home: Home = None, as_json: AsJson = False) -> None:
    """Says who this peer is; makes its key at the first time."""
    from peer.config import home_folder
    from peer.store.identity import KeyFileError, load_or_create_identity, peer_id

    folder = home_folder(home)
    try:
        peer = peer_id(load_or_create_identity(folder))
    except KeyFileError as exc:
        raise UserError(str(exc), LOCAL_SETUP) from exc
    print(json.dumps({"peer": peer, "home": str(folder)}) if as_json else peer)


@app.command()
def up(
    listen: Annotated[
        list[str] | None, typer.Option(help="Where to listen, like /ip4/0.0.0.0/tcp/4001.", metavar="ADDR...")
    ] = None,
    join: Join = None,
    provide: Annotated[bool, typer.Option("--provide", help="Render for others.")] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model folders in the format of diffusers, the most wanted first.", metavar="DIR..."
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="Folders of adapters (LoRA) for these models, as diffusers saves them.", metavar="DIR..."
        ),
    ] = None,
    device: Device = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="Render for these peers only.", metavar="PEER...")
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(
            help="What to ask for one step of one megapixel; it steers who is asked, no credits are moved.",
            metavar="CREDITS",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What others see this peer called.")] = None,
    network: Network = None,
    home: Home = None,
) -> None:
    """Runs a peer until Ctrl-C."""
    from .arguments import configuration
    from .up import run

    flags = {
        "listen": listen,
        "join": join,
        "provide": provide or None,
        "models": model,
        "adapters": adapter,
        "device": device,
        "allow": allow,
        "price": price,
        "name": name,
        "network": network,
    }
    run(configuration(home, flags))


@app.command()
def render(
    prompt: Annotated[str, typer.Argument(help="What to draw.", metavar="PROMPT")],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="The picture's file or folder; with --count N: name-1.png ...",
            metavar="PATH",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at -o.")] = False,
    model: Annotated[
        str | None, typer.Option(help="A model's name, the beginning of its id, or a folder.")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="An adapter (LoRA) by its name or the beginning of its id; WEIGHT 1 if none is given.",
            metavar="NAME[=WEIGHT]",
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Pixels, like 512x768, or 512 for a square.", metavar="WxH|N")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="How many steps.", metavar="N")] = None,
    guidance: Annotated[
        str | None, typer.Option(help="How closely to follow the prompt.", metavar="NUMBER")
    ] = None,
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    sampler: Annotated[
        str | None, typer.Option(help="Which sampler; the model's own if none is named.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Start of all chance; picture K of a batch has N + K - 1 (mod 2^32), with which it can be drawn alone.",
            metavar="N",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option(help="How many pictures, split over peers by how fast they draw.", metavar="N")
    ] = 1,
    remote: Annotated[bool, typer.Option("--remote", help="Not on this device.")] = False,
    value_of_time: Annotated[
        str | None,
        typer.Option(
            help="What a second is worth, in credits: prices and time are weighed by it. No credits are moved.",
            metavar="CREDITS",
        ),
    ] = None,
    near: Annotated[
        bool, typer.Option("--near", help="Time decides: --value-of-time 1000.", show_default=False)
    ] = False,
    balanced: Annotated[
        bool,
        typer.Option("--balanced", help="--value-of-time 1, as if nothing was said.", show_default=False),
    ] = False,
    cheap: Annotated[
        bool, typer.Option("--cheap", help="The price decides: --value-of-time 0.001.", show_default=False)
    ] = False,
    deadline: Annotated[
        str | None,
        typer.Option(help="Ask only who is expected to be in time, like 2s; else refuse.", metavar="TIME"),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(
            help="Give up steps and size until it is there in time, like 300ms, and say so.", metavar="TIME"
        ),
    ] = None,
    refine: Annotated[
        bool,
        typer.Option(
            "--refine", help="With --within: then draws it as it was asked for, as NAME-refined.png."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say who would draw it, how soon and for what; draw nothing.")
    ] = False,
    join: Join = None,
    device: Device = None,
    network: Network = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Draws PROMPT on the peer that will have it finished first, prices considered."""
    from .arguments import configuration, render_request, wishes_request
    from .files import destination

    body = render_request(
        prompt,
        negative=negative,
        model=model,
        adapters=adapter or (),
        size=size,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        seed=seed,
        count=count,
        remote=remote,
    )
    presets = [name for name, given in (("near", near), ("balanced", balanced), ("cheap", cheap)) if given]
    body |= wishes_request(
        value_of_time=value_of_time,
        presets=presets,
        deadline=deadline,
        within=within,
        refine=refine,
        count=count,
    )
    given = {"--join": join, "--device": device, "--network": network}
    settings = [flag for flag, value in given.items() if value]
    if dry_run:
        from .quote import show_quote

        config = configuration(home, {"join": join, "device": device, "network": network})
        show_quote(config, body, as_json=as_json, settings=settings)
        return
    into = destination(output, count=count, replace=force, refine=refine)
    config = configuration(home, {"join": join, "device": device, "network": network})
    from .render import render as draw

    draw(config, body, into, as_json=as_json, refine=refine, settings=settings)


@app.command()
def swarm(
    watch: Annotated[bool, typer.Option("--watch", help="Once a second, until Ctrl-C.")] = False,
    join: Join = None,
    network: Network = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Shows who is there, how far away, and how fast."""
    from .arguments import configuration
    from .swarm import show_swarm

    config = configuration(home, {"join": join, "network": network})
    show_swarm(config, watch=watch, as_json=as_json)


@app.command()
def jobs(
    limit: Annotated[int, typer.Option(help="At most so many, latest first.", metavar="N")] = 20,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Lists what was asked of this peer."""
    if not 1 <= limit <= 1000:
        raise UserError(f"--limit must be from 1 to 1000, not {limit}.", WRONG_USAGE)
    answer = _answer(home, "jobs", {"limit": limit})
    from .show import console, jobs_table, print_json

    if as_json:
        print_json(answer)
    elif answer["jobs"]:
        screen = console()
        screen.print(jobs_table(answer["jobs"], screen.width))
    else:
        print("No jobs yet.")


@app.command()
def cancel(
    job: Annotated[str, typer.Argument(help="The beginning of its id.", metavar="JOB")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Cancels JOB, everywhere."""
    from .arguments import job_prefix

    answer = _answer(home, "cancel", {"job": job_prefix(job)})
    from .show import print_json, sentence

    if as_json:
        print_json(answer)
    else:
        print(f"Cancelled job {sentence(answer['job'])}.")


@app.command()
def why(
    job: Annotated[
        str | None, typer.Argument(help="The beginning of its id; the last one if none.", metavar="JOB")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Says why that peer was chosen, and where the time of JOB went."""
    from .arguments import job_prefix

    answer = _answer(home, "why", {"job": None if job is None else job_prefix(job)})
    from .show import print_json, print_why

    report = json.loads(answer["report"])
    if as_json:
        print_json(report)
    else:
        print_why(report)


@app.command()
def report(
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="The page (nearlight-report.html); .svg: only where the time went.",
            metavar="FILE",
        ),
    ] = None,
    last: Annotated[int, typer.Option(help="At most so many jobs, the latest.", metavar="N")] = 100,
    data: Annotated[
        Path | None,
        typer.Option(help="Draw this instead, as the testnet gathers it; - is stdin.", metavar="FILE.json"),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Draws where the time of past jobs went, as one HTML page."""
    if not 1 <= last <= 10_000:
        raise UserError(f"--last must be from 1 to 10000, not {last}.", WRONG_USAGE)
    from peer.config import home_folder

    from .report import report as draw

    draw(home_folder(home), last=last, data=data, output=output, as_json=as_json)


@app.command()
def verify(
    image: Annotated[Path, typer.Argument(help="A PNG file.", metavar="IMAGE")], as_json: AsJson = False
) -> None:
    """Says whether IMAGE is what its receipt tells of."""
    from .verify import verify as check

    check(image, as_json=as_json)


@app.command()
def doctor(
    join: Join = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model folders in the format of diffusers.", metavar="DIR")
    ] = None,
    network: Network = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Looks for what could keep this peer from drawing."""
    from .arguments import configuration
    from .doctor import doctor as examine

    examine(configuration(home, {"join": join, "models": model, "network": network}), as_json=as_json)


def _answer(home: str | None, kind: str, body: dict[str, Any]) -> dict[str, Any]:
    from .arguments import configuration
    from .call import answer

    return answer(configuration(home), kind, body)
