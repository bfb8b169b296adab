"""``protheon sql``, ``protheon db`` and ``protheon config``: the database behind it all, and the settings."""

from __future__ import annotations

from contextlib import closing, suppress
from decimal import Decimal

import click
from rich.text import Text

from protheon_dask.cli import output
from protheon_dask.cli.output import Shown
from protheon_dask.cli.verbs import database_option, effective_settings, json_option, opened, resolved
from protheon_dask.config import mask


@click.command()
@click.argument("query")
@database_option
@json_option
def sql(query: str, into: str | None, as_json: bool) -> None:
    """Ask the database; it only reads.

    Starts the embedded server for the query if it is down.

    \b
    Example:  protheon sql "select count(*) from pgcr.instance"
    """
    from protheon_dask.run import api

    if not query.strip(" \t\r\n;"):
        raise click.UsageError("the query is empty")
    with opened(into) as url:
        names, rows = api.query(url, query)
    keys = distinct(names)
    records = [dict(zip(keys, row, strict=True)) for row in rows]
    if as_json:
        output.emit_json(records)
        return
    if not names:
        output.messages().print("done; it returns no rows", markup=False)
        return
    shown = [Shown(key, name, right=is_number(records, key)) for key, name in zip(keys, names, strict=True)]
    output.emit_drawing(output.Listing(shown, records))
    output.messages().print(f"({len(records)} row{'' if len(records) == 1 else 's'})", style="dim", markup=False)


def distinct(names: list[str] | tuple[str, ...]) -> list[str]:
    """Column names made unique, as JSON's keys must be: ``count``, ``count_2``."""
    keys: list[str] = []
    for name in names:
        key, n = name, 1
        while key in keys:
            n += 1
            key = f"{name}_{n}"
        keys.append(key)
    return keys


def is_number(records: list[dict[str, object]], key: str) -> bool:
    """Tell whether a column holds numbers alone."""
    values = [record[key] for record in records if record[key] is not None]
    return bool(values) and all(isinstance(value, int | float | Decimal) and not isinstance(value, bool) for value in values)


@click.group()
def db() -> None:
    """The PostgreSQL in use: where it is, and its ledger.

    \b
    Example:  protheon db url
    """


@db.command("url")
@database_option
@json_option
@click.option("--show-password", is_flag=True, help="With its password, for another program.")
def db_url(into: str | None, as_json: bool, show_password: bool) -> None:
    """Say which PostgreSQL is used, and why.

    \b
    Example:  psql "$(protheon db url --show-password)"
    """
    from protheon_dask.run import api

    effective = effective_settings()
    database = resolved(effective, into)
    with api.opened(effective, database) as url:
        shown = url if show_password else mask(url)
    if as_json:
        output.emit_json({"url": shown, "origin": database.origin, "embedded": database.embedded})
        return
    output.emit(shown)
    output.messages().print(f"from {database.origin}", style="dim", markup=False)
    if database.embedded:
        output.messages().print(
            "it runs while a command needs it, then this URL does not answer: `protheon db serve` keeps it up", style="dim", markup=False
        )


@db.command("serve")
@database_option
def db_serve(into: str | None) -> None:
    """Keep the embedded PostgreSQL running until Ctrl-C, for psql and others; other commands use it meanwhile.

    \b
    Example:  protheon db serve
              psql 'THE URL THAT IT PRINTS'
    """
    from protheon_dask.run import api

    effective = effective_settings()
    with suppress(KeyboardInterrupt), closing(api.serve_embedded(effective, resolved(effective, into))) as urls:
        for url in urls:
            output.emit(url)
            output.messages().print("it answers until Ctrl-C ends it, for other commands too", style="dim", markup=False)


@db.command("migrate")
@database_option
@json_option
def db_migrate(into: str | None, as_json: bool) -> None:
    """Bring the ledger's schema up to this version.

    \b
    Example:  protheon db migrate --database postgresql://me@db/reports
    """
    from protheon_dask.run import api

    with opened(into) as url:
        applied = api.migrate(url)
    if as_json:
        output.emit_json({"applied": applied})
        return
    output.emit("\n".join(f"applied {name}" for name in applied) or "the ledger is up to date")


@db.command("status")
@database_option
@json_option
def db_status(into: str | None, as_json: bool) -> None:
    """Say what is in the ledger.

    \b
    Example:  protheon db status --json
    """
    from protheon_dask.run import api

    with opened(into) as url:
        status = api.ledger_status(url)
    if as_json:
        output.emit_json(status)
        return
    output.emit_drawing(output.record([(name.replace("_", " "), Text(output.cell(value))) for name, value in status.items()]))


CONFIG_COLUMNS = (
    Shown("name", "name", keep=True),
    Shown("value", "value"),
    Shown("origin", "from", style="cyan"),
    Shown("meaning", "meaning", style="dim"),
)


@click.command()
@json_option
def config(as_json: bool) -> None:
    """Print where the settings file is, and every setting with its value and where that came from.

    Secrets are masked; home is the directory that it comes to.
    A setting NAME is PROTHEON_NAME in the environment, or `name = value` in the file.

    \b
    Example:  PROTHEON_LEASE_S=90 protheon config
    """
    from protheon_dask.run.settings import shown_settings

    rows = shown_settings(effective_settings(), config_file=click.get_current_context().find_root().obj)
    if as_json:
        output.emit_json(rows)
        return
    output.emit_drawing(output.table(CONFIG_COLUMNS, rows))
