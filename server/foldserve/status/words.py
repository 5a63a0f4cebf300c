"""Numbers as people read them."""

import math
from datetime import UTC, datetime
from urllib.parse import quote

ABSENT = "–"
SHORTEST_S, LONGEST_S = 1e-4, 10.0
"""Where the histograms of durations begin and end."""


def seconds(value: float | None) -> str:
    """A duration, such as ``0.42 ms`` or ``3.1 s``."""
    if value is None:
        return ABSENT
    if value == math.inf:
        return f"> {LONGEST_S:g} s"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def long_time(value: float) -> str:
    """Such as ``3 d 4 h`` or ``12 min``: the two largest units."""
    left = int(value)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def moment(value: float) -> str:
    """A date and time of day, in UTC."""
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def machine_moment(value: float) -> str:
    """The same as HTML's ``datetime`` attribute wants it."""
    return datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds")


def distance(value: float | None) -> str:
    """A parity distance, such as ``1.3e-07``."""
    return ABSENT if value is None else f"{value:.1e}"


def share(value: float | None) -> str:
    """Such as ``99.5%``."""
    return ABSENT if value is None else f"{100 * value:.4g}%"


def megabytes(value: int | None) -> str:
    """Bytes, such as ``12.3 MB``."""
    return ABSENT if value is None else f"{value / 1e6:.3g} MB"


def number(value: float | None) -> str:
    """A number of any size, such as ``12,345`` or ``0.0421``."""
    if value is None:
        return ABSENT
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def whole(value: float | None) -> str:
    """Rounded, such as ``116,096``."""
    return number(None if value is None else round(value))


def plain(value: str | float) -> str:
    """A fact as it is, but yes and no."""
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def shortened(text: str, most: int = 400) -> str:
    """A text that came from elsewhere, no longer than ``most`` characters."""
    return text if len(text) <= most else f"{text[:most]} …"


def path_of(name: str, version: int | None) -> str:
    """Where the page of a model version is."""
    path = f"/models/{quote(name, safe='')}"
    return path if version is None else f"{path}/{version}"


def on_scale(value: float | None) -> float:
    """Where a duration is between 0.1 ms (0) and 10 s (100), on a logarithmic scale."""
    within = min(max(value or 0.0, SHORTEST_S), LONGEST_S)
    return 100 * math.log10(within / SHORTEST_S) / math.log10(LONGEST_S / SHORTEST_S)
