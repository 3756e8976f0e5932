"""What the answers of every market have in common: which statuses prove nothing, and that no secret is quoted."""

from __future__ import annotations

from tasks.services.run import environment

PROVES_NOTHING = (408, 409, 425, 429)
"""And every 5xx, those of proxies included: the request may have been carried out, or may be the next time."""
KEY_REFUSED, NO_CREDIT, GONE = (401, 403), (402,), (404, 410)
WANDB_KEY = "WANDB_API_KEY"
MAX_TEXT = 300


def redacted(text: str, key: str) -> str:
    """A text without the secrets that this process knows: the market's key, by its variable, and W&B's."""
    for name in (key, WANDB_KEY):
        if secret := environment.get(name):
            text = text.replace(secret, f"<{name}>")
    return text
