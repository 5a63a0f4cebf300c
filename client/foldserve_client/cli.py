"""Entry point of ``foldserve-client``; says what to install where the extra ``cli`` is missing."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from foldserve_client.commands import app  # noqa: PLC0415 - needs the extra
        from foldserve_client.load.command import register  # noqa: PLC0415 - the same
    except ModuleNotFoundError as error:
        if error.name not in {"rich", "typer"}:
            raise
        sys.exit("foldserve-client needs typer and rich: pip install 'foldserve-client[cli]'")
    register(app)
    app()
