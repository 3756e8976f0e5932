"""Enabling our plugin of Prefect's command line in the user's active profile."""

from prefect.context import get_settings_context
from prefect.settings import load_profiles, update_current_profile

NAME = "ups"
ENABLED, ALLOW = "PREFECT_PLUGINS_ENABLED", "PREFECT_PLUGINS_ALLOW"


def active_profile() -> str:
    """The name of the profile that Prefect's commands use here."""
    return get_settings_context().profile.name


def enable_short_names() -> None:
    """Let the active profile load our plugin, beside those that it allows already."""
    settings = load_profiles()[active_profile()].to_environment_variables()
    allowed = [name for name in settings.get(ALLOW, "").split(",") if name]
    update_current_profile({ENABLED: "true", ALLOW: ",".join(dict.fromkeys([*allowed, NAME]))})
