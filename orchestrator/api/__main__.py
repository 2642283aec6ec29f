"""`python -m orchestrator.api`: serves the app on NIGHTMILL_HOST and NIGHTMILL_PORT."""

from __future__ import annotations

import logging
import sys

import uvicorn

from orchestrator.api.app import create_app
from orchestrator.api.services import Services
from orchestrator.database import DatabaseError
from orchestrator.settings import Settings
from workers.settings import SettingsError, load_settings
from workers.store import StoreError

GOODBYE_SECONDS = 2
"""How long those who watch a job are waited for when the service ends; they come back by themselves."""


def main() -> None:
    """Serve until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load_settings(Settings)
        services = Services.open(settings)
    except (SettingsError, DatabaseError, StoreError) as error:
        sys.exit(f"nightmill api: {error}")
    uvicorn.run(
        create_app(services),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GOODBYE_SECONDS,
    )


if __name__ == "__main__":
    main()
