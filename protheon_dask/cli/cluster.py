"""``protheon cluster``: found a cluster of several hosts, invite them, list them, remove one. On the master."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click
from rich.text import Text

from protheon_dask import words
from protheon_dask.cli import output
from protheon_dask.cli.output import Shown
from protheon_dask.cli.verbs import effective_settings, json_option
from protheon_dask.errors import ProtheonError

if TYPE_CHECKING:
    from protheon_dask.run.trust.authority import HostRecord

UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
HOST_COLUMNS: Final = (
    Shown("host", "host", keep=True, style="bold"),
    Shown("state", "state", keep=True),
    Shown("n_workers", "workers", lambda n: "not known" if n is None else str(n or "none"), right=True),
    Shown("joined_at", "joined", keep=True, drop=2),
    Shown("certificate_until", "certificate until", keep=True, drop=1),
    Shown("back_until", "comes back by itself until", keep=True),
    Shown("removed_at", "removed", keep=True),
)


def seconds_of(_: click.Context, __: click.Parameter, text: str) -> float:
    """Read ``90s``, ``30m``, ``1h`` or ``2d``. Raises click.BadParameter."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])", text.strip(), re.ASCII)
    if found is None:
        raise click.BadParameter(f"{text!r} is no span of time: a number with s, m, h or d, as 30m or 1h")
    return float(found[1]) * UNITS_S[found[2]]


@click.group()
def cluster() -> None:
    """Several machines as one cluster, closed to strangers: certificates of its own authority.

    \b
    Example:  protheon cluster init
              protheon cluster invite
    """


@cluster.command("init")
@click.option("--name", metavar="HOST", help="The master's name in the cluster; left out, what this machine calls itself.")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="HOST[:PORT]",
    help="Where other hosts reach this one, for invites; can be given again. Left out, the addresses of this machine's network cards.",
)
@json_option
def cluster_init(name: str | None, addresses: Sequence[str], as_json: bool) -> None:
    """Make this machine the master of a cluster: its certificate authority, and its own certificate.

    Done again, it changes nothing but the addresses that are given, and renews a certificate that is due.

    \b
    Example:  protheon cluster init --address 192.168.1.10
    """
    from protheon_dask.run.trust import founding

    made = founding.init(effective_settings().settings, name, addresses)
    fingerprint = made.fingerprint.hex()
    if as_json:
        paths = {"authority": str(made.authority), "tls_dir": str(made.tls.directory)}
        output.emit_json({"host": made.host, **paths, "fingerprint": fingerprint, "addresses": list(made.addresses), "is_new": made.is_new})
        return
    told = [("master", made.host), ("authority", str(made.authority)), ("fingerprint", fingerprint)]
    told += [("addresses", ", ".join(made.addresses))] if made.addresses else []
    output.emit_drawing(output.record([(name, Text(value)) for name, value in told]), wrap=False)
    if not made.is_new:
        output.messages().print("the cluster was there already", style="dim", markup=False)
        return
    output.messages().print(
        "who can read the authority's directory can let anybody in: keep it to this machine\n"
        "next:  protheon master --bind 0.0.0.0, and then for each other host  protheon cluster invite",
        style="dim",
        markup=False,
    )


@cluster.command("invite")
@click.option("--ttl", "ttl_s", default="1h", show_default=True, callback=seconds_of, metavar="TIME", help="How long it can be used.")
@click.option("--uses", type=int, default=1, show_default=True, help="How many hosts can join by it.")
@click.option("--address", "addresses", multiple=True, metavar="HOST[:PORT]", help="Where the host reaches this one, for this invite.")
@click.option("--withdraw", is_flag=True, help="Make every open invite void instead.")
@json_option
def cluster_invite(ttl_s: float, uses: int, addresses: Sequence[str], withdraw: bool, as_json: bool) -> None:
    """Print the line to paste on a host that is to join. Who reads it can join: hand it on as you would a password.

    \b
    Example:  protheon cluster invite --ttl 30m
    """
    from protheon_dask.run.trust import founding

    settings = effective_settings().settings
    if withdraw:
        n_withdrawn = founding.withdraw(settings)
        if as_json:
            output.emit_json({"withdrawn_invites": n_withdrawn})
        else:
            output.emit(f"{words.counted(n_withdrawn, 'open invite')} withdrawn")
        return
    made = founding.invite(settings, ttl_s, uses, addresses)
    if as_json:
        facts = {"uses": made.uses, "until": made.until_at, "addresses": list(made.addresses)}
        output.emit_json({"command": made.line, "token": made.token, **facts})
        return
    output.emit(made.line)
    output.messages().print(
        f"for {words.counted(uses, 'host')}, until {words.clock(made.until_at)}; it looks for the master at {', '.join(made.addresses)}",
        style="dim",
        markup=False,
    )
    if not founding.is_reached(settings, made.addresses):
        output.messages().print(
            "nobody answers there, as seen from here: a host can join once `protheon master --bind 0.0.0.0` runs", markup=False
        )


@cluster.command("hosts")
@json_option
def cluster_hosts(as_json: bool) -> None:
    """List the hosts that joined, by this machine's authority, and how many workers of each are connected, by the master that runs here.

    In is who has a good certificate, at work or not. One that is away has let it end, and comes back by itself; one that is gone
    was away for too long, and joins anew.

    \b
    Example:  protheon cluster hosts
    """
    from protheon_dask.run.roll import host_views
    from protheon_dask.run.trust import founding
    from protheon_dask.run.trust.presence import back_until

    settings = effective_settings().settings
    records = founding.hosts(settings)
    n_workers: dict[str, int] | None = None
    try:
        n_workers = {view.name: view.n_workers for view in host_views(settings)}
    except ProtheonError as exc:
        output.messages().print(f"which hosts have workers is not known: {exc}", style="dim", markup=False)
    now = datetime.now(UTC)
    rows = [
        {
            "host": host.name,
            "state": state_of(host, now),
            "n_workers": None if n_workers is None else n_workers.get(host.name, 0),
            "joined_at": host.joined_at,
            "certificate_until": host.until_at,
            "back_until": back_until(host.until_at) if state_of(host, now) == "away" else None,
            "removed_at": host.removed_at,
        }
        for host in records
    ]
    if as_json:
        output.emit_json(rows)
        return
    output.emit_drawing(output.Listing(output.filled(HOST_COLUMNS, rows), rows))


def state_of(host: HostRecord, now: datetime) -> str:
    """In one word: master, removed, or what run.trust.presence says by its certificate."""
    from protheon_dask.run.trust.presence import presence

    if host.removed_at is not None:
        return "removed"
    return "master" if host.is_master else str(presence(host.until_at, now))


@cluster.command("remove")
@click.argument("host")
@json_option
def cluster_remove(host: str, as_json: bool) -> None:
    """Trust a host no more: its calls are refused at once, its workers closed, its certificate never renewed.

    Every invite that is open is withdrawn, too: the host may have read one.

    \b
    Example:  protheon cluster remove old-laptop
    """
    from protheon_dask.run.trust import founding

    n_withdrawn = founding.remove(effective_settings().settings, host)
    if as_json:
        output.emit_json({"host": host, "withdrawn_invites": n_withdrawn})
        return
    withdrawn = f"; {words.counted(n_withdrawn, 'open invite')} withdrawn" if n_withdrawn else ""
    output.emit(f"host {host} is removed{withdrawn}")
    output.messages().print(
        "it knew the database's password and the cluster's key: change both if the host is in other hands (docs/security.md)",
        style="dim",
        markup=False,
    )
