"""Persons and addresses that are not real, by `faker`, in the form of a locale.

faker is asked for one small thing at a time, by a generator that was seeded for this row and column alone: 0.1 ms a
person. Its names differ between its versions, which is why the version is pinned.
"""

from __future__ import annotations

import random
import threading
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

if TYPE_CHECKING:
    from workers.columns.kinds import Address, Person

MAIL_DOMAINS = ("example.com", "example.net", "example.org")
"""Reserved for examples by RFC 2606, so that no address is anybody's."""
_turn = threading.Lock()
"""A generator is seeded and asked by one thread at a time; shards share them."""


def locales() -> frozenset[str]:
    """Locales that persons and addresses may have."""
    from faker.config import AVAILABLE_LOCALES  # noqa: PLC0415 - 0.1 s, and few plans have persons

    return frozenset(AVAILABLE_LOCALES)


def person_of(person: Person, seed: int) -> JsonValue:
    """A person of 9 fields; the same seed makes the same one."""
    choose = random.Random(seed + 1)  # noqa: S311 - no secret. faker's own stream has the seed: the two would go in step
    gender = choose.choice(("female", "male"))
    with _turn:
        fake = _generator(person.locale)
        fake.seed_instance(seed)
        female = gender == "female"
        first = _plain(fake.first_name_female() if female else fake.first_name_male())
        last = _plain(fake.last_name_female() if female else fake.last_name_male())
        phone = _plain(fake.phone_number()) if hasattr(fake, "phone_number") else None
        job, company = _plain(fake.job()), _plain(fake.company())
        nickname = _plain(fake.ascii_safe_email()).partition("@")[0]
    return {
        "first_name": first,
        "last_name": last,
        "name": f"{last}{first}" if _is_east_asian(first) else f"{first} {last}",
        "gender": gender,
        "age": choose.randint(person.min_age, person.max_age),
        "email": f"{_mailbox(first, last) or nickname}@{choose.choice(MAIL_DOMAINS)}",
        "phone": phone,
        "job": job,
        "company": company,
    }


def address_of(address: Address, seed: int) -> JsonValue:
    """An address of 3 fields; the same seed makes the same one."""
    with _turn:
        fake = _generator(address.locale)
        fake.seed_instance(seed)
        street, postcode, city = _plain(fake.street_address()), _plain(fake.postcode()), _plain(fake.city())
    return {"street": street, "postcode": postcode, "city": city}


@lru_cache(maxsize=256)  # there are about a hundred locales
def _generator(locale: str) -> Any:  # noqa: ANN401 - its methods are those of the locale's providers
    from faker import Factory  # noqa: PLC0415 - 0.1 s, and few plans have persons

    return Factory.create(locale)


def _plain(text: object) -> str:
    return str(text).replace("\n", ", ")


def _mailbox(first: str, last: str) -> str | None:
    """`anna.mueller` of a name in Latin letters; None of any other."""
    folded = f"{first}.{last}".casefold().replace("ä", "ae").replace("ö", "oe").replace("ü", "ue").replace("ß", "ss")
    text = unicodedata.normalize("NFKD", folded).encode("ascii", "ignore").decode().replace(" ", "-").replace("'", "")
    letters = [part for part in text.split(".") if part.strip("-")]
    return ".".join(letters) if len(letters) == 2 and text.replace("-", "").replace(".", "").isalnum() else None


def _is_east_asian(text: str) -> bool:
    """Whether a name is written as Chinese, Japanese and Korean ones are: the family's first, without a space."""
    return bool(text) and all(unicodedata.east_asian_width(letter) == "W" for letter in text)
