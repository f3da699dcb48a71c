"""A made-up CRM export, the same for the same seed: 11 columns of text, in mixed case and spacing, copies and faults.

    uv run python -m bench.bulk_data --rows 1000000 --out crm.csv

About one row in ten tells of a person again that an earlier row told of; about one value in thirty of an e-mail
address, a phone number or a website is one that no step can read.
"""

import argparse
import csv
import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

COLUMNS = (
    "Record ID", "First Name", "Last Name", "Full Name", "Email", "Phone Number", "Country", "Company Name", "Website",
    "City", "Created",
)  # fmt: skip
COPIES, FAULTS, BLANKS, UNTIDY = 0.10, 0.03, 0.04, 0.25
REMEMBERED = 10_000
"""People that a copy may be of: the latest."""

FIRST = (
    "Ann", "Maria", "José", "Zoë", "Liam", "Noah", "Olivia", "Emma", "Chloé", "Lars", "Søren", "Ingrid", "Björn",
    "Anaïs", "Günther", "Müge", "Yusuf", "Aisha", "Wei", "Ming", "Haruto", "Yuki", "Priya", "Arjun", "Ravi",
    "Fatima", "Omar", "Chidi", "Ngozi", "Thabo", "Lerato", "Pedro", "Inês", "João", "Lucía", "Mateo", "Giulia",
    "Marco", "Pavel", "Jana", "Zofia", "Piotr", "Dmitri", "Olga", "Katya", "Nils", "Freya", "Oisín", "Siobhán",
    "Rhys", "Megan", "Ewan", "Isla", "Hugo", "Élodie", "Bruno", "Karin", "Uwe", "Tariq",
)  # fmt: skip
MIDDLE = (
    "A.", "B.", "J.", "R.", "M.", "Lee", "Jean", "Marie", "van", "de", "Anna", "James", "Rose", "Ali",
)  # fmt: skip
STEM = (
    "Ander", "Berg", "Carl", "Dunn", "East", "Fair", "Gard", "Hart", "Iver", "Jack", "Kings", "Lind", "Mor",
    "Nor", "Olm", "Pet", "Quin", "Ros", "Sand", "Tor", "Ulf", "Vos", "Wal", "Yor", "Zim", "Brook", "Clay", "Dal",
    "Ell", "Fern", "Gran", "Holm", "Ing", "Jar", "Kel", "Lang", "Mil", "New", "Oak", "Pal",
)  # fmt: skip
ENDING = (
    "son", "sen", "ström", "mann", "berg", "er", "ton", "ley", "field", "wood", "ford", "dóttir", "ez", "ov",
    "ova", "ski", "ska", "ini", "eau", "ard", "ett", "by",
)  # fmt: skip
TITLES = ("Dr.", "Mr.", "Mrs.", "Ms.", "Prof.")
SUFFIXES = ("Jr.", "III", "PhD", "MD")
FORMS = ("Ltd", "Inc.", "GmbH", "S.A.", "B.V.", "LLC", "AB", "Pty Ltd", "Group")
TRADES = (
    "Foods", "Labs", "Systems", "Logistics", "Energy", "Motors", "Textiles", "Media", "Health", "Consulting",
    "Robotics", "Marine", "Optics",
)  # fmt: skip
FREE_HOSTS = ("gmail.com", "outlook.com", "yahoo.co.uk", "web.de", "orange.fr", "hotmail.com")
TAILS = ("com", "co.uk", "de", "fr", "io", "com.au", "nl", "se", "org", "es")
BAD_EMAILS = ("n/a", "unknown", "ann@", "@example.org", "a b@c.com", "ann@localhost", "info[at]firm.de", "x@y..com")
BAD_PHONES = ("n/a", "call me", "12", "000", "+999 123", "ext. 4", "0000000000000000000", "-")
BAD_SITES = ("none", "http://", "https://192.168.0.1/", "coming soon", "www.", "ftp://files", "co.uk", "http://a b")
# country, international prefix, cities, and the shapes of its numbers: # is any digit
COUNTRIES = (
    ("US", "+1", ("New York", "Austin", "Portland"), ("(212) 5##-####", "415-55#-####", "3125######")),
    ("GB", "+44", ("London", "Leeds", "Glasgow"), ("020 7### ####", "07700 9#####", "0161 49# ####")),
    ("DE", "+49", ("Berlin", "München", "Köln"), ("030 ########", "0151 ########", "089/#######")),
    ("FR", "+33", ("Paris", "Lyon", "Lille"), ("01 4# ## ## ##", "06 ## ## ## ##", "04.7#.##.##.##")),
    ("AU", "+61", ("Sydney", "Perth", "Hobart"), ("(02) 9### ####", "0412 ### ###", "03 9### ####")),
    ("NL", "+31", ("Utrecht", "Delft", "Zwolle"), ("020 ### ####", "06 ########", "030-#######")),
    ("SE", "+46", ("Malmö", "Umeå", "Lund"), ("08-### ### ##", "070-### ## ##", "031-## ## ##")),
    ("ES", "+34", ("Madrid", "Sevilla", "Bilbao"), ("91# ## ## ##", "6## ### ###", "93#######")),
)


class Person(NamedTuple):
    """What a row tells of, before it is written untidily."""

    first: str
    last: str
    full: str
    email: str
    phone: str
    country: str
    company: str
    website: str
    city: str


def rows(count: int, seed: int) -> Iterator[list[str]]:
    """The rows, each a list of texts in the order of COLUMNS."""
    rng = random.Random(seed)
    known: deque[Person] = deque(maxlen=REMEMBERED)
    for number in range(count):
        if known and rng.random() < COPIES:
            person = known[rng.randrange(len(known))]
        else:
            person = _person(rng)
            known.append(person)
        created = f"20{10 + rng.randrange(15)}-{1 + rng.randrange(12):02}-{1 + rng.randrange(28):02}"
        yield [f"{number:08}", *_untidy(rng, person), created]


def write(path: Path, count: int, seed: int = 1) -> int:
    """Write the CSV file (UTF-8, RFC 4180, header); its size in bytes. Holds one row and what a copy may be of."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows(count, seed))
    return path.stat().st_size


def _person(rng: random.Random) -> Person:
    first = rng.choice(FIRST)
    last = rng.choice(STEM) + rng.choice(STEM).lower() + rng.choice(ENDING)
    parts = [first, rng.choice(MIDDLE), last] if rng.random() < 0.3 else [first, last]
    if rng.random() < 0.08:
        parts.insert(0, rng.choice(TITLES))
    if rng.random() < 0.05:
        parts.append(rng.choice(SUFFIXES))
    name = rng.choice(STEM) + rng.choice(ENDING)
    host = f"{_ascii(name)}{rng.randrange(400)}.{rng.choice(TAILS)}"
    country, prefix, cities, shapes = rng.choice(COUNTRIES)
    at = rng.choice(FREE_HOSTS) if rng.random() < 0.3 else host
    local = f"{_ascii(first)}.{_ascii(last)}{rng.randrange(1000)}"
    return Person(
        first, last, " ".join(parts),
        f"{local}@{at}",
        _phone(rng, prefix, rng.choice(shapes)),
        country,
        f"{name} {rng.choice(TRADES)} {rng.choice(FORMS)}",
        rng.choice(("https://www.{}/", "http://{}/about", "{}", "www.{}", "HTTPS://{}/?utm=1")).format(host),
        rng.choice(cities),
    )  # fmt: skip


def _phone(rng: random.Random, prefix: str, shape: str) -> str:
    digits = "".join(str(rng.randrange(10)) if mark == "#" else mark for mark in shape)
    return digits if rng.random() < 0.6 else f"{prefix} {digits.lstrip('0')}"


def _untidy(rng: random.Random, person: Person) -> list[str]:
    """The person's values as somebody typed them."""
    values = [_typed(rng, value) for value in person]
    for at, bad in ((3, BAD_EMAILS), (4, BAD_PHONES), (7, BAD_SITES)):
        chance = rng.random()
        if chance < FAULTS:
            values[at] = rng.choice(bad)
        elif chance < FAULTS + BLANKS:
            values[at] = ""
    values[5] = person.country
    return values


def _typed(rng: random.Random, text: str) -> str:
    chance = rng.random()
    if chance > UNTIDY:
        return text
    if chance < UNTIDY / 3:
        return text.upper()
    return text.lower() if chance < UNTIDY * 2 / 3 else f" {text} "


def _ascii(text: str) -> str:
    return "".join(mark for mark in text.lower() if mark.isascii() and mark.isalnum()) or "x"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    print(write(arguments.out, arguments.rows, arguments.seed), "bytes")


if __name__ == "__main__":
    main()
