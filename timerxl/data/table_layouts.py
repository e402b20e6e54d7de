"""The layouts of known sources of station and point weather, as data: what each file means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from timerxl.data.table_text import TextTable


@dataclass(frozen=True)
class Layout:
    """What a source's files mean; empty or None is what the layout does not know.

    ``columns`` must all be there (without case), ``above`` is text that must stand above the
    names. ``times`` are joined by a space and read as ``time_format`` (strftime, or ``unix``);
    ``timezone`` is an IANA name or an offset. ``stamps`` says whether a stamp is the ``start`` or
    the ``end`` of its period of ``hours``. ``units`` and ``missing`` go by column, ``*`` is all.
    ``not_weather`` are regular expressions of names of flags. ``asks`` are the options that the
    file can't answer. ``names`` are those of a file without a line of names.
    """

    name: str
    document: str
    columns: tuple[str, ...] = ()
    above: str = ""
    times: tuple[str, ...] = ()
    time_format: str | None = None
    timezone: str | None = None
    stamps: str | None = None
    hours: float | None = None
    regions: tuple[str, ...] = ()
    rain: str | None = None
    units: dict[str, str] = field(default_factory=dict)
    missing: dict[str, tuple[float, ...]] = field(default_factory=dict)
    not_weather: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    suffixes: str = ""
    decode: Callable[[TextTable], TextTable] | None = None
