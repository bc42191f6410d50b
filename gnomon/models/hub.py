"""Models on the Hugging Face hub: downloaded through huggingface_hub, whose cache, token and mirror settings hold."""

from __future__ import annotations

import os
from pathlib import Path

from gnomon.errors import UserError
from gnomon.models.gguf import EMBEDDED

PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
OTHERS = ["*/*", "consolidated*"]
"""The same weights in other formats, which some repositories hold beside transformers' files."""


def hub_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a hub model's files at a revision, named by its commit; downloaded where it is not there yet.

    UserError: no such model or revision, a gated one, or no way to the hub.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f" at revision {revision!r}" if revision else ""
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=PATTERNS, ignore_patterns=OTHERS))
        if not list(folder.glob("*.safetensors")):
            wanted = [*PATTERNS, "pytorch_model*.bin"]
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=OTHERS))
    except GatedRepoError:
        raise UserError(
            f"the hub model {name!r} is gated", "its licence accepted on the hub", "then `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(f"no model {name!r} on the hub", "owner/name", "or `hf auth login` if it is private") from None
    except RevisionNotFoundError:
        raise UserError(f"the hub model {name!r} has no revision {revision!r}", "a branch, tag or commit") from None
    except HFValidationError:
        raise UserError(f"unknown model {name!r}", f"{', '.join(EMBEDDED)}, a hub id, a folder or .gguf file") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
        why = "HF_HUB_OFFLINE is set" if offline else type(error).__name__
        raise UserError(
            f"the model {name!r}{at} is not on this machine, and the hub cannot be reached ({why})",
            f"a hub id that was downloaded before, a folder, a .gguf file, or {', '.join(EMBEDDED)}",
        ) from None
    if not (folder / "config.json").is_file():
        raise UserError(f"the hub model {name!r} has no config.json", "a transformers model, not only GGUF files")
    return folder
