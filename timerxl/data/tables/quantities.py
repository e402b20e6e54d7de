"""What is measured: the quantities of weather, their names, units and limits, for grids and tables.

One table says of each quantity which unit it is judged in, what no weather on Earth exceeds, and by
which names it comes. Units are read by pint in the dialect of CF (``kg m**-2``, ``m s-1``) through
cf_xarray, with the spellings of stations added.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from timerxl.config import InputError


@dataclass(frozen=True, eq=False)
class Quantity:
    """``unit`` is the one that ``low`` and ``high`` are in: limits of weather, edges allowed.

    ``names`` are short names of columns (exact, without case), ``words`` a regular expression over
    the words of a longer name. ``is_sum``: comes as a sum over a time. ``aliases`` are spellings of
    units that mean something here only (``F`` is no farad).
    """

    key: str
    unit: str
    low: float
    high: float
    names: str = ""
    words: str = ""
    is_sum: bool = False
    aliases: dict[str, str] | None = None


RAIN = "precipitation"
_TEMPERATURES = {"c": "degC", "f": "degF", "k": "K", "deg": "degC", "degree": "degC"}
# Limits: WMO's extremes archive (wmo.asu.edu) with a margin. Of rain see most_rain_mm.
# Order matters: the first whose words are found is taken.
QUANTITIES = (
    Quantity("direction", "degree", 0, 360, "wd wdir dd drct wd10m wd50m wdf2 wdf5 swd",
             r"\bdir\b|direction|direcao|direccion|richtung|\bwind ?dir|bearing",
             aliases={"gr": "degree", "graus": "degree", "grados": "degree"}),
    Quantity("vapour pressure", "Pa", -50, 20_000, "vpact vpmax vpdef vpd",
             r"\bvp\b|vap(ou?r)? press|dampfdruck|vapour deficit"),
    Quantity("dew point", "K", 170, 320, "d2m dewp dwpt dewp dew td t2mdew dptp",
             r"dew ?p|dew ?point|\bdew\b|orvalho|rocio|taupunkt|\bdewpoint", aliases=_TEMPERATURES),
    Quantity("temperature", "K", 170, 350,
             "t2m t tt temp tavg tmin tmax tm tmn tmx ta tas tasmax tasmin mx2t mn2t skt sst stl1 "
             "t2m_max t2m_min tt_10 tt_tu tmk txk tnk tlog",
             r"\btemp|temperat|\bt2m|dry ?bulb|wet ?bulb|t ?min\b|t ?max\b", aliases=_TEMPERATURES),
    Quantity("relative humidity", "percent", 0, 110, "rh rhum r2 rh2m hurs hum rf_tu upm rf_10",
             r"humid|umidade|humedad|feuchte|\brh\b|\brhum\b", aliases={"1": "dimensionless"}),
    Quantity("precipitable water", "kg m-2", 0, 120, "tcwv tcw pwat", r"total column water"),
    Quantity("pressure", "Pa", 30_000, 112_000,
             "sp msl slp psl stp pres ps p pp po p0 pp_10 pm qff",
             r"\bpress|\bpres\b|pressao|presion|luftdruck|barom|sea ?level ?press|\baltimeter"),
    Quantity("gust", "m s-1", 0, 140, "fg10 i10fg wpgt gust fx fx_10 fx27 max. wv",
             r"gust|rajada|racha|spitze|\bmax wv"),
    Quantity("wind component", "m s-1", -140, 140, "u10 v10 u v u100 v100 u10n v10n uwnd vwnd",
             r"\b[uv] component|component of wind"),
    Quantity("wind speed", "m s-1", 0, 120,
             "ws wv wspd wspm ff ff_10 fm f ws10m ws2m ws50m awnd wdsp mxspd wind",
             r"wind ?sp|wind ?avg|wind ?vel|vento velocidade|velocidad|windgesch|\bwind speed"
             r"|\bwind (avg|mean|max)|\bws ?\d*m\b|\bwv\b|\bwind$"),
    Quantity("radiation flux", "W m-2", -800, 2_000,
             "swdr par swdown lwdown rsds msdwswrf msdwlwrf ghi dni dhi tsr_w",
             r"radiat|irradi|radiacao|radiacion|strahlung|\bsw ?dr\b|allsky"),
    Quantity("radiation sum", "J m-2", -1e8, 2e8,
             "ssrd strd ssr str tsr ttr ssrc strc fdir tisr",
             r"radiat|irradi|radiacao|radiacion|strahlung", is_sum=True),
    Quantity("cloud cover", "percent", 0, 101, "tcc lcc mcc hcc clt", r"cloud|nebulos|bewolk",
             aliases={"1": "dimensionless", "okta": "12.5 percent", "oktas": "12.5 percent"}),
    Quantity("snow depth", "m", 0, 30, "sd snwd sde snow_depth", r"snow ?depth|schneehohe|\bsnwd"),
    Quantity(RAIN, "mm", 0, 10_000,
             "tp prcp precip precipitation pr ppt rr r1 rs rsk rain rainfall prectotcorr prectot "
             "total_precipitation mtpr rainc ta_rain rws_10 rre prec prcp_mm pcp chuva lluvia",
             r"precip|\bprcp|rain ?fall|\brain\b|lluvia|chuva|pluie|pluvio|niederschlag|prectot",
             is_sum=True),
    Quantity("concentration", "microgram m-3", 0, 1e6, "pm2.5 pm10 so2 no2 o3 co nox"),
    Quantity("convective energy", "J kg-1", 0, 30_000, "cape"),
)  # fmt: skip
_BY_KEY = {quantity.key: quantity for quantity in QUANTITIES}
_BY_NAME = {name: quantity for quantity in QUANTITIES for name in quantity.names.split()}
# Names that hold the word and measure something else: whether, when, how long, how likely, ...
_NOT_RAIN = re.compile(
    r"probab|chance|\btype\b|today|tomorrow|\bdays?\b|duration|hours|\bflag|source|attributes|"
    r"quality|qual\b|\bqn|intensity|since|anomal|normal|raining|label|target|yesterday|\bis\b|"
    r"\bwas\b|indicator|minutes"
)
# How far apart two values lie, or a part of a direction, keeps to no limits of a level.
_NO_LEVEL = re.compile(
    r"anomal|\bdiff|difference|\bdelta\b|tendenc|\bchange|\bstd\b|\bstdev|deviation|variance|"
    r"\brange\b|spread|depression|gradient|\btrend|departure|\bsin\b|\bcos\b|\bsine|cosine|"
    r"normali[sz]ed|\bscaled"
)
# CF standard names and the long names of ARCO-ERA5 and WeatherBench, as words, are found above.

# Spellings that pint does not know, or takes for something else (mb is no millibarn).
_SPELLINGS = {
    "in": "inch", "inches": "inch", '"': "inch", "0.1mm": "0.1 mm", "1/10 mm": "0.1 mm",
    "tenths of mm": "0.1 mm", "mm/10": "0.1 mm", "0.1 millimeter": "0.1 mm", "tenth mm": "0.1 mm",
    "1/10mm": "0.1 mm", "hundredths of inches": "0.01 inch", "0.01in": "0.01 inch",
    "0.1c": "0.1 delta_degC", "mb": "hPa", "mbar": "hPa", "millibars": "hPa", "hpa": "hPa",
    "kpa": "kPa", "pa": "Pa", "inhg": "inHg", "in hg": "inHg", "mmhg": "mmHg", "kmh": "km/h",
    "kph": "km/h", "km h": "km/h", "kmph": "km/h", "ms": "m/s", "mps": "m/s", "kt": "knot",
    "kts": "knot", "kn": "knot", "mph": "mile/hour", "pct": "percent", "%": "percent",
    "celsius": "degC", "centigrade": "degC", "degree_c": "degC", "degrees_c": "degC",
    "deg_c": "degC", "deg c": "degC", "degrees c": "degC", "degree celsius": "degC",
    "degrees celsius": "degC", "ºc": "degC", "°c": "degC", "oc": "degC", "fahrenheit": "degF",
    "degrees fahrenheit": "degF", "deg f": "degF", "°f": "degF", "ºf": "degF",
    "kelvin": "K", "degk": "K", "°": "degree", "deg": "degree", "degrees": "degree",
    "m of water equivalent": "m", "m water equivalent": "m", "mm h2o": "mm", "l/m2": "mm",
    "l/m²": "mm", "l m-2": "mm", "kg/m2": "kg m-2", "kg/m^2": "kg m-2", "kg/m²": "kg m-2",
    "w/m2": "W m-2", "w/m^2": "W m-2", "w/m²": "W m-2", "watt/m2": "W m-2", "wm-2": "W m-2",
    "kj/m2": "kJ m-2", "kj/m²": "kJ m-2", "mj/m2": "MJ m-2", "mj/m²": "MJ m-2", "j/m2": "J m-2",
    "(0 - 1)": "dimensionless", "0-1": "dimensionless", "1": "dimensionless", "~": "dimensionless",
    "mm/hr": "mm/hour", "mm/h": "mm/hour", "mm h-1": "mm/hour", "mm/d": "mm/day", "fraction":
    "dimensionless", "gr/m3": "g/m**3",
}  # fmt: skip
# The last word of a name that is a unit, where the name has no brackets: rain_mm, TempAvgF.
_LAST_WORDS = {
    RAIN: "mm cm in inch inches",
    "temperature": "c f k celsius fahrenheit kelvin degc degf",
    "dew point": "c f k celsius fahrenheit kelvin degc degf",
    "pressure": "hpa pa kpa mb mbar inhg in inches mmhg",
    "wind speed": "ms mps kmh kph mph kt kts knots kn",
    "gust": "ms mps kmh kph mph kt kts knots kn",
    "relative humidity": "percent pct",
    "radiation flux": "wm2",
}


def named(key: str) -> Quantity:
    """The quantity called ``key``."""
    return _BY_KEY[key]


def words_of(name: str) -> str:
    """A column's name as plain words: ``PRECIPITAÇÃO (mm)`` -> ``precipitacao``, brackets away."""
    text = unicodedata.normalize("NFKD", re.sub(r"\(.*?\)|\[.*?\]", " ", name))
    text = "".join(sign for sign in text if not unicodedata.combining(sign))
    text = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    return " ".join(re.sub(r"[^A-Za-z0-9.]+", " ", text).lower().split())


def quantity_of(name: str, unit: str | None = None) -> Quantity | None:
    """What a column measures by its name; None where the name says nothing that is known.

    With a ``unit`` (of the file, or else the one in the name) a quantity that can't have it is not
    taken: ``raining (s)`` is no rain.
    """
    bare = re.sub(r"\s*[\(\[].*$", "", name).strip().lower()
    words = words_of(name)
    found = _BY_NAME.get(bare) or next(
        (q for q in QUANTITIES if q.words and re.search(q.words, words)), None
    )
    if found is None or _NO_LEVEL.search(words):
        return None
    if found.key == RAIN and _NOT_RAIN.search(words):
        return None
    unit = unit or bracketed_unit(name)
    if unit and not fits(unit, found):
        other = [q for q in QUANTITIES if q.words and re.search(q.words, words) and fits(unit, q)]
        return other[0] if other else None
    return found


def bracketed_unit(name: str) -> str | None:
    """The text in the last brackets of a name: ``wv (m/s)`` -> ``m/s``."""
    found = re.findall(r"[(\[]([^()\[\]]*)[)\]]", name)
    return found[-1].strip() or None if found else None


def unit_in_name(name: str) -> str | None:
    """The unit that a column's name tells, in brackets or as its last word; None for none."""
    quantity = quantity_of(name)
    in_brackets = bracketed_unit(name)
    if in_brackets is not None:
        if quantity is not None:
            return in_brackets if fits(in_brackets, quantity) else None
        return in_brackets if _parsed(in_brackets) is not None else None
    if quantity is None:
        return None
    last = words_of(name).split()[-1] if words_of(name) else ""
    if last != name.lower() and last in _LAST_WORDS.get(quantity.key, "").split():
        return {"ms": "m/s", "wm2": "W/m2"}.get(last, last)
    return None


def fits(unit: str, quantity: Quantity) -> bool:
    """Whether ``unit`` is one of this quantity: the same dimension (for rain also a rate)."""
    try:
        conversion(unit, quantity)
    except InputError:
        return False
    return True


@dataclass(frozen=True)
class Conversion:
    """``values * scale + offset`` is in the quantity's own unit; a rate is per hour then."""

    scale: float
    offset: float
    is_rate: bool = False

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Converted values; unchanged where nothing is to be done, so that no bit moves."""
        if self.scale == 1.0 and self.offset == 0.0:
            return values
        return values * self.scale + self.offset


@cache
def conversion(unit: str, quantity: Quantity) -> Conversion:
    """How a unit becomes the quantity's own; raises InputError where it can't.

    Rain as a mass per area (kg m-2) is a depth of as many mm (water of 1000 kg m-3). A rate
    (mm/h, kg m-2 s-1) has ``is_rate`` and becomes mm per hour.
    """
    if unit == quantity.unit:
        return Conversion(1.0, 0.0)  # without pint, whose import takes a second
    parsed = _parsed(unit, quantity)
    if parsed is None:
        raise InputError(
            f"the unit {unit!r} is unknown; expected one such as {_examples(quantity)}."
        )
    registry = parsed._REGISTRY
    try:
        if quantity.key == RAIN:
            depth, is_rate = _depth(parsed, registry)
            return Conversion(_short(depth), 0.0, is_rate)
        zero = _offset_of(parsed, registry, quantity.unit, 0.0)
        one = _offset_of(parsed, registry, quantity.unit, 1.0)
    except Exception as error:  # pint's own classes: of dimensions, and of offset units
        raise InputError(
            f"{unit!r} is no unit of {quantity.key}; expected one such as {_examples(quantity)}."
        ) from error
    return Conversion(_short(one - zero), _short(zero))


def _short(number: float) -> float:
    """Without the last bits of a quotient: 999.9999999999999 is 1000."""
    return float(f"{number:.14g}")


def _offset_of(parsed: Any, registry: Any, unit: str, value: float) -> float:
    factor, bare = parsed.magnitude, parsed.units
    return float(registry.Quantity(value * factor, bare).to(unit).magnitude)


def _depth(parsed: Any, registry: Any) -> tuple[float, bool]:
    """(mm or mm per hour in one of the unit, whether it is a rate)."""
    water = registry.Quantity(1000.0, "kg/m**3")
    one = registry.Quantity(parsed.magnitude, parsed.units)
    for amount in (one, one / water):
        for target, is_rate in (("mm", False), ("mm/hour", True)):
            if amount.is_compatible_with(target):
                return float(amount.to(target).magnitude), is_rate
    raise ValueError("no depth")


@cache
def _parsed(unit: str, quantity: Quantity | None = None) -> Any:
    """A pint quantity of magnitude 1 (0.1 for ``0.1 mm``), or None where pint can't read it."""
    # It warns of every definition of pint's that CF has otherwise.
    logging.getLogger("pint").setLevel(logging.ERROR)
    # Imported late: a second that only who converts has to wait.
    from cf_xarray.units import units as registry

    text = " ".join(unit.split())
    aliases = (quantity.aliases if quantity is not None else None) or {}
    text = aliases.get(text.lower().strip("°º. "), None) or _SPELLINGS.get(text.lower(), text)
    if len(text) > 60 or not text:
        return None
    try:
        match = re.fullmatch(r"(\d*\.?\d+(?:e-?\d+)?)\s*\*?\s*(\D.*)", text)
        factor, bare = (float(match[1]), match[2]) if match else (1.0, text)
        return registry.Quantity(factor, registry.parse_units(_SPELLINGS.get(bare.lower(), bare)))
    except Exception:  # a stranger's text: pint raises tokenize, syntax, attribute, ... errors
        return None


def _examples(quantity: Quantity) -> str:
    if quantity.key == RAIN:
        return "mm, cm, m, in, 0.1mm, mm/h, 'kg m-2', 'kg m-2 s-1'"
    known = {"K": "K, degC, degF", "Pa": "Pa, hPa, inHg", "m s-1": "m/s, km/h, knot, mph"}
    return known.get(quantity.unit, quantity.unit)


def limits_in(quantity: Quantity, unit: str) -> tuple[float, float]:
    """The quantity's limits in ``unit``; raises InputError for a unit that it can't have."""
    made = conversion(unit, quantity)
    return (quantity.low - made.offset) / made.scale, (quantity.high - made.offset) / made.scale


def most_rain_mm(hours: float) -> float:
    """More than any rain measured over so many hours, mm.

    600 sqrt(hours) lies above all records of the WMO extremes archive: 305 mm in 42 min, 1,144 mm
    in 12 h, 1,825 mm in 24 h, 6,083 mm in 15 days.
    """
    return 600.0 * max(hours, 1.0) ** 0.5
