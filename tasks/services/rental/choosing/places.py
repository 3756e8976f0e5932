"""Names of countries and regions, as a machine may be asked for."""

import difflib
from functools import cache
from importlib.resources import files

from ups_models.errors import BadInput
from ups_models.wording import shown

REGIONS = {
    "africa": "DZ EG KE MA NG TN ZA",
    "asia": "AE CN GE HK ID IL IN IR JP KR KZ MO MY PH PK QA SA SG TH TR TW UZ VN",
    "europe": "AL AT BA BE BG BY CH CY CZ DE DK EE ES FI FR GB GR HR HU IE IS IT LI LT LU LV MC MD ME MK MT NL NO PL "
    "PT RO RS RU SE SI SK UA XK",
    "eu": "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK",
    "north_america": "CA MX US",
    "south_america": "AR BO BR CL CO EC PE PY UY VE",
    "oceania": "AU NZ",
}
"""Regions by the countries of ISO 3166 in which machines are rented out."""


def countries_of(names: str) -> tuple[str, ...]:
    """The countries, two letters each, of a comma-separated list of countries and regions. Raises BadInput."""
    found: list[str] = []
    for name in names.split(","):
        key = name.strip().lower().replace(" ", "_").replace("-", "_")
        if key in REGIONS:
            found += REGIONS[key].split()
        elif key.upper() in _countries().values():
            found.append(key.upper())
        elif key in _countries():
            found.append(_countries()[key])
        else:
            near = difflib.get_close_matches(key, [*REGIONS, *_countries()], 1)
            hint = f"did you mean {near[0]}?" if near else f"give a country, or {', '.join(REGIONS)}"
            raise BadInput(f"--region {shown(name.strip())}: is not known; {hint}")
    return tuple(dict.fromkeys(found))


@cache
def _countries() -> dict[str, str]:
    """The two letters of every country by its name, of ISO 3166 as the time zone database has it."""
    lines = (files("tzdata") / "zoneinfo" / "iso3166.tab").read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return {name.lower().replace(" ", "_").replace("-", "_"): code for code, name in rows}
