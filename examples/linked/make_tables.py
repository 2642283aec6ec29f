"""Makes two tables that hang together: customers of a shop, and their orders in time.

python examples/linked/make_tables.py DIR

Customers of a higher tier order more often and for more; regions differ in what they buy; each order of a customer is
some weeks after the one before, and tends to be a little larger.
"""

from __future__ import annotations

import csv
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np

CUSTOMERS = 1500
REGIONS = {"north": 0.5, "south": 0.3, "west": 0.2}
TIERS = {"basic": 0.6, "silver": 0.3, "gold": 0.1}
ORDERS_OF = {"basic": 1.5, "silver": 4.0, "gold": 8.0}
"""Orders of a customer, on average."""
AMOUNT_OF = {"basic": 40.0, "silver": 90.0, "gold": 250.0}
GOODS = {
    "north": {"tent": 0.2, "jacket": 0.6, "boots": 0.2},
    "south": {"tent": 0.5, "jacket": 0.1, "boots": 0.4},
    "west": {"tent": 0.3, "jacket": 0.3, "boots": 0.4},
}


def make(folder: Path, seed: int = 7) -> None:
    """Write customers.csv and orders.csv into a folder: the same each time."""
    chance = np.random.default_rng(seed)
    with (
        (folder / "customers.csv").open("w", newline="") as people,
        (folder / "orders.csv").open("w", newline="") as sales,
    ):
        customers, orders = csv.writer(people), csv.writer(sales)
        customers.writerow(["customer_id", "region", "tier", "birth_year"])
        orders.writerow(["order_id", "customer_id", "ordered_at", "goods", "amount"])
        number = 50_001
        for customer in range(1001, 1001 + CUSTOMERS):
            region, tier = pick(chance, REGIONS), pick(chance, TIERS)
            customers.writerow([customer, region, tier, int(chance.integers(1945, 2006))])
            day = date(2023, 1, 1) + timedelta(days=int(chance.integers(0, 180)))
            for order in range(int(chance.poisson(ORDERS_OF[tier]))):
                amount = AMOUNT_OF[tier] * (1 + 0.1 * order) * chance.lognormal(0, 0.3)
                orders.writerow([number, customer, day.isoformat(), pick(chance, GOODS[region]), round(amount, 2)])
                number += 1
                day += timedelta(days=int(chance.integers(7, 60)))


def pick(chance: np.random.Generator, shares: dict[str, float]) -> str:
    """One of some values, by their shares."""
    return str(chance.choice(list(shares), p=list(shares.values())))


if __name__ == "__main__":
    home = Path(sys.argv[1])
    home.mkdir(parents=True, exist_ok=True)
    make(home)
    print(home / "customers.csv", home / "orders.csv")
